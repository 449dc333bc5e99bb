"""What becomes of permuted MNIST when there are 50 tasks, not 10.

What is forgotten shows in the average accuracy on the tasks learned so far,
what can no longer be learned in the accuracy on the newest one. The net and
the options of the `quick` preset, with other strengths:

    python benchmarks/long_stream.py run FOLDER --method si --strength C
    python benchmarks/long_stream.py figure FOLDER FOLDER --output stream.png

`run` is `keras-si run pmnist --tasks 50`, which writes the same `results.json`.
It also writes `cost.json`: of each task the time of a training step and of an
evaluation, and the memory in use. Time is the processor's, summed over cores,
so that it does not matter what else is running. A folder that has a part of a
run is continued. With `--decay`, importance shrinks by that factor at each
task's end, before the new one is added, as in the online EWC of Schwarz et al.
2018; keras-si does not have that. `figure` draws both accuracies of the runs.
"""

import argparse
import contextlib
import pathlib
import shlex
import sys
import time

# Sets the environment before Keras is imported.
import memory  # isort: skip
import numpy as np
from keras_si_cli import files
from keras_si_cli.experiments import config
from keras_si_cli.results import figures
from keras_si_cli.results.results import Results
from keras_si_cli.training import checkpoint, progress, runner, start
from keras_si_cli.training import folder as folders
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from keras_si import equations

COST = "cost.json"


@contextlib.contextmanager
def decaying(factor):
    """Lets SI forget importance: Omega <- relu(factor * Omega + ...).

    This reaches into what is private to keras-si, for a trial alone.
    """
    consolidate = equations.consolidate

    def consolidate_decayed(importance, *others):
        return consolidate(factor * importance, *others)

    equations.consolidate = consolidate_decayed
    try:
        yield
    finally:
        equations.consolidate = consolidate


class Cost(progress.Progress):
    """Shows a line a task, and keeps what the task has cost.

    Args:
        path: The JSON file.
        decay: The factor, for the file.
    """

    def __init__(self, path, decay):
        super().__init__()
        self._path = path
        self._record = {"decay": decay, "tasks": []}
        if path.exists():
            self._record = files.read_json(path)
            if self._record["decay"] != decay:
                raise SystemExit(
                    f"{path} is of a run with --decay "
                    f"{self._record['decay']}; name another folder"
                )
        self._is_first = True

    def task_started(self, config, trial, task):
        super().task_started(config, trial, task)
        self._started = self._trained = time.process_time()
        self._steps = 0

    def step(self, epoch, logs, share):
        super().step(epoch, logs, share)
        self._steps += 1

    def evaluating(self):
        super().evaluating()
        self._trained = time.process_time()

    def task_ended(self, trial, task, seconds):
        super().task_ended(trial, task, seconds)
        ended = time.process_time()
        resident = memory.resident_bytes() or memory.peak_bytes()
        tested = min(task + 2, len(trial.accuracy))
        step = (self._trained - self._started) / max(self._steps, 1)
        cost = {
            "task": task + 1,
            # Compiling, too, where a process begins.
            "first_of_its_process": self._is_first,
            "ms_per_step": round(1e3 * step, 2),
            "ms_per_evaluation": round(
                1e3 * (ended - self._trained) / tested, 2
            ),
            "mib": round(resident / memory.MIB, 1),
            "peak_mib": round(memory.peak_bytes() / memory.MIB, 1),
        }
        self._is_first = False
        known = [c for c in self._record["tasks"] if c["task"] <= task]
        self._record["tasks"] = [*known, cost]
        files.write_json(self._path, self._record)


