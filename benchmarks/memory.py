"""What grows with the number of tasks: nothing should.

Trains the paper's net with SI on one task after another, and shows for each
of a few tasks the time per step, the memory in use and its peak up to then,
how often the model was traced, and how many files the process holds open:

    python benchmarks/memory.py
    KERAS_BACKEND=jax python benchmarks/memory.py

Peak memory is the accelerator's where there is one, else the process's.
Prints a table; asserts nothing.
"""

import argparse
import os
import resource
import sys

# Sets the environment before Keras is imported.
import step_time  # isort: skip
import keras
import numpy as np

from keras_si import SICallback

MIB = 2**20


class Traces(keras.layers.Layer):
    """Passes its input on; counts how often it is traced."""

    count = 0

    def call(self, x):
        Traces.count += 1
        return x


def peak_bytes():
    """Returns the most memory that was in use since the process began."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    elif keras.backend.backend() == "jax":
        import jax

        statistics = jax.local_devices()[0].memory_stats()
        if statistics:
            return statistics["peak_bytes_in_use"]
    elif keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    # macOS counts bytes, Linux KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes():
    """Returns the process's memory in use, or `None` where nobody tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def open_files():
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument(
        "--show",
        type=int,
        nargs="*",
        default=[1, 2, 10, 20, 50, 100, 150, 200],
        metavar="TASK",
        help="Tasks to show, counted from 1; the last one always is.",
    )
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    shape, layers = step_time.mlp()
    model = keras.Sequential([keras.Input(shape), Traces(), *layers])
    step_time.compile_classifier(model, "auto")
    parameters = 4 * model.count_params() / MIB
    si, timer = SICallback(), step_time.EpochTimer()
    rng = np.random.default_rng(0)
    count = step_time.STEPS * options.batch_size
    x = rng.random((count, *shape), dtype="float32")
    y = rng.integers(0, 10, count)
    print(step_time.device())
    print(f"parameters: {parameters:.1f} MiB")
    print(
        f"{'task':>5}{'ms/step':>10}{'MiB':>8}{'peak MiB':>10}{'traces':>8}"
        f"{'files':>7}"
    )
    for task in range(1, options.tasks + 1):
        permutation = rng.permutation(shape[0])
        model.fit(
            x[:, permutation],
            y,
            batch_size=options.batch_size,
            callbacks=[si, timer],
            verbose=0,
        )
        if task in options.show or task == options.tasks:
            milliseconds = 1e3 * timer.seconds[0] / step_time.STEPS
            memory = resident_bytes()
            memory = "-" if memory is None else f"{memory / MIB:.0f}"
            print(
                f"{task:>5}{milliseconds:>10.1f}{memory:>8}"
                f"{peak_bytes() / MIB:>10.0f}{Traces.count:>8}"
                f"{open_files():>7}",
                flush=True,
            )


if __name__ == "__main__":
    main()
