"""What grows with the number of tasks of `keras-si run`: nothing should.

Runs permuted images with SI through the command line's own runner, all that a
run writes included, and shows for each of a few tasks the time of a training
step and of an evaluation, the memory in use, and how many files the process
holds open:

    python benchmarks/long_run.py

The net and the images are small: what is measured is what a run adds to
`fit`, `memory.py` having the paper's net. After task t the net is tested on
t + 1 tasks, so that 200 tasks make 20,000 evaluations. Time is the
processor's, so that it does not matter what else is running; that of a step
holds a share of what a `fit` takes to begin.
Prints a table; asserts nothing.
"""

import argparse
import tempfile
import time

# Sets the environment before Keras is imported.
import memory
import numpy as np
from keras_si_cli.experiments import config
from keras_si_cli.training import progress, start

WARM = 20


class Table(progress.Progress):
    """Hears how the run goes; prints a row for some of its tasks."""

    def __init__(self, shown, last):
        super().__init__(quiet=True)
        self._shown = {*shown, WARM, last}
        self._warm = None

    def task_started(self, config, trial, task):
        self._started = time.process_time()
        self._steps = 0

    def step(self, epoch, logs, share):
        self._steps += 1

    def evaluating(self):
        self._trained = time.process_time()

    def task_ended(self, trial, task, seconds):
        ended = time.process_time()
        task += 1
        used = memory.resident_bytes() or memory.peak_bytes()
        if task == WARM:
            self._warm = used
        if task not in self._shown:
            return
        tested = min(task + 1, len(trial.accuracy))
        growth = f"{100 * (used / self._warm - 1):+.1f}" if self._warm else ""
        print(
            f"{task:>5}"
            f"{1e3 * (self._trained - self._started) / self._steps:>10.1f}"
            f"{1e3 * (ended - self._trained) / tested:>16.1f}"
            f"{used / memory.MIB:>9.1f}{growth:>9}"
            f"{memory.open_files():>7}",
            flush=True,
        )


def small_data(images=200, side=6):
    """Two classes: bright above, or bright below."""
    from keras_si_cli.experiments import data

    rng = np.random.default_rng(0)
    labels = np.arange(images, dtype="int32") % 2
    pixels = rng.integers(0, 80, (images, side, side, 1), "uint8")
    pixels[labels == 0, : side // 2] += 120
    pixels[labels == 1, side // 2 :] += 120
    split = data.Split(pixels, labels)
    return data.Data("small", 2, split, split)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--method", default="si")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--show",
        type=int,
        nargs="*",
        default=[1, 2, 10, 50, 100, 150],
        metavar="TASK",
        help=f"Tasks to show, counted from 1; {WARM} and the last always are.",
    )
    options = parser.parse_args()
    start.import_quietly()
    from keras_si_cli.training import runner

    print(
        f"{'task':>5}{'ms/step':>10}{'ms/evaluation':>16}{'MiB':>9}"
        f"{'% more':>9}{'files':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        chosen = config.resolve(
            "pmnist",
            "quick",
            {
                "methods": (options.method,),
                "tasks": options.tasks,
                "steps": options.steps,
                "batch_size": 100,
                "hidden": (8,),
            },
        )
        runner.run(
            chosen,
            folder,
            progress=Table(options.show, options.tasks),
            dataset=small_data(),
        )


if __name__ == "__main__":
    main()
