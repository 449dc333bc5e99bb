"""What a file has of SI: the state's variables, and what frozen layers know.

Keras gives an optimizer a `store`, a dict of arrays, to write and to read.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_si.diagnostics import check_not_erased
from keras_si.links import link_of
from keras_si.state import SIState

# Variables that are not tracked: positions in `model.weights` and the ends of
# their paths, as JSON. A store without it is of another optimizer. Arrays have
# what SI knows of a frozen one.
FROZEN = "frozen"


def save(
    state: SIState, variables: Sequence[keras.Variable], store: dict[str, Any]
) -> None:
    """Writes `variables`, which are all of `state`, and what is frozen."""
    check_not_erased(state)
    merged = _merged_by_keras(state)
    for index, variable in enumerate(variables):
        array = ops.convert_to_numpy(variable)
        if id(variable) in merged:
            array = np.zeros_like(array)
        store[str(index)] = array
    frozen = dict(state.loaded)
    for position, variable in state.others:
        found, end = link_of(variable), end_of_path(variable)
        if found is not None and not variable.trainable:
            frozen[position] = end, found.known()
        else:
            frozen.setdefault(position, (end, ()))
    ends = {position: end for position, (end, _) in frozen.items()}
    store[FROZEN] = np.frombuffer(json.dumps(ends).encode(), "uint8")
    for position, (_, known) in frozen.items():
        for part, array in enumerate(known):
            store[f"{FROZEN}_{position}_{part}"] = ops.convert_to_numpy(array)


def end_of_path(variable: keras.Variable) -> str:
    """Returns layer and variable: what stays the same in a loaded model."""
    return "/".join(variable.path.split("/")[-2:])


def _merged_by_keras(state: SIState) -> set[int]:
    """Returns the ids of the state of LoRA's matrices, and warns of it.

    Keras adds their product to the kernel when it saves a model, and loads
    zeros.
    """
    lora = [
        slot
        for slot, variable in enumerate(state.variables)
        if variable.name.startswith(("lora_kernel_", "lora_embeddings_"))
    ]
    if lora:
        warnings.warn(
            "Keras merges LoRA's matrices into the kernel when it saves a "
            "model, so SI's state of "
            f"{[state.names[slot] for slot in lora]} is saved as zeros: a "
            "loaded model does not protect what they have learned. This model "
            "is unchanged.",
            stacklevel=4,
        )
    return {id(arrays[slot]) for arrays in state.arrays for slot in lora}


def has_state(store: Mapping[str, Any]) -> bool:
    """Whether an SI optimizer wrote `store`."""
    return FROZEN in set(store.keys())


def load(
    state: SIState,
    variables: Sequence[keras.Variable],
    store: Mapping[str, Any],
) -> None:
    """Reads what `save` has written.

    Raises:
        ValueError: If it does not fit. Nothing is changed then.
    """
    keys = set(store.keys())
    problems = [
        f"'{variable.path}' has shape {tuple(variable.shape)}, the saved "
        f"array {tuple(store[str(i)].shape) if str(i) in keys else 'none'}"
        for i, variable in enumerate(variables)
        if str(i) not in keys or store[str(i)].shape != tuple(variable.shape)
    ]
    count = sum(not key.startswith(FROZEN) for key in keys)
    if problems or count != len(variables):
        raise ValueError(
            f"The saved SI state does not fit this model: it has {count} "
            f"arrays, expected {len(variables)}"
            f"{'; ' + problems[0] if problems else ''}. Load it into the "
            "model it was saved from, with the same layers trainable and the "
            "same `include` and `exclude`. SI's state is unchanged, and "
            "`model.load_weights` leaves the weights as they were."
        )
    for index, variable in enumerate(variables):
        variable.assign(store[str(index)])
    state.loaded = {
        int(position): (
            end,
            [
                np.array(store[key])
                for part in range(3)
                if (key := f"{FROZEN}_{position}_{part}") in keys
            ],
        )
        for position, end in json.loads(bytes(np.array(store[FROZEN]))).items()
    }
    for position, variable in state.others:
        # A layer that was frozen in this process keeps its state elsewhere.
        end, known = state.loaded.get(position, ("", ()))
        found = link_of(variable)
        if found is not None and known and end == end_of_path(variable):
            for mine, saved in zip(found.known(), known, strict=True):
                mine.assign(saved)
