"""The results of a run, and their JSON file."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from keras_si import metrics

from .. import files
from ..errors import RunError
from ..files import Path, Record
from . import RESULTS

SCHEMA = 2
# What a file has beside the trials: what it must have, and what it may.
KINDS = {"benchmark": str, "versions": dict, "device": str, "config": dict}
OPTIONAL = {"resumed_with": list, "started": str, "command": str}
LARGEST = 1e308
NAME_A_RUN = "name a folder that `keras-si run` has written"
# The measures of a whole trial: properties of `Trial`.
TRANSFER = ("backward_transfer", "forward_transfer", "forgetting")
MEASURES = ("final_average_accuracy", *TRANSFER)
IMPORTANCE = ("mean", "max")
# What `spread` and `curve` return.
Spread: TypeAlias = dict[str, Any]
Curve: TypeAlias = tuple[np.ndarray, np.ndarray, bool]
# The results of several folders, each with its label.
Labelled: TypeAlias = "Sequence[tuple[str, Results]]"


@dataclasses.dataclass
class Trial:
    """One method with one seed.

    `accuracy[i, j]` is the accuracy on task j after task i, a fraction of 1;
    NaN where it was not measured, or has not been yet. `untrained[j]` is the
    untrained net's accuracy on task j. `failed` says why the trial was given
    up, if it was. `importance[path]` holds the `mean` and the `max` of the
    importance (Omega) of the variable with that path after each task: arrays
    of a number a task, NaN where it was not recorded.
    """

    method: str
    seed: int
    accuracy: np.ndarray
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    untrained: np.ndarray = None  # type: ignore[assignment]
    failed: str | None = None
    importance: dict[str, dict[str, np.ndarray]] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        if self.untrained is None:
            self.untrained = np.full(len(self.accuracy), np.nan)

    @classmethod
    def empty(cls, method: str, seed: int, num_tasks: int) -> Trial:
        return cls(method, seed, np.full((num_tasks, num_tasks), np.nan))

    @property
    def tasks_done(self) -> int:
        missing = np.tril(np.isnan(self.accuracy)).any(axis=1)
        return int(np.argmax([*missing, True]))

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
        done, tasks = self.tasks_done, len(self.accuracy)
        means = [
            metrics.average_accuracy(self.accuracy, t) for t in range(done)
        ]
        return means + [math.nan] * (tasks - done)

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
        return self._when_complete(metrics.forward_transfer, self.untrained)

    def _when_complete(self, metric: Callable[..., float], *args: Any) -> float:
        try:
            return (
                metric(self.accuracy, *args) if self.is_complete else math.nan
            )
        except ValueError:  # It was not measured before it was learned.
            return math.nan

    def record_importance(
        self, task: int, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Keeps mean and maximum of each variable's importance after a task."""
        for path, array in arrays.items():
            unknown = {n: self.accuracy[0] * np.nan for n in IMPORTANCE}
            of_variable = self.importance.setdefault(path, unknown)
            # In float64: a sum of many small numbers. JSON has no infinity.
            values = (array.mean(dtype="float64"), array.max())
            for name, value in zip(IMPORTANCE, values, strict=True):
                of_variable[name][task] = (
                    value if np.isfinite(value) else np.nan
                )

    def to_dict(self) -> Record:
        importance = {
            path: {name: values.tolist() for name, values in of.items()}
            for path, of in self.importance.items()
        }
        return {
            "method": self.method,
            "seed": self.seed,
            **({} if self.failed is None else {"failed": self.failed}),
            "accuracy": self.accuracy.tolist(),
            "untrained_accuracy": self.untrained.tolist(),
            **{n: getattr(self, n) for n in ("average_accuracy", *MEASURES)},
            "seconds": {
                "train": self.train_seconds,
                "evaluate": self.evaluate_seconds,
            },
            **({"importance": importance} if importance else {}),
        }

    @classmethod
    def from_dict(cls, record: Record) -> Trial:
        tasks, seconds = len(record["accuracy"]), record["seconds"]
        return cls(
            _typed(record, "method", str),
            _typed(record, "seed", int),
            _array(record["accuracy"], (tasks, tasks), 1),
            float(_array(seconds["train"], (), LARGEST)),
            float(_array(seconds["evaluate"], (), LARGEST)),
            _array(record["untrained_accuracy"], (tasks,), 1),
            record.get("failed"),
            {
                path: {n: _array(of[n], (tasks,), LARGEST) for n in IMPORTANCE}
                for path, of in record.get("importance", {}).items()
            },
        )


