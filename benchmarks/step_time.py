"""What SI costs: time per step of `fit` with SI over plain `fit`.

Both train the same net on the same data, interleaved in one process, epoch
by epoch, so that what else the machine does hits both alike:

    python benchmarks/step_time.py
    KERAS_BACKEND=jax python benchmarks/step_time.py

Under JAX, which compiles every step or none, there is no `jit_compile=False`;
it uses the GPU where there is one. SI is measured after its first
consolidation, when it has a penalty to pay. Prints a table; asserts nothing.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_si import SICallback

STEPS = 20


class EpochTimer(keras.callbacks.Callback):
    """Seconds of each epoch, from its first step to its last."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def mlp():
    """The paper's permuted MNIST net."""
    return [784], [
        keras.layers.Dense(2000, activation="relu"),
        keras.layers.Dense(2000, activation="relu"),
        keras.layers.Dense(10),
    ]


def conv():
    """A small convolutional net."""
    return [32, 32, 3], [
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dense(10),
    ]


def compile_classifier(model, jit_compile):
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )


def device():
    """Returns the backend, and what it runs on."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return f"{backend} on {jax.devices()[0].device_kind}"
    devices = keras.distribution.list_devices()
    return f"{backend} on {devices[0] if devices else 'cpu'}"


class Contender:
    """One model, trained an epoch at a time."""

    def __init__(self, net, batch_size, jit_compile, si):
        keras.utils.set_random_seed(0)
        shape, layers = net()
        rng = np.random.default_rng(0)
        count = STEPS * batch_size
        self.x = rng.random((count, *shape), dtype="float32")
        self.y = rng.integers(0, 10, count)
        self.batch_size = batch_size
        self.model = keras.Sequential([keras.Input(shape), *layers])
        compile_classifier(self.model, jit_compile)
        self.timer = EpochTimer()
        self.callbacks = [self.timer]
        if si:
            self.callbacks.insert(0, SICallback())
        self.milliseconds = []

    def epoch(self):
        self.model.fit(
            self.x,
            self.y,
            batch_size=self.batch_size,
            callbacks=self.callbacks,
            verbose=0,
        )
        return 1e3 * self.timer.seconds[0] / STEPS


def measure(name, net, batch_size, jit_compile, rounds):
    contenders = {
        "plain": Contender(net, batch_size, jit_compile, si=False),
        "SI": Contender(net, batch_size, jit_compile, si=True),
    }
    for contender in contenders.values():
        contender.epoch()  # traces and compiles
        contender.epoch()  # SI: the first fit with importance
    for _ in range(rounds):
        for contender in contenders.values():
            contender.milliseconds.append(contender.epoch())
    plain, si = (np.array(c.milliseconds) for c in contenders.values())
    print(
        f"{name:<12}{batch_size:>6}{jit_compile!s:>7}"
        f"{plain.min():>10.1f}{np.median(plain):>8.1f}"
        f"{si.min():>10.1f}{np.median(si):>8.1f}"
        f"{si.min() / plain.min():>10.3f}"
        f"{np.median(si) / np.median(plain):>8.3f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--only", choices=["mlp", "mlp-1024", "conv"], action="append"
    )
    options = parser.parse_args()
    only = options.only or ["mlp", "mlp-1024", "conv"]
    always_compiled = keras.backend.backend() == "jax"
    print(device())
    print(f"{'':<25}{'plain ms/step':>18}{'SI ms/step':>18}{'SI / plain':>18}")
    print(
        f"{'net':<12}{'batch':>6}{'jit':>7}{'min':>10}{'median':>8}"
        f"{'min':>10}{'median':>8}{'min':>10}{'median':>8}"
    )
    if "mlp" in only:
        if not always_compiled:
            measure("2x2000 MLP", mlp, 256, False, options.rounds)
        measure("2x2000 MLP", mlp, 256, True, options.rounds)
    if "mlp-1024" in only:
        measure("2x2000 MLP", mlp, 1024, always_compiled, options.rounds)
    if "conv" in only:
        measure("small conv", conv, 128, always_compiled, options.rounds)


if __name__ == "__main__":
    main()
