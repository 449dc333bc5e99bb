"""Whether a long life in one process stays cheap: many small tasks.

Trains one model with one `SICallback` on 200 tasks, and prints every 20 tasks
what the process holds and what a step takes:

    python benchmarks/long_run.py

Memory, time, traces and open files should not grow. Prints a table; asserts
nothing.
"""

import argparse
import gc
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_si import SICallback

EXAMPLES = 2560
BATCH_SIZE = 256
STEPS = 5 * EXAMPLES // BATCH_SIZE


def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class TraceCounter(keras.layers.Layer):
    """Passes its input on; counts how often it is traced."""

    traces = 0

    def call(self, x):
        self.traces += 1
        return x


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            counter := TraceCounter(),
            keras.layers.Dense(400, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    si = SICallback()
    rng = np.random.default_rng(0)
    x = rng.random((EXAMPLES, 784), dtype="float32")
    y = rng.integers(0, 10, EXAMPLES)
    print(
        f"{'task':>5}{'memory MiB':>12}{'ms/step':>9}{'traces':>8}{'files':>7}"
    )
    milliseconds = []
    for task in range(1, options.tasks + 1):
        pixels = x[:, rng.permutation(784)]
        start = time.perf_counter()
        model.fit(
            pixels,
            y,
            batch_size=BATCH_SIZE,
            epochs=5,
            callbacks=[si],
            verbose=0,
        )
        milliseconds.append(1e3 * (time.perf_counter() - start) / STEPS)
        if task % options.every == 0:
            gc.collect()
            print(
                f"{task:>5}{resident_megabytes():>12.1f}"
                f"{np.median(milliseconds):>9.2f}{counter.traces:>8}"
                f"{len(os.listdir('/proc/self/fd')):>7}",
                flush=True,
            )
            milliseconds = []


if __name__ == "__main__":
    main()
