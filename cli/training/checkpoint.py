"""Checkpoints: one `.npz` with arrays, and where the run stands.

It is written beside the old one and takes its place in one step, so a kill
at any moment leaves a whole one. Each member of an `.npz` has a CRC-32, which
shows what a disk or a person has changed since.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..errors import RunError
from ..files import Path, Record

if TYPE_CHECKING:
    import keras

    from ..methods import Method

CHECKPOINT = "checkpoint.npz"
SCHEMA = 4
# What reading a damaged `.npz` raises.
ERRORS = (
    *(EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass(frozen=True)
class Position:
    """What comes next: a pass over a task's data, or its evaluation."""

    task: int = 0
    epoch: int = 0
    is_trained: bool = False


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run stood.

    Args:
        results: What `Results.to_dict` gave; the last trial may be under way.
        position: What comes next in that one.
        variables: What its model and its method knew, for `restore`; none
            between two trials.
    """

    results: Record
    position: Position = Position()
    variables: Sequence[Any] = ()

    def save(self, folder: Path) -> None:
        """Writes it into a run folder, in place of the one before."""
        record = {
            "schema": SCHEMA,
            "arrays": len(self.variables),
            "position": dataclasses.asdict(self.position),
            "results": files.as_json(self.results),
        }
        files.write_atomically(
            pathlib.Path(folder) / CHECKPOINT,
            lambda file: np.savez(
                file, *self.variables, record=json.dumps(record)
            ),
        )


def load(folder: Path) -> Checkpoint | None:
    """Reads the checkpoint of a run folder; `None` if there is none.

    Raises:
        DamagedFile: If it is not as it was written.
        RunError: If another version of keras-si has written it.
    """
    path = pathlib.Path(folder) / CHECKPOINT
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as members:
            # NumPy reads no further than the shape says, which may be wrong.
            damaged = members.testzip()
        if damaged is not None:
            raise ValueError(f"the CRC of {damaged} is wrong")
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        record = json.loads(str(arrays.pop("record")))
        if record["schema"] != SCHEMA:
            raise RunError(
                f"{path} has schema {record['schema']!r}, expected {SCHEMA}; "
                "continue with the version of keras-si that wrote it, or "
                "start again with --overwrite"
            )
        return Checkpoint(
            record["results"],
            Position(**record["position"]),
            [arrays[f"arr_{index}"] for index in range(record["arrays"])],
        )
    except ERRORS as error:
        raise files.DamagedFile(path, error) from error


def variables(model: keras.Model, method: Method) -> list[keras.Variable]:
    """Returns all that a model and its method know.

    Weights, where the random generators of dropout stand, the optimizer's
    state with SI's in it, and what the method remembers itself.
    """
    return [*model.variables, *model.optimizer.variables, *method.variables]


def restore(model: keras.Model, method: Method, arrays: Sequence[Any]) -> None:
    """Gives a new model, compiled, and its method what others knew.

    Raises:
        RunError: If the arrays do not fit the model. Nothing is assigned.
    """
    for callback in method.callbacks():
        # SI's state is part of the optimizer that it attaches.
        callback.set_model(model)
    model.optimizer.build(model.trainable_variables)
    targets = variables(model, method)
    found = [(array.shape, array.dtype.name) for array in arrays]
    if found != [(tuple(v.shape), str(v.dtype)) for v in targets]:
        raise RunError(
            f"the arrays of {CHECKPOINT} are not those of this run's model: "
            "another version of keras-si or Keras wrote it; continue with that "
            "version, or start again with --overwrite"
        )
    for variable, array in zip(targets, arrays, strict=True):
        variable.assign(array)