def run(options, folder):
    """Trains, or continues, and writes into the folder."""
    given = {
        "methods": (options.method,),
        "strength": options.strength,
        "precision": options.precision,
        "tasks": options.tasks,
        "steps": options.steps,
        "hidden": options.hidden and tuple(options.hidden),
    }
    chosen = config.resolve("pmnist", "quick", given)
    with folders.locked_folder(folder, resume=True):
        begun, _ = checkpoint.find(folder, chosen)
        if begun.results is not None and begun.results.is_over:
            print(f"{folder} is complete")
            return
        with (
            decaying(1.0 if options.decay is None else options.decay),
            Cost(folder / COST, options.decay) as shown,
        ):
            runner.run(
                chosen,
                folder,
                progress=shown,
                begun=begun,
                command=shlex.join(["python", *sys.argv]),
            )


def label(results, cost):
    """Returns what a run is called: its method, c or lambda, and decay."""
    (method,) = results.methods
    name = figures.method_name(method)
    if method != "naive":
        symbol = "λ" if method == "ewc" else "c"
        name += f", {symbol} = {results.config['strength']:g}"
    if cost["decay"] is not None:
        name += f", decay {cost['decay']:g}"
    return name


def figure(runs):
    """Draws both accuracies over the number of tasks; a line a run."""
    drawn = Figure(figsize=(9, 4.4), layout="constrained")
    average, newest = drawn.subplots(1, 2, sharey=True)
    lowest = 1.0
    for results, cost in runs:
        (trial,) = results.trials
        count = trial.tasks_done
        tasks = np.arange(1, count + 1)
        learned = np.diag(trial.accuracy)[:count]
        means = trial.average_accuracy[:count]
        every = max(1, len(trial.accuracy) // 10)
        for axes, values in ((average, means), (newest, learned)):
            axes.plot(
                *(tasks, values),
                label=label(results, cost),
                markersize=4,
                markevery=every,
            )
        lowest = min(lowest, np.min(means), np.min(learned))
    average.set_title("all tasks learned so far, average")
    newest.set_title("the newest task")
    for axes in (average, newest):
        axes.set_xlabel("number of tasks learned")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(figures.full_ten_percent([[lowest]]), 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    average.set_ylabel("accuracy")
    handles, names = average.get_legend_handles_labels()
    drawn.legend(
        *(handles, names),
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    drawn.suptitle(f"permuted MNIST, {len(trial.accuracy)} tasks")
    return drawn


def table(runs):
    """Returns accuracy and cost of the runs after some tasks, in Markdown."""
    lines = [
        "| | tasks | average | newest | ms/step | ms/evaluation | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for results, cost in runs:
        (trial,) = results.trials
        count = trial.tasks_done
        newest = np.diag(trial.accuracy)
        # After these many; the first tasks hold the compiling.
        for done in sorted({min(n, count) for n in (2, 10, 20, 30, 40, count)}):
            of = cost["tasks"][done - 1]
            cells = [
                label(results, cost),
                f"{done}",
                f"{100 * trial.average_accuracy[done - 1]:.2f}",
                f"{100 * newest[done - 1]:.2f}",
                f"{of['ms_per_step']:.1f}",
                f"{of['ms_per_evaluation']:.1f}",
                f"{of['mib']:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("folder", type=pathlib.Path)
    runs.add_argument("--method", default="si")
    runs.add_argument("--strength", type=float)
    runs.add_argument("--decay", type=float)
    runs.add_argument("--precision")
    runs.add_argument("--tasks", type=int, default=50)
    runs.add_argument("--steps", type=int, help="steps a task; a small trial")
    runs.add_argument("--hidden", type=int, nargs="+")
    draws = commands.add_parser("figure")
    draws.add_argument("folders", type=pathlib.Path, nargs="+")
    draws.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    start.import_quietly()
    if options.what == "run":
        run(options, options.folder)
        drawn = [options.folder]
    else:
        drawn = options.folders
    loaded = [
        (Results.load(folder), files.read_json(folder / COST))
        for folder in drawn
    ]
    print(table(loaded))
    if options.what == "figure":
        with rc_context(figures.STYLE):
            figures.save(figure(loaded), options.output)


if __name__ == "__main__":
    main()
