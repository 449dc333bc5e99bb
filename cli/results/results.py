"""The results of a run, and their JSON file."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from keras_si import metrics

from .. import files
from ..files import Path, Record
from . import RESULTS

SCHEMA = 2
# What `spread` gives: mean, std, standard_error and n.
Spread: TypeAlias = dict[str, Any]
# The results of several folders, each with what it is called.
Labelled: TypeAlias = "Sequence[tuple[str, Results]]"
# What is said of a whole run; all of them properties of `Trial`.
MEASURES = (
    "final_average_accuracy",
    "backward_transfer",
    "forward_transfer",
    "forgetting",
)
# What `curve` gives: mean and standard error at each place; many seeds or one.
Curve: TypeAlias = tuple[np.ndarray, np.ndarray, bool]
# Of each variable, by its path: each of `IMPORTANCE` after each task.
Importance: TypeAlias = dict[str, dict[str, np.ndarray]]
# What is kept of the importance of each variable.
IMPORTANCE = ("mean", "max")


@dataclasses.dataclass
class Trial:
    """One method with one seed.

    `accuracy[i, j]` is the accuracy on task j after task i, a fraction of 1;
    NaN where it was not measured, or has not been yet. `untrained[j]` is that
    of the untrained net on task j, likewise. `failed` says why a run was given
    up, if it was.

    `importance[path]` holds, of the variable of that path, the `mean` and the
    `max` of its importance (Omega) after each task: arrays of a number a task,
    NaN where it was not recorded. It is empty for methods that have none.
    """

    method: str
    seed: int
    accuracy: np.ndarray
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    untrained: np.ndarray = None  # type: ignore[assignment]
    failed: str | None = None
    importance: Importance = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.untrained is None:
            self.untrained = np.full(len(self.accuracy), np.nan)

    @classmethod
    def empty(cls, method: str, seed: int, num_tasks: int) -> Trial:
        return cls(method, seed, np.full((num_tasks, num_tasks), np.nan))

    @property
    def tasks_done(self) -> int:
        done = [
            not np.isnan(row[: task + 1]).any()
            for task, row in enumerate(self.accuracy)
        ]
        return done.index(False) if False in done else len(done)

    @property
    def is_complete(self) -> bool:
        return self.tasks_done == len(self.accuracy)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.is_complete or self.failed is not None

    @property
    def average_accuracy(self) -> list[float]:
        """Average accuracy after each task, NaN for those not done yet."""
        return [
            metrics.average_accuracy(self.accuracy, after=task)
            if task < self.tasks_done
            else math.nan
            for task in range(len(self.accuracy))
        ]

    @property
    def final_average_accuracy(self) -> float:
        return self.average_accuracy[-1]

    @property
    def backward_transfer(self) -> float:
        return self._when_complete(metrics.backward_transfer)

    @property
    def forgetting(self) -> float:
        return self._when_complete(metrics.forgetting)

    @property
    def forward_transfer(self) -> float:
        """NaN where the tasks were not measured before they were learned."""
        before = np.diagonal(self.accuracy, offset=1)
        if np.isnan(before).any() or np.isnan(self.untrained[1:]).any():
            return math.nan
        return self._when_complete(metrics.forward_transfer, self.untrained)

    def _when_complete(self, metric: Callable[..., float], *args: Any) -> float:
        return metric(self.accuracy, *args) if self.is_complete else math.nan

    def record_importance(
        self, task: int, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Keeps mean and maximum of the importance after a task.

        Args:
            task: Its index.
            arrays: The importance of each variable, by its path.
        """
        for path, array in arrays.items():
            record = self.importance.setdefault(
                path,
                {n: np.full(len(self.accuracy), np.nan) for n in IMPORTANCE},
            )
            # In float64: a sum of many small numbers.
            for name, value in (
                ("mean", array.mean(dtype="float64")),
                ("max", array.max()),
            ):
                # JSON has no infinity.
                record[name][task] = value if np.isfinite(value) else np.nan

    @classmethod
    def from_dict(cls, record: Record) -> Trial:
        """Makes it of what `to_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        from . import reading

        return reading.trial_from(record)

    def to_dict(self) -> Record:
        failed = {} if self.failed is None else {"failed": self.failed}
        importance = {
            path: {name: values.tolist() for name, values in record.items()}
            for path, record in self.importance.items()
        }
        return {
            "method": self.method,
            "seed": self.seed,
            **failed,
            "accuracy": self.accuracy.tolist(),
            "untrained_accuracy": self.untrained.tolist(),
            "average_accuracy": self.average_accuracy,
            "final_average_accuracy": self.final_average_accuracy,
            "backward_transfer": self.backward_transfer,
            "forward_transfer": self.forward_transfer,
            "forgetting": self.forgetting,
            "seconds": {
                "train": self.train_seconds,
                "evaluate": self.evaluate_seconds,
            },
            **({"importance": importance} if importance else {}),
        }


@dataclasses.dataclass
class Results:
    """All trials of one `keras-si run`, and what they were made with.

    `versions` and `device` are those that it began with; `resumed_with` holds
    others that it went on with, objects with these two. `started` says when,
    in UTC as ISO 8601 has it, and `command` is what it was started with; `None`
    if it is not known.
    """

    benchmark: str
    versions: Record
    device: str
    config: Record
    trials: list[Trial]
    resumed_with: list[Record] = dataclasses.field(default_factory=list)
    started: str | None = None
    command: str | None = None

    @property
    def made_with(self) -> list[Record]:
        """All that it was made with, in order."""
        began = {"versions": self.versions, "device": self.device}
        return [began, *self.resumed_with]

    @property
    def methods(self) -> list[str]:
        """The methods, in the order they were run."""
        return list(dict.fromkeys(run.method for run in self.trials))

    def find(self, method: str, seed: int) -> Trial | None:
        """Returns the run of a method with a seed, or `None`."""
        for run in self.trials:
            if (run.method, run.seed) == (method, seed):
                return run
        return None

    def of(self, method: str) -> list[Trial]:
        return [run for run in self.trials if run.method == method]

    def spread(self, method: str, name: str) -> Spread:
        """Returns mean, sample standard deviation and n over the seeds.

        And the standard error of the mean, which is the standard deviation
        over the root of n. Runs that are not complete do not count, and those
        where it was not measured. With one seed the standard deviation is 0
        and the standard error unknown; with none, all but n is NaN.
        """
        values = [getattr(r, name) for r in self.of(method) if r.is_complete]
        return spread([value for value in values if not math.isnan(value)])

    def curve_of(self, method: str) -> Curve:
        """Returns a method's average accuracy after each task."""
        return curve([run.average_accuracy for run in self.of(method)])

    def to_dict(self) -> Record:
        resumed = {"resumed_with": self.resumed_with}
        started = {"started": self.started}
        return {
            "schema": SCHEMA,
            "benchmark": self.benchmark,
            **(started if self.started else {}),
            "versions": self.versions,
            "device": self.device,
            **(resumed if self.resumed_with else {}),
            **({"command": self.command} if self.command else {}),
            "config": self.config,
            "trials": [run.to_dict() for run in self.trials],
            "summary": {
                method: {name: self.spread(method, name) for name in MEASURES}
                for method in self.methods
            },
        }

    @classmethod
    def from_dict(cls, record: Record) -> Results:
        """Makes it of what `to_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        from . import reading

        return reading.results_from(record)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads the results in a run folder, or a file of them.

        Raises:
            RunError: If there are none, or they are not what was written.
        """
        from . import reading

        return reading.read(path)

    def save(self, folder: Path) -> None:
        """Writes them into a run folder."""
        files.write_json(pathlib.Path(folder) / RESULTS, self.to_dict())


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Returns mean, standard deviation, standard error and n, as a dict."""
    if not len(values):
        nan = math.nan
        return {"mean": nan, "std": nan, "standard_error": nan, "n": 0}
    n = len(values)
    std = float(np.std(values, ddof=1)) if n > 1 else 0.0
    return {
        "mean": float(np.mean(values)),
        "std": std,
        "standard_error": std / math.sqrt(n) if n > 1 else math.nan,
        "n": n,
    }


def curve(rows: Sequence[Sequence[float] | np.ndarray]) -> Curve:
    """Returns mean and standard error at each place, and if there are many.

    Args:
        rows: One list of numbers for each seed, NaN for what it has not come
            to yet: the seed is left out of that place.
    """
    columns = np.array(rows).T
    spreads = [spread(column[~np.isnan(column)]) for column in columns]
    many = any(place["n"] > 1 for place in spreads)
    return (
        np.array([place["mean"] for place in spreads]),
        # A band must have a width everywhere, if it is drawn at all.
        np.nan_to_num([place["standard_error"] for place in spreads]),
        many,
    )
