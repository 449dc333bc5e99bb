"""Reading a results file back: strictly, for anything may be in it."""

import datetime
import math
import pathlib
import reprlib
import sys
from typing import Any

import numpy as np

from .. import files
from ..errors import RunError, counted
from ..files import Path, Record
from . import RESULTS
from .results import IMPORTANCE, SCHEMA, Results, Trial

KEYS = {
    "schema",
    "benchmark",
    "started",
    "versions",
    "device",
    "resumed_with",
    "command",
    "config",
    "trials",
    "summary",
}
LARGEST = sys.float_info.max
# What the types of JSON are called there.
KINDS = {dict: "an object", list: "a list", str: "a string", int: "an integer"}


def read(path: Path) -> Results:
    """Reads the results of a run from its folder, or from the file itself."""
    path = pathlib.Path(path)
    if path.is_dir() and not (path / RESULTS).exists():
        point = next(path.glob("points/*.json"), None)
        if point is not None:
            raise RunError(
                f"{path} is a search; name results of it, such as {point}"
            )
    path = path / RESULTS if path.is_dir() else path
    if path.suffix != ".json":
        raise RunError(
            f"{path} is no results of a run; name a folder that `keras-si "
            f"run` has written, or its {RESULTS}"
        )
    try:
        record = files.read_json(path)
    except OSError as error:
        raise RunError(
            f"{path} could not be read ({error.strerror}); name a folder "
            "that `keras-si run` has written"
        ) from error
    schema = record.get("schema")
    files.check_schema(
        path,
        schema,
        SCHEMA,
        "it is not a results file of keras-si, but has schema "
        f"{reprlib.repr(schema)}, expected {SCHEMA}",
    )
    try:
        return results_from(record)
    except ValueError as error:
        raise files.DamagedFile(path, error) from error


def results_from(record: Record) -> Results:
    unknown = set(record) - KEYS
    if unknown:
        raise ValueError(f"it has an unknown entry {sorted(unknown)[0]!r}")
    results = Results(
        _item(record, "benchmark", str),
        _item(record, "versions", dict),
        _item(record, "device", str),
        _item(record, "config", dict),
        [trial_from(run) for run in _item(record, "trials", list)],
    )
    # Absent unless it went on with other versions or on another device.
    if "resumed_with" in record:
        results.resumed_with = [
            {
                "versions": _item(other, "versions", dict),
                "device": _item(other, "device", str),
            }
            for other in _item(record, "resumed_with", list)
        ]
    if "started" in record:
        results.started = _date(_item(record, "started", str))
    if "command" in record:
        results.command = _item(record, "command", str)
    if "dataset" in results.config:
        _item(results.config, "dataset", str)  # The titles show it.
    pairs = [(run.method, run.seed) for run in results.trials]
    for method, seed in pairs:
        if pairs.count((method, seed)) > 1:
            raise ValueError(f"it has {method} with seed {seed} twice")
    counts = sorted({len(run.accuracy) for run in results.trials})
    if len(counts) > 1:
        raise ValueError(
            "its runs have different numbers of tasks, "
            f"{' and '.join(map(str, counts))}"
        )
    return results


def trial_from(record: Any) -> Trial:
    """Makes a `Trial` of what its `to_dict` gave."""
    seconds = _item(record, "seconds", dict)
    run = Trial(
        _item(record, "method", str),
        _item(record, "seed", int),
        _matrix(_item(record, "accuracy", list)),
        _seconds(seconds, "train"),
        _seconds(seconds, "evaluate"),
    )
    # Absent in files of before it was measured.
    if "untrained_accuracy" in record:
        run.untrained = _accuracies(record["untrained_accuracy"])
    if "failed" in record:
        run.failed = _item(record, "failed", str)
    if "importance" in record:  # Not of every method, and not always.
        importance = _item(record, "importance", dict)
        run.importance = {
            path: {
                name: _importances(_item(of, name, list), len(run.accuracy))
                for name in IMPORTANCE
            }
            for path, of in importance.items()
        }
    if len(run.untrained) != len(run.accuracy):
        raise ValueError(
            "its 'untrained_accuracy' holds "
            f"{counted(len(run.untrained), 'number')}, for "
            f"{counted(len(run.accuracy), 'task')}"
        )
    if not np.isnan(run.accuracy[run.tasks_done :]).all():
        raise ValueError("its accuracies have a gap")
    return run


def _item(record: Any, name: str, kind: type) -> Any:
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


def _date(text: str) -> str:
    try:
        date = datetime.datetime.fromisoformat(text)
        if date.tzinfo is not None:
            date.astimezone(datetime.UTC)  # Where the calendar ends, it fails.
            return text
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"its 'started' is {reprlib.repr(text)}, expected a date with a time "
        "and its zone, as in 2025-01-31T12:00:00+00:00"
    )


def _seconds(record: Record, name: str) -> float:
    value: Any = record.get(name)
    if not _is_number_to(LARGEST, value):
        raise ValueError(
            f"its seconds to {name!r} are {reprlib.repr(value)}, expected a "
            "finite number of 0 or more"
        )
    return float(value)


def _importances(values: list[Any], tasks: int) -> np.ndarray:
    if len(values) != tasks:
        raise ValueError(
            f"its 'importance' holds {counted(len(values), 'number')}, for "
            f"{counted(tasks, 'task')}"
        )
    for value in values:
        if value is not None and not _is_number_to(LARGEST, value):
            raise ValueError(
                f"an importance is {reprlib.repr(value)}, expected a finite "
                "number of 0 or more, or null"
            )
    return np.array([math.nan if v is None else float(v) for v in values])


def _is_number_to(largest: float, value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= largest


def _matrix(rows: list[Any]) -> np.ndarray:
    """Returns the accuracy matrix, with NaN for null."""
    if not rows or any(
        type(row) is not list or len(row) != len(rows) for row in rows
    ):
        raise ValueError(
            "its 'accuracy' is not a square matrix, a row and a column a task"
        )
    return np.array([_accuracies(row) for row in rows])


def _accuracies(row: Any) -> np.ndarray:
    if type(row) is not list:
        raise ValueError(f"its accuracies are {reprlib.repr(row)}, not a list")
    return np.array([_accuracy(value) for value in row])


def _accuracy(value: Any) -> float:
    if value is None:
        return math.nan
    if not _is_number_to(1, value):
        raise ValueError(
            f"an accuracy is {reprlib.repr(value)}, expected a number from 0 "
            "to 1, or null"
        )
    return float(value)