@dataclasses.dataclass
class Results:
    """All trials of one `keras-si run`, and what they were made with.

    `resumed_with` has other `versions` and `device`s that it was resumed with.
    `members` are the runs that `compare.merge` has made these results of.
    """

    benchmark: str
    versions: Record
    device: str
    config: Record
    trials: list[Trial]
    resumed_with: list[Record] = dataclasses.field(default_factory=list)
    started: str | None = None
    command: str | None = None
    members: Labelled = ()

    @property
    def made_with(self) -> list[Record]:
        """All that it was made with, in order."""
        began = {"versions": self.versions, "device": self.device}
        return [began, *self.resumed_with]

    @property
    def methods(self) -> list[str]:
        """The methods, in the order they were run."""
        return list(dict.fromkeys(trial.method for trial in self.trials))

    def find(self, method: str, seed: int) -> Trial | None:
        """Returns the trial of a method with a seed, or `None`."""
        return next((t for t in self.of(method) if t.seed == seed), None)

    def of(self, method: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.method == method]

    def spread(self, method: str, name: str) -> Spread:
        """Returns `spread` of a measure over the complete trials."""
        values = [getattr(t, name) for t in self.of(method) if t.is_complete]
        return spread([value for value in values if not math.isnan(value)])

    def curve_of(self, method: str) -> Curve:
        """Returns a method's average accuracy after each task."""
        return curve([trial.average_accuracy for trial in self.of(method)])

    def to_dict(self) -> Record:
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in KINDS},
            **{n: value for n in OPTIONAL if (value := getattr(self, n))},
            "trials": [trial.to_dict() for trial in self.trials],
            "summary": {
                method: {name: self.spread(method, name) for name in MEASURES}
                for method in self.methods
            },
        }

    @classmethod
    def from_dict(cls, record: Record) -> Results:
        """Makes it from what `to_dict` gave; else raises `ValueError`."""
        try:
            return cls._from_dict(record)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as e:
            raise ValueError(f"it is not as it was written ({e!r})") from e

    @classmethod
    def _from_dict(cls, record: Record) -> Results:
        if (schema := record.get("schema")) != SCHEMA:
            raise ValueError(f"it has schema {schema!r:.9}, expected {SCHEMA}")
        tasks = _typed(record["config"], "tasks", int)
        trials = [Trial.from_dict(trial) for trial in record["trials"]]
        if any(len(trial.accuracy) != tasks for trial in trials):
            raise ValueError(f"its trials are not of {tasks} tasks")
        if len({(t.method, t.seed) for t in trials}) < len(trials):
            raise ValueError("it has one method with one seed twice")
        kinds = {**KINDS, **{k: v for k, v in OPTIONAL.items() if k in record}}
        others = {key: _typed(record, key, kind) for key, kind in kinds.items()}
        return cls(trials=trials, **others)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads a run folder, or its file; raises `RunError` if it is none."""
        path = pathlib.Path(path, RESULTS if os.path.isdir(path) else "")
        try:
            return cls.from_dict(files.read_json(path))
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}; {NAME_A_RUN}") from error
        except ValueError as error:
            raise files.DamagedFile(path, f"{error}; {NAME_A_RUN}") from error

    def save(self, folder: Path) -> None:
        """Writes them into a run folder."""
        files.write_json(pathlib.Path(folder) / RESULTS, self.to_dict())


def _typed(record: Record, key: str, kind: type) -> Any:
    if not isinstance(record[key], kind):
        found = reprlib.repr(record[key])
        raise ValueError(f"its {key} is {found}, expected {kind.__name__}")
    return record[key]


def _array(values: Any, shape: tuple[int, ...], most: float) -> np.ndarray:
    """Returns numbers from 0 to `most` in that shape, with NaN for null."""
    array = np.array(values, dtype="float64")
    if array.shape != shape or ((array < 0) | (array > most)).any():
        found = reprlib.repr(values)
        raise ValueError(f"it has {found}, expected {shape} from 0 to {most}")
    return array


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Returns mean, sample deviation, standard error of the mean, and n."""
    n = len(values)
    std = float(np.std(values, ddof=1)) if n > 1 else 0.0
    return {
        "mean": float(np.mean(values)) if n else math.nan,
        "std": std if n else math.nan,
        "standard_error": std / math.sqrt(n) if n > 1 else math.nan,
        "n": n,
    }


def curve(rows: Sequence[Sequence[float] | np.ndarray]) -> Curve:
    """Returns the mean and its error at each place, and if any has many."""
    columns = np.array(rows).T
    spreads = [spread(column[~np.isnan(column)]) for column in columns]
    mean, error, n = (
        [place[key] for place in spreads]
        for key in ("mean", "standard_error", "n")
    )
    # A band must have a width everywhere, if it is drawn at all.
    return np.array(mean), np.nan_to_num(error), max(n) > 1
