"""Does a `fit` end when its last step does? Seconds between the two.

Prints a table and asserts nothing:

    python benchmarks/end_of_fit.py [--steps 100] [--rounds 6]

An iterator of tf.data that ends waits for the thread that tunes it. That
sleeps ever longer, up to a minute, and may be woken too early: `fit` then
stands still, once for each iterator. Keras makes one an epoch from arrays.
The same plain training, by turns with the tuning that tf.data has by default
and without it; on CPUs, where a step is over when it returns.
"""

import argparse
import statistics
import time

# Sets the environment before Keras is imported.
import step_time  # isort: skip
import keras
import numpy as np
import tensorflow as tf

BATCH_SIZE = 256


class LastStep(keras.callbacks.Callback):
    """When the last step so far was over."""

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.perf_counter()


def pipeline(steps, autotune):
    options = tf.data.Options()
    options.autotune.enabled = autotune
    rng = np.random.default_rng(0)
    x = rng.random((BATCH_SIZE, 784), dtype="float32")
    y = rng.integers(0, 10, BATCH_SIZE)
    batches = tf.data.Dataset.from_tensors((x, y)).repeat(steps)
    batches = batches.map(lambda x, y: (x, y), tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()

    shape, layers = step_time.mlp()
    model = keras.Sequential([keras.Input(shape), *layers])
    step_time.compile_classifier(model, "auto")
    last_step = LastStep()

    def fit(autotune):
        started = time.perf_counter()
        model.fit(
            pipeline(args.steps, autotune),
            callbacks=[last_step],
            shuffle=False,
            verbose=0,
        )
        ended = time.perf_counter()
        return last_step.ended - started, ended - last_step.ended

    fit(True)  # Traces.
    measured = {True: [], False: []}
    for _ in range(args.rounds):
        for autotune, times in measured.items():
            times.append(fit(autotune))
    print(f"{'':<16}{'steps, s':>10}{'wait after them, s':>28}")
    print(f"{'autotuning':<16}{'median':>10}{'median':>18}{'max':>10}")
    for autotune, times in measured.items():
        steps, waits = zip(*times, strict=True)
        print(
            f"{'on' if autotune else 'off':<16}"
            f"{statistics.median(steps):>10.2f}"
            f"{statistics.median(waits):>18.2f}{max(waits):>10.2f}"
        )


if __name__ == "__main__":
    main()
