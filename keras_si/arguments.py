"""Checks of what users pass to `SICallback` and `SIRegularizer`."""

import math
import numbers
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import keras
import numpy as np

# Which variables to track: regular expressions for their paths, or a function.
Predicate: TypeAlias = Callable[[keras.Variable], bool]
Patterns: TypeAlias = str | Iterable[str] | Predicate

# When a task ends.
Consolidate: TypeAlias = Literal["train_end", "epoch_end"] | int


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
            f"Received: {bad.size} values that are negative or not finite, "
            f"e.g. {bad[0]}. Rectify it, with `keras.ops.relu` for instance."
        )


def check_consolidate(consolidate: Consolidate | None) -> Consolidate | None:
    if consolidate is None or (
        isinstance(consolidate, str)
        and consolidate in ("train_end", "epoch_end")
    ):
        return consolidate
    if (
        isinstance(consolidate, numbers.Integral)
        and not isinstance(consolidate, bool)
        and consolidate >= 2
    ):
        return int(consolidate)
    raise ValueError(
        '`consolidate` must be "train_end", "epoch_end", an int of at least 2 '
        "(every so many optimizer steps) or None. Received: "
        f"{consolidate!r}. After a single step SI has no effect: where a task "
        "begins, at its reference, the gradient of the penalty is 0."
    )


def check_patterns(
    name: str, patterns: Patterns | None
) -> Predicate | tuple[str, ...] | None:
    """Returns regular expressions as a tuple, anything else as it is."""
    if patterns is None or callable(patterns):
        return patterns
    given = [patterns] if isinstance(patterns, str) else patterns
    try:
        # As text: bytes compile too, and fit no path.
        checked = tuple("" + pattern for pattern in given)
        for pattern in checked:
            re.compile(pattern)
    except (TypeError, re.error) as error:
        raise ValueError(
            f"`{name}` must be a regular expression, a list of them, or a "
            f"callable `variable -> bool`. Received: {patterns!r} ({error})."
        ) from error
    return checked


def matches(
    patterns: Predicate | tuple[str, ...], variable: keras.Variable, name: str
) -> bool:
    """Whether a variable is meant: by its path, or its name of `unique_names`.

    Patterns mean every variable of a path; with the suffix, one of them.
    """
    if callable(patterns):
        return bool(patterns(variable))
    return any(
        re.search(pattern, text)
        for pattern in patterns
        for text in (variable.path, name)
    )


def unique_names(variables: Iterable[keras.Variable]) -> list[str]:
    """Returns the path of each variable, no two alike.

    Keras allows two layers one path, in towers for instance: the second has
    the suffix `#2`, the third `#3`.
    """
    names, seen = [], dict[str, int]()
    for variable in variables:
        path = variable.path
        seen[path] = count = seen.get(path, 0) + 1
        names.append(path if count == 1 else f"{path}#{count}")
    return names


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False
