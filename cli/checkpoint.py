"""Checkpoints of a run: written so that a kill at any moment leaves one.

Two slots take turns. Each is a JSON file that says where the run stands and,
while a method is under way, the files of what its model and the method know,
named with their checksums. A slot is overwritten with these first: until its
JSON follows, the checksums do not fit, and the other slot is the one to go on
from.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from . import files
from .types import Path, Record

if TYPE_CHECKING:
    import keras

SCHEMA = 1
SLOTS = (0, 1)
ENDINGS = {
    "json": "json",
    "weights": "weights.h5",
    "variables": "variables.npz",
}


@dataclasses.dataclass
class Position:
    """What comes next in the run under way.

    Args:
        task: Index of the task.
        epoch: Its next epoch; if all are done, its evaluation comes next.
    """

    task: int = 0
    epoch: int = 0

    @property
    def is_start(self) -> bool:
        return (self.task, self.epoch) == (0, 0)


@dataclasses.dataclass
class Checkpoint:
    """Where a run stood.

    Args:
        config: The options of the run, as `RunConfig.to_dict` gives them.
        versions: What it was run with.
        runs: The records of all runs so far; the last may be under way.
        position: What comes next in that one.
        weights: The file that Keras saved its model to, or `None`.
        variables: The file of the method's own variables, or `None`.
    """

    config: Record
    versions: Record
    runs: list[Record]
    position: Position
    weights: pathlib.Path | None
    variables: pathlib.Path | None


# Slot, number and record of files of a checkpoint.
Newest: TypeAlias = tuple[int, int, Record]
# Of one that is not there.
NONE: Newest = (1, 0, {})


class Checkpoints:
    """Writes the checkpoints of one run folder.

    Args:
        folder: The run folder.
        config, versions: As in `Checkpoint`.
        newest: The checkpoint to keep until another one is good, as `read`
            gives it.
    """

    def __init__(
        self,
        folder: Path,
        config: Record,
        versions: Record,
        newest: Newest = NONE,
    ) -> None:
        self._folder = pathlib.Path(folder)
        self._config = config
        self._versions = versions
        self._slot, self._number, self._saved = newest

    def save(
        self,
        runs: list[Record],
        position: Position,
        model: keras.Model,
        variables: Sequence[keras.Variable],
    ) -> None:
        """Saves where the run stands, and all that it knows.

        Args:
            runs, position: As in `Checkpoint`.
            model: The Keras model, with its optimizer.
            variables: The method's own, a list of `keras.Variable`.
        """
        import numpy as np  # Here: `--help` has no use for it.

        slot = 1 - self._slot
        saved = {"weights": model.save_weights}
        if variables:
            arrays = [np.array(variable) for variable in variables]
            saved["variables"] = lambda path: np.savez(path, *arrays)
        self._saved = {}
        for name, write in saved.items():
            path = _path(self._folder, slot, name)
            files.write_atomically(path, write)
            self._saved[name] = {
                "size": path.stat().st_size,
                "checksum": files.file_checksum(path),
            }
        self._slot = slot
        self._write(runs, position)

    def update(self, runs: list[Record], position: Position) -> None:
        """Saves where the run stands, the model being that of `save`."""
        self._write(runs, position)

    def between_runs(self, runs: list[Record]) -> None:
        """Saves that a run is over and the next one has not begun."""
        self._slot, self._saved = 1 - self._slot, {}
        self._write(runs, Position())

    def _write(self, runs: list[Record], position: Position) -> None:
        self._number += 1
        files.write_json(
            _path(self._folder, self._slot, "json"),
            {
                "schema": SCHEMA,
                "number": self._number,
                "config": self._config,
                "versions": self._versions,
                "runs": runs,
                "position": dataclasses.asdict(position),
                "files": self._saved,
            },
        )

    def remove(self) -> None:
        """Removes the checkpoints: the run is complete."""
        for slot in SLOTS:
            for name in ENDINGS:
                _path(self._folder, slot, name).unlink(missing_ok=True)


def read(folder: Path) -> tuple[Checkpoint | None, Newest, list[str]]:
    """Reads the newest good checkpoint of a folder.

    Returns:
        The `Checkpoint` or `None`, what to hand to `Checkpoints` as the
        newest, and the problems of those that are damaged: a list of
        one-line texts.

    Raises:
        RunError: If a newer keras-si wrote one.
    """
    good, problems = [], []
    for slot in SLOTS:
        try:
            found = _read_slot(pathlib.Path(folder), slot)
        except files.DamagedFile as error:
            problems.append(str(error))
        else:
            good += [found] if found else []
    if not good:
        return None, NONE, problems
    checkpoint, newest = max(good, key=lambda found: found[1][1])
    return checkpoint, newest, problems


def _read_slot(
    folder: pathlib.Path, slot: int
) -> tuple[Checkpoint, Newest] | None:
    path = _path(folder, slot, "json")
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.DamagedFile(path, error.strerror) from error
    files.check_schema(
        path, content.get("schema"), SCHEMA, "it is no checkpoint"
    )
    try:
        checkpoint = Checkpoint(
            content["config"],
            content["versions"],
            content["runs"],
            Position(**content["position"]),
            **{
                name: _path(folder, slot, name)
                if name in content["files"]
                else None
                for name in ("weights", "variables")
            },
        )
        number, expected = content["number"], content["files"]
    except (KeyError, TypeError) as error:
        raise files.DamagedFile(path, "it is no checkpoint") from error
    for name, record in expected.items():
        _check_file(_path(folder, slot, name), record)
    return checkpoint, (slot, number, expected)


def _check_file(path: pathlib.Path, expected: Record) -> None:
    try:
        size = os.path.getsize(path)
        if size != expected["size"]:
            raise files.DamagedFile(
                path, f"it has {size} bytes, expected {expected['size']}"
            )
        if files.file_checksum(path) != expected["checksum"]:
            raise files.DamagedFile(path, "its checksum does not fit")
    except OSError as error:
        raise files.DamagedFile(path, error.strerror) from error


def _path(folder: pathlib.Path, slot: int, name: str) -> pathlib.Path:
    return folder / f"checkpoint-{slot}.{ENDINGS[name]}"
