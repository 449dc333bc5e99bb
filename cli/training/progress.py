"""What is shown of a run: a bar in a terminal, lines when piped; its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from ..files import Record

if TYPE_CHECKING:
    from ..experiments.config import RunConfig
    from ..results.results import Results, Trial


class Progress:
    """A bar with loss, accuracy and time left, and a line for each task.

    Where the standard output is no terminal, the lines alone; if `quiet`,
    nothing. The bar counts tasks: each training step moves it by a fraction.
    """

    def __init__(self, quiet: bool = False) -> None:
        console = Console(highlight=False, quiet=quiet)
        self._progress = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            # Drawing takes time from the training; nobody reads faster.
            refresh_per_second=5,
            # Each task brings its evaluation: look at more than one task.
            speed_estimate_period=120,
            transient=True,
            expand=True,
        )
        self._bar = self._progress.add_task(
            "starting TensorFlow", total=None, numbers=""
        )
        self._where, self._tasks_done = "", 0

    def __enter__(self) -> Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def loading(self, dataset: str) -> None:
        self._progress.update(self._bar, description=f"loading {dataset}")

    def started(self, tasks: int, done: int) -> None:
        self._tasks_done = done
        self._progress.update(self._bar, total=tasks, completed=done)

    def task_started(self, config: RunConfig, trial: Trial, task: int) -> None:
        seeded = f" seed {trial.seed}" if config.seeds > 1 else ""
        self._where = f"{trial.method}{seeded} task {task + 1}/{config.tasks}"
        self._progress.update(self._bar, description=self._where, numbers="")

    def step(self, epoch: int, logs: Record, share: float) -> None:
        """A step has ended, so large a part of the task's training."""
        numbers = f"loss {logs['loss']:.3f}" if "loss" in logs else ""
        if "accuracy" in logs:
            numbers += f" acc {100 * logs['accuracy']:.1f} %"
        self._progress.update(
            self._bar,
            advance=share,
            description=f"{self._where} epoch {epoch + 1}",
            numbers=numbers,
        )

    def evaluating(self) -> None:
        self._progress.update(
            self._bar, description=f"{self._where} evaluating"
        )

    def task_ended(self, trial: Trial, task: int, seconds: float) -> None:
        self._tasks_done += 1
        self._progress.update(self._bar, completed=self._tasks_done)
        line = (
            f"{trial.method:<9} seed {trial.seed}  "
            f"task {task + 1:>2}/{len(trial.accuracy)}  "
            f"this task {100 * trial.accuracy[task, task]:6.2f} %  "
            f"average {100 * trial.average_accuracy[task]:6.2f} %  "
            f"{seconds:6.1f} s"
        )
        self._progress.console.print(Text(line), soft_wrap=True)


def show(results: Results, folder: str) -> None:
    """Prints the table of a run, its notes and where its files are."""
    from ..results import tables

    # What the user has named is text: not markup, and no :emoji: either.
    console = Console(highlight=False)
    console.print(Text(f"\n{tables.accuracy_title(results)}"))
    console.print(tables.accuracy_table(results))
    console.print()
    for line in tables.notes(results):
        console.print(Text(line))
    console.print(Text(f"results and figures: {folder}"), soft_wrap=True)
