"""What SI costs in whole `fit`s: the first of a net, and each later one.

Prints the processor seconds of every `fit`, with SI and without by turns, in
new nets; asserts nothing:

    python benchmarks/whole_fits.py [--fits 4] [--steps 235] [--rounds 3]

With `--steps 1` a `fit` is all that is beside the steps: tracing, compiling,
attaching, and the end of the task.
"""

import argparse
import time

# Sets the environment before Keras is imported.
import step_time  # isort: skip
import keras
import numpy as np

from keras_si import SICallback

BATCH_SIZE = 256


def seconds_of_fits(x, y, fits, callbacks):
    """Returns the processor seconds of each `fit` of a new net."""
    keras.utils.set_random_seed(0)
    shape, layers = step_time.mlp()
    model = keras.Sequential([keras.Input(shape), *layers])
    step_time.compile_classifier(model, jit_compile=False)
    seconds = []
    for _ in range(fits):
        start = time.process_time()
        model.fit(x, y, BATCH_SIZE, callbacks=callbacks, verbose=0)
        seconds.append(time.process_time() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=4)
    parser.add_argument("--steps", type=int, default=235)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    x = rng.random((args.steps * BATCH_SIZE, 784), dtype="float32")
    y = rng.integers(0, 10, len(x))
    print(f"{'round':>5}{'':>7}{'first':>8}{'later':>8}{'all':>8}")
    for number in range(1, args.rounds + 1):
        for name, callbacks in ("plain", []), ("SI", [SICallback(10.0)]):
            seconds = seconds_of_fits(x, y, args.fits, callbacks)
            print(
                f"{number:>5}{name:>7}{seconds[0]:>8.2f}"
                f"{np.mean(seconds[1:] or seconds):>8.2f}{sum(seconds):>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
