"""Checkpoints of a run: written so that a kill at any moment leaves one.

Two slots take turns. Each is a JSON file that says where the run stands and,
while a method is under way, the file of what its model and the method know,
named with its checksum. A slot is overwritten with that first: until its JSON
follows, the checksum does not fit, and the other slot is the one to go on
from.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from .. import files
from ..files import Path, Record

if TYPE_CHECKING:
    import numpy.typing as npt

SCHEMA = 3
SLOTS = (0, 1)
ENDINGS = {
    "json": "json",
    "state": "npz",
}


@dataclasses.dataclass
class Position:
    """What comes next in the run under way.

    Args:
        task: Index of the task.
        epoch: Its next pass over the training data, be it counted in epochs
            or in steps.
        is_trained: Whether all are done: its evaluation comes next.
    """

    task: int = 0
    epoch: int = 0
    is_trained: bool = False

    @property
    def is_start(self) -> bool:
        return self == Position()


@dataclasses.dataclass
class Checkpoint:
    """Where a run stood.

    Args:
        config: The options of the run, as `RunConfig.to_dict` gives them.
        made_with: What it was run with, versions and device: at first, and
            each time it went on with others. A list of objects.
        trials: The records of all trials so far; the last may be under way.
        position: What comes next in that one.
        files: Paths of what its model and method know, by name, for
            `model_state.restore`. None between two runs.
    """

    config: Record
    made_with: list[Record]
    trials: list[Record]
    position: Position
    files: dict[str, pathlib.Path]


# Slot, number and record of files of a checkpoint.
Newest: TypeAlias = tuple[int, int, Record]
# Of one that is not there.
NONE: Newest = (1, 0, {})


class Checkpoints:
    """Writes the checkpoints of one run folder.

    Args:
        folder: The run folder.
        config, made_with: As in `Checkpoint`.
        newest: The checkpoint to keep until another one is good, as `read`
            gives it.
    """

    def __init__(
        self,
        folder: Path,
        config: Record,
        made_with: list[Record],
        newest: Newest = NONE,
    ) -> None:
        self._folder = pathlib.Path(folder)
        self._config = config
        self._made_with = made_with
        self._slot, self._number, self._saved = newest

    def save(
        self,
        trials: list[Record],
        position: Position,
        variables: Sequence[npt.ArrayLike],
    ) -> None:
        """Saves where the run stands, and all that it knows.

        Args:
            trials, position: As in `Checkpoint`.
            variables: What its model and method know, in a fixed order:
                arrays, or what NumPy makes an array of when its turn comes.
        """
        import numpy as np  # Here: `--help` has no use for it.

        slot = 1 - self._slot
        path = _path(self._folder, slot, "state")
        files.write_atomically(path, lambda file: np.savez(file, *variables))
        self._saved = {"state": files.file_record(path)}
        self._slot = slot
        self._write(trials, position)

    def update(self, trials: list[Record], position: Position) -> None:
        """Saves where the run stands, its variables being as in `save`."""
        self._write(trials, position)

    def between_runs(self, trials: list[Record]) -> None:
        """Saves that a run is over and the next one has not begun."""
        self._slot, self._saved = 1 - self._slot, {}
        self._write(trials, Position())

    def _write(self, trials: list[Record], position: Position) -> None:
        self._number += 1
        files.write_json(
            _path(self._folder, self._slot, "json"),
            {
                "schema": SCHEMA,
                "number": self._number,
                "config": self._config,
                "made_with": self._made_with,
                "trials": trials,
                "position": dataclasses.asdict(position),
                "files": self._saved,
            },
        )

    def remove(self) -> None:
        """Removes the checkpoints: the run is complete."""
        for slot in SLOTS:
            for name in ENDINGS:
                files.remove(_path(self._folder, slot, name))


class NoCheckpoints(Checkpoints):
    """Those of a run that nobody will go on with: none are written."""

    def save(
        self,
        trials: list[Record],
        position: Position,
        variables: Sequence[npt.ArrayLike],
    ) -> None:
        pass

    def _write(self, trials: list[Record], position: Position) -> None:
        pass


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
            content["made_with"],
            content["trials"],
            Position(**content["position"]),
            {name: _path(folder, slot, name) for name in content["files"]},
        )
        for name, path_of_it in checkpoint.files.items():
            files.check_file(path_of_it, content["files"][name])
        newest = slot, content["number"], content["files"]
    except (AttributeError, KeyError, TypeError) as error:
        raise files.DamagedFile(path, "it is no checkpoint") from error
    return checkpoint, newest


def exists(folder: pathlib.Path) -> bool:
    """Whether there is a checkpoint in a folder, good or not."""
    return any(_path(folder, slot, "json").exists() for slot in SLOTS)


def _path(folder: pathlib.Path, slot: int, name: str) -> pathlib.Path:
    return folder / f"checkpoint-{slot}.{ENDINGS[name]}"
