"""What is shown while a run goes: a live display, or a line for each task."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..files import Record
from .observer import Observer

if TYPE_CHECKING:
    from ..experiments.config import RunConfig
    from ..results.results import Trial

# Drawing takes time from the training, and nobody reads faster than this.
REFRESH_PER_SECOND = 5


def observer() -> LiveProgress | LineProgress:
    """Returns a live display if there is a terminal, else plain lines."""
    # The standard output first: the error output is held back while
    # TensorFlow starts.
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            return LiveProgress(Console(file=stream, highlight=False))
    return LineProgress()


def task_line(run: Trial, task: int, seconds: float) -> str:
    """Says in one line what a task has brought."""
    return (
        f"{run.method:<7} seed {run.seed}  "
        f"task {task + 1:>2}/{len(run.accuracy)}  "
        f"this task {100 * run.accuracy[task, task]:6.2f} %  "
        f"average {100 * run.average_accuracy[task]:6.2f} %  "
        f"{seconds:6.1f} s"
    )


class LineProgress(Observer):
    """A line for each task, for files and pipes."""

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def notice(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr, flush=True)

    def task_ended(self, run: Trial, task: int, seconds: float) -> None:
        # Flushed, so that a file can be watched.
        print(task_line(run, task, seconds), flush=True)


class LiveProgress(Observer):
    """One live display: where the run is, loss, accuracy, time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            refresh_per_second=REFRESH_PER_SECOND,
            # Each task brings its evaluation: look at more than one task.
            speed_estimate_period=120,
            transient=True,
            expand=True,
        )
        self._bar = self._progress.add_task(
            "starting TensorFlow", total=None, numbers=""
        )
        self._where = ""
        self._epochs = self._tasks = self._seeds = 1

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def notice(self, text: str) -> None:
        self._progress.console.print(Text(f"note: {text}"))

    def loading(self, dataset: str) -> None:
        self._update(description=f"loading {dataset}")

    def started(self, config: RunConfig, total_steps: int) -> None:
        self._epochs, self._tasks = config.epochs or 1, config.tasks
        self._seeds = config.seeds
        self._update(total=total_steps)

    def resumed(self, steps: int) -> None:
        self._update(completed=steps)

    def task_started(self, method: str, seed: int, task: int) -> None:
        seeded = f" seed {seed}" if self._seeds > 1 else ""
        self._where = f"{method}{seeded} task {task + 1}/{self._tasks}"
        self._update(description=self._where, numbers="")

    def batch_ended(self, epoch: int, logs: Record) -> None:
        numbers = ""
        if "loss" in logs:
            numbers = f"loss {logs['loss']:.3f}"
        if "accuracy" in logs:
            numbers += f" acc {100 * logs['accuracy']:.1f} %"
        self._progress.update(
            self._bar,
            advance=1,
            description=f"{self._where} epoch {epoch + 1}/{self._epochs}",
            numbers=numbers,
        )

    def task_trained(self) -> None:
        self._update(description=f"{self._where} evaluating")

    def task_ended(self, run: Trial, task: int, seconds: float) -> None:
        self._progress.console.print(Text(task_line(run, task, seconds)))

    def _update(self, **fields: Any) -> None:
        self._progress.update(self._bar, **fields)
