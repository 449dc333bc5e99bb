"""The results of a run, and their JSON file."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from keras_si import metrics

from .. import files
from ..errors import RunError
from ..files import Path, Record
from . import RESULTS

SCHEMA = 2
# What a file has beside the trials.
FIELDS = (
    "benchmark",
    "versions",
    "device",
    "config",
    "started",
    "command",
    "resumed_with",
)
NAME_A_RUN = "name a folder that `keras-si run` has written"
TRANSFER = ("backward_transfer", "forward_transfer", "forgetting")
MEASURES = ("final_average_accuracy", *TRANSFER)
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
    up, if it was. `importance[path]` lists the `mean` and the `max` of the
    importance (Omega) of the variable with that path after each task.
    """

    method: str
    seed: int
    accuracy: np.ndarray
    untrained: np.ndarray
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    failed: str | None = None
    importance: dict[str, dict[str, list[float]]] = dataclasses.field(
        default_factory=dict
    )

    @classmethod
    def empty(cls, method: str, seed: int, tasks: int) -> Trial:
        unknown = np.full((tasks + 1, tasks), np.nan)
        return cls(method, seed, unknown[1:], unknown[0])

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
    def measures(self) -> dict[str, float]:
        """The `MEASURES` of the whole trial; NaN where it has none."""
        values = dict.fromkeys(MEASURES, math.nan)
        if self.is_complete:
            values["final_average_accuracy"] = self.average_accuracy[-1]
            for name, more in (
                ("backward_transfer", ()),
                ("forward_transfer", (self.untrained,)),
                ("forgetting", ()),
            ):
                # A task alone has none, nor one not measured in advance.
                with contextlib.suppress(ValueError):
                    measure = getattr(metrics, name)
                    values[name] = measure(self.accuracy, *more)
        return values

    def record_importance(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps mean and maximum of each variable's importance after a task."""
        for path, array in arrays.items():
            record = self.importance.setdefault(path, {"mean": [], "max": []})
            # In float64: a sum of many small numbers. JSON has no infinity.
            mean, most = array.mean(dtype="float64"), array.max()
            for name, value in (("mean", mean), ("max", most)):
                record[name].append(
                    float(value) if np.isfinite(value) else math.nan
                )

    def to_dict(self) -> Record:
        return {
            "method": self.method,
            "seed": self.seed,
            **({} if self.failed is None else {"failed": self.failed}),
            "accuracy": self.accuracy.tolist(),
            "untrained_accuracy": self.untrained.tolist(),
            "average_accuracy": self.average_accuracy,
            **self.measures,
            "seconds": {
                "train": self.train_seconds,
                "evaluate": self.evaluate_seconds,
            },
            **({"importance": self.importance} if self.importance else {}),
        }

    @classmethod
    def from_dict(cls, record: Record, tasks: int) -> Trial:
        return cls(
            str(record["method"]),
            record["seed"],
            _fractions(record["accuracy"], (tasks, tasks)),
            _fractions(record["untrained_accuracy"], (tasks,)),
            record["seconds"]["train"],
            record["seconds"]["evaluate"],
            record.get("failed"),
            {
                path: {
                    name: np.array(values[name], "float64").tolist()
                    for name in ("mean", "max")
                }
                for path, values in record.get("importance", {}).items()
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
    trials: list[Trial] = dataclasses.field(default_factory=list)
    resumed_with: list[Record] = dataclasses.field(default_factory=list)
    started: str | None = None
    command: str | None = None
    members: Labelled = ()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        planned = len(self.config["methods"]) * self.config["seeds"]
        return sum(trial.is_over for trial in self.trials) == planned

    @property
    def made_with(self) -> list[Record]:
        """All that it was made with, in order."""
        began = {"versions": self.versions, "device": self.device}
        return [began, *self.resumed_with]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(trial.method for trial in self.trials))

    def find(self, method: str, seed: int) -> Trial | None:
        return next((t for t in self.of(method) if t.seed == seed), None)

    def of(self, method: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.method == method]

    def spread(self, method: str, name: str) -> Spread:
        """Returns `spread` of a measure over the complete trials."""
        values = [trial.measures[name] for trial in self.of(method)]
        return spread([value for value in values if not math.isnan(value)])

    def curve_of(self, method: str) -> Curve:
        """Returns a method's average accuracy after each task."""
        return curve([trial.average_accuracy for trial in self.of(method)])

    def to_dict(self) -> Record:
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in FIELDS},
            "trials": [trial.to_dict() for trial in self.trials],
            "summary": {
                method: {name: self.spread(method, name) for name in MEASURES}
                for method in self.methods
            },
        }

    @classmethod
    def from_dict(cls, record: Record) -> Results:
        """Makes it from what `to_dict` gave."""
        if (schema := record.get("schema")) != SCHEMA:
            raise ValueError(f"it has schema {schema!r:.9}, expected {SCHEMA}")
        config = record["config"]
        for value, kind in (
            (record["versions"], dict),
            (config["methods"], list),
            (config["seeds"], int),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{value!r} is no {kind.__name__}")
        tasks = config["tasks"]
        trials = [Trial.from_dict(trial, tasks) for trial in record["trials"]]
        fields = {name: record[name] for name in FIELDS if name in record}
        return cls(trials=trials, **fields)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads a run folder, or its file; raises `RunError` if it is none."""
        path = pathlib.Path(path, RESULTS if os.path.isdir(path) else "")
        try:
            return cls.from_dict(files.read_json(path))
        except files.DamagedFile as error:
            problem = f"{error.problem}; {NAME_A_RUN}"
            raise files.DamagedFile(path, problem) from error
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}; {NAME_A_RUN}") from error
        except ValueError as error:
            raise files.DamagedFile(path, f"{error}; {NAME_A_RUN}") from error
        except (AttributeError, LookupError, TypeError) as error:
            problem = f"its record is not a run's ({error!r}); {NAME_A_RUN}"
            raise files.DamagedFile(path, problem) from error

    def save(self, folder: Path) -> None:
        """Writes them into a run folder."""
        files.write_json(pathlib.Path(folder) / RESULTS, self.to_dict())


def _fractions(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns numbers from 0 to 1 in that shape, with NaN for null."""
    array = np.array(values, dtype="float64")
    if array.shape != shape or ((array < 0) | (array > 1)).any():
        raise ValueError(f"its accuracies are no {shape} fractions of 1")
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
