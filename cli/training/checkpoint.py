"""Where a run stands: one `.npz` with its arrays and its results so far.

It is written beside the old one and takes its place in one step, so a kill
at any moment leaves a whole one. Each member of an `.npz` has a CRC-32, which
shows what a disk or a person has changed since.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..errors import RunError
from ..experiments.config import RunConfig
from ..files import Path
from ..results import RESULTS
from ..results.results import Results
from .folder import CHECKPOINT, CONFIG

if TYPE_CHECKING:
    import keras

    from ..methods import Method

SCHEMA = 5


@dataclasses.dataclass(frozen=True)
class Position:
    """What comes next: an epoch of a task, or the task's evaluation."""

    task: int = 0
    epoch: int = 0
    is_trained: bool = False


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    The last trial of `results` may be under way: `position` is what comes next
    in it, and `variables` what its model and its method know. A new run has no
    results.
    """

    results: Results | None = None
    position: Position = Position()
    variables: Sequence[Any] = ()


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes it into a run folder, in place of the one before."""
    results = checkpoint.results
    record = {
        "schema": SCHEMA,
        "arrays": len(checkpoint.variables),
        "position": dataclasses.asdict(checkpoint.position),
        "results": results and results.to_dict(),
    }
    files.write_atomically(
        pathlib.Path(folder) / CHECKPOINT,
        lambda file: np.savez(
            file, *checkpoint.variables, record=json.dumps(record)
        ),
    )


def load(folder: Path) -> Checkpoint:
    """Reads the checkpoint of a run folder; refuses one of another version."""
    path = pathlib.Path(folder) / CHECKPOINT
    try:
        with zipfile.ZipFile(path) as members:
            # NumPy reads no further than the shape says, which may be wrong.
            damaged = members.testzip()
        if damaged is not None:
            raise ValueError(f"the CRC of {damaged} is wrong")
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        record = json.loads(str(arrays.pop("record")))
        schema = record["schema"]
        if schema == SCHEMA:
            return Checkpoint(
                Results.from_dict(record["results"]),
                Position(**record["position"]),
                [arrays[f"arr_{index}"] for index in range(record["arrays"])],
            )
    except Exception as error:  # zipfile and NumPy raise a dozen kinds.
        raise files.DamagedFile(path, error) from error
    raise RunError(
        f"{path} has schema {schema!r}, expected {SCHEMA}; continue with the "
        "version of keras-si that wrote it, or start again with --overwrite"
    )


def find(folder: Path, config: RunConfig) -> tuple[Checkpoint, list[str]]:
    """Returns where the run in a folder stands, and notes on damaged files.

    The checkpoint knows it. Without a good one, the trials that are finished
    are in the results, and the others start from their beginning.

    Raises:
        RunError: If no file is good, or they are of a run with other options.
    """
    path, notes = pathlib.Path(folder), []
    results = checkpoint = None
    try:
        if (path / RESULTS).exists():
            results = Results.load(path)
    except files.DamagedFile as error:
        notes.append(f"{error}; it is not used")
    try:
        if (path / CHECKPOINT).exists():
            checkpoint = load(path)
    except files.DamagedFile as error:
        notes.append(f"{error}; it is not used")
    for each in (results, checkpoint.results if checkpoint else None):
        if each is not None:
            _check_same(config, each)
    if checkpoint is not None:
        return checkpoint, notes
    if results is None and notes:
        raise RunError(
            f"{'; '.join(notes)}. Nothing is left to continue from: name "
            "another folder, or start again with --overwrite"
        )
    if results is not None:
        finished = [trial for trial in results.trials if trial.is_over]
        if len(finished) < len(results.trials):
            notes.append(
                f"there is no good {CHECKPOINT} in {path}: what was not "
                "finished starts from its beginning"
            )
        results.trials = finished
    return Checkpoint(results), notes


def _check_same(config: RunConfig, other: Results) -> None:
    for name, value in files.as_json(config.to_dict()).items():
        if value != other.config.get(name):
            raise RunError(
                f"the folder has files of a run with {name} "
                f"{other.config.get(name)}, but {CONFIG} has {value}: start "
                "again with --overwrite"
            )


def variables(model: keras.Model, method: Method) -> list[keras.Variable]:
    """Returns the variables of a model and its method.

    Weights, the states of dropout's random generators, the optimizer's state
    with SI's in it, and what the method remembers itself.
    """
    return [*model.variables, *model.optimizer.variables, *method.variables]


def restore(model: keras.Model, method: Method, arrays: Sequence[Any]) -> None:
    """Gives a new model, compiled, and its method what others knew."""
    for callback in method.callbacks():
        # SI's state is part of the optimizer that it attaches.
        callback.set_model(model)
    model.optimizer.build(model.trainable_variables)
    targets = variables(model, method)
    found = [(array.shape, array.dtype.name) for array in arrays]
    if found != [(tuple(v.shape), str(v.dtype)) for v in targets]:
        raise RunError(
            f"the arrays of {CHECKPOINT} do not fit this run's model: another "
            "version of keras-si or Keras wrote them; continue with that "
            "version, or start again with --overwrite"
        )
    for variable, array in zip(targets, arrays, strict=True):
        variable.assign(array)
