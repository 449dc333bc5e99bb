"""Checks of what users pass to `SICallback` and `SIRegularizer`."""

import math
import numbers
import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_si.types import Consolidate, Patterns, Predicate

# Callbacks of Keras that save the whole state.
SAVING = (keras.callbacks.BackupAndRestore, keras.callbacks.ModelCheckpoint)


def check_strength(strength: Any) -> float:
    if not _is_number(strength) or strength < 0:
        raise ValueError(
            "`strength` (c) must be a finite number, at least 0. Received: "
            f"strength={strength!r}. The paper uses 0.1 for permuted MNIST."
        )
    return float(strength)


def check_damping(damping: Any) -> float:
    if not _is_number(damping) or damping <= 0:
        raise ValueError(
            "`damping` (xi) must be a finite number above 0. Received: "
            f"damping={damping!r}. The paper uses 0.1 for permuted MNIST."
        )
    return float(damping)


def check_importance(importance: np.ndarray) -> None:
    good = np.isfinite(importance) & (importance >= 0)
    if not good.all():
        bad = importance[~good]
        raise ValueError(
            "`importance` (Omega) must hold finite numbers, at least 0: a "
            "negative one would push the weight away from its reference. "
            f"Received: {bad.size} of another kind, the first {bad[0]}. "
            "Rectify it, with `keras.ops.relu` for instance."
        )


def check_order(
    callbacks: Iterable[keras.callbacks.Callback],
    callback: keras.callbacks.Callback,
) -> None:
    """Refuses to have an epoch saved before `callback` has ended it."""
    callbacks = list(callbacks)
    # Within another callback it is called when that one sees fit.
    if callback not in callbacks:
        return
    for each in callbacks[: callbacks.index(callback)]:
        if isinstance(each, SAVING) and each.save_freq == "epoch":
            name = type(each).__name__
            raise ValueError(
                '`consolidate="epoch_end"` needs the SICallback before '
                f"{name} in the list of callbacks: what is saved would lack "
                "what the epoch's end does to SI's state. Received: "
                f"{name} first. List the SICallback before it."
            )


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def check_consolidate(consolidate: Consolidate | None) -> Consolidate | None:
    if consolidate is None or (
        isinstance(consolidate, str)
        and consolidate in ("train_end", "epoch_end")
    ):
        return consolidate
    if (
        isinstance(consolidate, numbers.Integral)
        and not isinstance(consolidate, bool)
        and consolidate >= 1
    ):
        return int(consolidate)
    raise ValueError(
        '`consolidate` must be "train_end", "epoch_end", a positive int (every '
        f"so many optimizer steps) or None. Received: {consolidate!r}."
    )


def as_predicate(name: str, patterns: Patterns | None) -> Predicate | None:
    if patterns is None or callable(patterns):
        return patterns
    if isinstance(patterns, str):
        patterns = [patterns]
    try:
        # As text: bytes compile too, and fit no path.
        compiled = [re.compile("" + pattern) for pattern in patterns]
    except (TypeError, re.error) as error:
        raise ValueError(
            f"`{name}` must be a regular expression, a list of them, or a "
            f"callable `variable -> bool`. Received: {patterns!r} ({error})."
        ) from error
    return lambda variable: any(p.search(variable.path) for p in compiled)
