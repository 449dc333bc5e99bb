"""NaN and infinity: kept out of SI's state, and said."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from keras import ops

if TYPE_CHECKING:
    from keras_si.state import SIState


def warn(state: SIState, stacklevel: int) -> None:
    """Says what is not finite, and drops it from the path integral.

    Args:
        state: The `SIState`.
        stacklevel: That of the warning, counted from the caller.
    """
    dropped = _drop_from_path_integrals(state)
    if dropped:
        where = ", ".join(f"{n} in '{p}'" for p, n in dropped.items())
        warnings.warn(
            "SICallback: NaN or infinite gradients reached the path "
            f"integral. These elements of it were set to 0: {where}. "
            "Lower the learning rate or clip the gradients.",
            stacklevel=stacklevel + 1,
        )
    broken = broken_weights(state)
    if broken:
        warnings.warn(
            "SICallback: there are NaN or infinite values in the weights "
            f"of {broken}. The steps that made them are not in the path "
            "integral, and nothing will be consolidated until the weights "
            "are finite again.",
            stacklevel=stacklevel + 1,
        )


def refuse_to_consolidate(state: SIState) -> None:
    """Raises a `ValueError` if a tracked weight is not finite."""
    broken = broken_weights(state)
    if broken:
        raise ValueError(
            "Cannot consolidate: there are NaN or infinite values in the "
            f"weights of {broken}. Importance and reference are kept as "
            "they were. Restore finite weights (for instance with "
            "`model.load_weights`), then go on."
        )


def broken_weights(state: SIState) -> list[str]:
    """Returns the paths of tracked variables that are not finite."""
    return [
        variable.path
        for slot, variable in enumerate(state.variables)
        if not bool(ops.all(ops.isfinite(state.weights(slot))))
    ]


def _drop_from_path_integrals(state: SIState) -> dict[str, int]:
    """Zeroes what is not finite in omega; returns its count by path."""
    dropped = {}
    for variable, omega in zip(
        state.variables, state.path_integrals, strict=True
    ):
        value = ops.convert_to_tensor(omega)
        finite = ops.isfinite(value)
        count = int(ops.sum(ops.cast(~finite, "int32")))
        if count:
            dropped[variable.path] = count
            omega.assign(ops.where(finite, value, ops.zeros_like(value)))
    return dropped
