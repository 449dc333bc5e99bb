"""How a run tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files import Record

if TYPE_CHECKING:
    from ..experiments.config import RunConfig
    from ..results.results import Results, Trial


class Observer:
    """Hears how a run goes. Every method may be overridden; none need be."""

    def loading(self, dataset: str) -> None:
        """The dataset is about to be loaded."""

    def started(self, config: RunConfig, total_steps: int) -> None:
        """The training is about to start: so many steps in all."""

    def notice(self, text: str) -> None:
        """Something that the user should know, one line."""

    def resumed(self, steps: int) -> None:
        """So many steps of the whole were trained before."""

    def task_started(self, method: str, seed: int, task: int) -> None:
        """The `fit` on a task is about to start."""

    def batch_ended(self, epoch: int, logs: Record) -> None:
        """A training step has ended; `logs` are means over the epoch."""

    def task_trained(self) -> None:
        """The `fit` on a task has ended; its evaluation starts."""

    def task_ended(self, run: Trial, task: int, seconds: float) -> None:
        """A task has been evaluated on all tasks so far, and written."""

    def finished(self, results: Results) -> None:
        """All is done and written."""
