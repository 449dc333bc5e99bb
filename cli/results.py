"""The results of a run, their JSON file, and reading it back."""

import dataclasses
import math
import pathlib
import reprlib
import sys

import numpy as np

from keras_si import metrics

from . import files
from .errors import RunError

SCHEMA = 1
RESULTS = "results.json"
KEYS = {
    "schema",
    "benchmark",
    "versions",
    "device",
    "config",
    "runs",
    "summary",
}
LARGEST = sys.float_info.max
# What the types of JSON are called there.
KINDS = {dict: "an object", list: "a list", str: "a string", int: "an integer"}


@dataclasses.dataclass
class Run:
    """One method with one seed.

    `accuracy[i, j]` is the accuracy on task j after task i, a fraction of 1;
    NaN where it was not measured, or has not been yet. `failed` says why a
    run was given up, if it was.
    """

    method: str
    seed: int
    accuracy: np.ndarray
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    failed: str | None = None

    @classmethod
    def empty(cls, method, seed, num_tasks):
        return cls(method, seed, np.full((num_tasks, num_tasks), np.nan))

    @property
    def tasks_done(self):
        done = [
            not np.isnan(row[: task + 1]).any()
            for task, row in enumerate(self.accuracy)
        ]
        return done.index(False) if False in done else len(done)

    @property
    def is_complete(self):
        return self.tasks_done == len(self.accuracy)

    @property
    def is_over(self):
        """Whether there is nothing left to train."""
        return self.is_complete or self.failed is not None

    @property
    def average_accuracy(self):
        """Average accuracy after each task, NaN for those not done yet."""
        return [
            metrics.average_accuracy(self.accuracy, after=task)
            if task < self.tasks_done
            else math.nan
            for task in range(len(self.accuracy))
        ]

    @property
    def final_average_accuracy(self):
        return self.average_accuracy[-1]

    @property
    def backward_transfer(self):
        return self._when_complete(metrics.backward_transfer)

    @property
    def forgetting(self):
        return self._when_complete(metrics.forgetting)

    def _when_complete(self, metric):
        return metric(self.accuracy) if self.is_complete else math.nan

    def to_dict(self):
        failed = {} if self.failed is None else {"failed": self.failed}
        return {
            "method": self.method,
            "seed": self.seed,
            **failed,
            "accuracy": self.accuracy.tolist(),
            "average_accuracy": self.average_accuracy,
            "final_average_accuracy": self.final_average_accuracy,
            "backward_transfer": self.backward_transfer,
            "forgetting": self.forgetting,
            "seconds": {
                "train": self.train_seconds,
                "evaluate": self.evaluate_seconds,
            },
        }

    @classmethod
    def from_dict(cls, record):
        seconds = _item(record, "seconds", dict)
        run = cls(
            _item(record, "method", str),
            _item(record, "seed", int),
            _matrix(_item(record, "accuracy", list)),
            _seconds(seconds, "train"),
            _seconds(seconds, "evaluate"),
        )
        if "failed" in record:
            run.failed = _item(record, "failed", str)
        if not np.isnan(run.accuracy[run.tasks_done :]).all():
            raise ValueError("its accuracies have a gap")
        return run


@dataclasses.dataclass
class Results:
    """All runs of one `keras-si run`, and what they were made with."""

    benchmark: str
    versions: dict
    device: str
    config: dict
    runs: list[Run]

    @property
    def methods(self):
        """The methods, in the order they were run."""
        return list(dict.fromkeys(run.method for run in self.runs))

    def find(self, method, seed):
        """Returns the run of a method with a seed, or `None`."""
        for run in self.runs:
            if (run.method, run.seed) == (method, seed):
                return run
        return None

    def of(self, method):
        return [run for run in self.runs if run.method == method]

    def spread(self, method, name):
        """Returns mean, sample standard deviation and n over the seeds.

        Runs that are not complete do not count. With one seed the standard
        deviation is 0; with none, all but n is NaN.
        """
        values = [getattr(r, name) for r in self.of(method) if r.is_complete]
        if not values:
            return {"mean": math.nan, "std": math.nan, "n": 0}
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"mean": float(np.mean(values)), "std": std, "n": len(values)}

    def to_dict(self):
        return {
            "schema": SCHEMA,
            "benchmark": self.benchmark,
            "versions": self.versions,
            "device": self.device,
            "config": self.config,
            "runs": [run.to_dict() for run in self.runs],
            "summary": {
                method: {
                    name: self.spread(method, name)
                    for name in ("final_average_accuracy",)
                }
                for method in self.methods
            },
        }

    def write(self, folder):
        files.write_json(pathlib.Path(folder) / RESULTS, self.to_dict())


def read(path):
    """Reads the results of a run from its folder, or from the file itself."""
    path = pathlib.Path(path)
    try:
        path = path / RESULTS if path.is_dir() else path
        # Those of keras-si 0.1.0 have no checksum.
        record = files.read_json(path, needs_checksum=False)
    except OSError as error:
        raise RunError(
            f"{path} could not be read ({error.strerror}); name a folder "
            "that `keras-si run` has written"
        ) from error
    schema = record.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise RunError(
            f"{path} has schema {schema}, this keras-si reads {SCHEMA}; "
            "update keras-si"
        )
    if type(schema) is not int or schema != SCHEMA:
        raise RunError(
            f"{path} is not a results file of keras-si: it has schema "
            f"{reprlib.repr(schema)}, expected {SCHEMA}"
        )
    try:
        return _from_dict(record)
    except ValueError as error:
        raise files.DamagedFile(path, error) from error


def _from_dict(record):
    unknown = set(record) - KEYS
    if unknown:
        raise ValueError(f"it has an unknown entry {sorted(unknown)[0]!r}")
    results = Results(
        _item(record, "benchmark", str),
        _item(record, "versions", dict),
        _item(record, "device", str),
        _item(record, "config", dict),
        [Run.from_dict(run) for run in _item(record, "runs", list)],
    )
    if "dataset" in results.config:
        _item(results.config, "dataset", str)  # The titles show it.
    counts = sorted({len(run.accuracy) for run in results.runs})
    if len(counts) > 1:
        raise ValueError(
            "its runs have different numbers of tasks, "
            f"{' and '.join(map(str, counts))}"
        )
    return results


def _item(record, name, kind):
    """Returns `record[name]`, which must be of that very type."""
    if type(record) is not dict or name not in record:
        raise ValueError(f"it has no {name!r}")
    value = record[name]
    # Not `isinstance`: to Python, true is a whole number.
    if type(value) is not kind:
        raise ValueError(
            f"its {name!r} is {reprlib.repr(value)}, not {KINDS[kind]}"
        )
    return value


def _seconds(record, name):
    value = record.get(name)
    if type(value) not in (int, float) or not 0 <= value <= LARGEST:
        raise ValueError(
            f"its seconds to {name!r} are {reprlib.repr(value)}, expected a "
            "finite number of 0 or more"
        )
    return float(value)


def _matrix(rows):
    """Returns the accuracy matrix, with NaN for null."""
    if not rows or any(
        type(row) is not list or len(row) != len(rows) for row in rows
    ):
        raise ValueError(
            "its 'accuracy' is not a square matrix, a row and a column a task"
        )
    return np.array([[_accuracy(value) for value in row] for row in rows])


def _accuracy(value):
    if value is None:
        return math.nan
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(
            f"an accuracy is {reprlib.repr(value)}, expected a number from 0 "
            "to 1, or null"
        )
    return float(value)
