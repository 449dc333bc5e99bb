"""All that a model and its method know, and how they get it back."""

import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from ..errors import RunError
from ..methods import Method


def variables(model: keras.Model, method: Method) -> list[keras.Variable]:
    """Returns all that they know, a list of `keras.Variable`.

    Weights, where the random generators of dropout stand, the optimizer's
    state with SI's in it, and what the method holds itself.
    """
    return [*model.variables, *model.optimizer.variables, *method.variables]


def restore(
    model: keras.Model, method: Method, files: Mapping[str, pathlib.Path]
) -> None:
    """Gives a new model, and its method, what another process knew.

    Args:
        model: The compiled model, as it is at a run's start.
        method: Its `Method`.
        files: Those of a `Checkpoint`.

    Raises:
        RunError: If a file cannot be read, or does not fit the model.
    """
    for callback in method.callbacks():
        # SI's state is part of the optimizer that it attaches.
        callback.set_model(model)
    model.optimizer.build(model.trainable_variables)
    _assign(variables(model, method), files["state"])


def _assign(targets: Sequence[keras.Variable], path: pathlib.Path) -> None:
    """Assigns the arrays of a file, or none of them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [file[f"arr_{index}"] for index in range(len(file.files))]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} could not be read: {error}") from error
    have = [(array.shape, array.dtype.name) for array in found]
    want = [(tuple(v.shape), v.dtype) for v in targets]
    if have != want:
        raise RunError(
            f"{path} holds {_described(have)}, but this run's model has "
            f"{_described(want)}: it was written by another keras-si or "
            "Keras; go on with that, or start anew with --overwrite"
        )
    for variable, array in zip(targets, found, strict=True):
        variable.assign(array)


def _described(arrays: Sequence[tuple[tuple[int, ...], str]]) -> str:
    size = sum(int(np.prod(shape)) for shape, _ in arrays)
    return f"{len(arrays)} arrays of {size} numbers"
