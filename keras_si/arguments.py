"""Checks of what users pass to keras-si."""

import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
from keras import ops

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


def check_importance(
    importance: np.ndarray, name: str = "`importance`"
) -> None:
    good = np.isfinite(importance) & (importance >= 0)
    if not good.all():
        bad = importance[~good]
        raise ValueError(
            f"{name} (Omega) must hold finite numbers, at least 0: a "
            "negative one would push the weight away from its reference. "
            f"Received: {bad.size} values that are negative or not finite, "
            f"e.g. {bad[0]}. Rectify it, with `keras.ops.relu` for instance."
        )


def check_added_importance(
    importance: Mapping[str, Any],
    scale: float,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Returns `scale * importance` in float32 or wider.

    Args:
        importance: What was passed to `add_importance`.
        scale: Likewise.
        shapes: Of the tracked variables, by name.
    """
    if not _is_number(scale) or scale < 0:
        raise ValueError(
            "`scale` must be a finite number, at least 0. Received: "
            f"scale={scale!r}."
        )
    if not isinstance(importance, Mapping) or not importance:
        raise ValueError(
            "`importance` must be a dict of `variable.path` to array, as "
            f"`fisher_importance` returns it. Received: {importance!r}."
        )
    unknown = [name for name in importance if name not in shapes]
    if unknown:
        raise ValueError(
            f"`importance` has {unknown}, which SI does not track here: "
            f"tracked are {[*shapes]}. Leave out what is frozen or excluded. A "
            "model that was built again, or loaded, may have other paths: "
            "estimate on this very model, or rename with `dict(zip("
            "si.get_importance(), importance.values(), strict=True))`."
        )
    added = {}
    for name, values in importance.items():
        array = np.asarray(ops.convert_to_numpy(values))
        if array.shape != shapes[name]:
            raise ValueError(
                f"`importance` of '{name}' must have the variable's shape "
                f"{shapes[name]}. Received: {array.shape}. Estimate it on "
                "this very model."
            )
        dtype = np.result_type(array, "float32")
        with np.errstate(over="ignore"):  # infinity is refused
            added[name] = (scale * array.astype("float64")).astype(dtype)
        check_importance(added[name], f"`importance` of '{name}'")
    return added


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


def check_count(name: str, value: Any, least: int) -> int:
    if (
        not isinstance(value, numbers.Integral)
        or isinstance(value, bool)
        or value < least
    ):
        raise ValueError(
            f"`{name}` must be an int, at least {least}. Received: "
            f"{name}={value!r}."
        )
    return int(value)


def check_progress_bar(verbose: Any, target: int) -> keras.utils.Progbar:
    """Returns a progress bar as `fit` understands `verbose`."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(
            f'`verbose` must be "auto", 0, 1 or 2. Received: {verbose!r}.'
        )
    level = 1 if verbose == "auto" else int(verbose)
    return keras.utils.Progbar(target, verbose=level, unit_name="sample")


def check_trained(model: Any) -> None:
    """Refuses what is no trained model."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "`fisher_importance` needs a built `keras.Model`. Received: "
            f"{_short(model)}. Build it first: call it once on a batch."
        )
    if not model.trainable_variables:
        raise ValueError(
            f"'{model.name}' has no trainable variables, so there is nothing "
            "to protect. Set `trainable` of the layers that will be trained."
        )
    names = unique_names(model.variables)
    broken = [
        name
        for name, variable in zip(names, model.variables, strict=True)
        if "float" in variable.dtype
        and not bool(ops.all(ops.isfinite(ops.convert_to_tensor(variable))))
    ]
    if broken:
        raise ValueError(
            f"There are NaN or infinite values in the weights of {broken}. "
            "Restore finite weights, then estimate."
        )


def check_samples(x: Any) -> tuple[Any, int]:
    """Returns `x`, its tensors as numpy arrays, and the number of samples."""
    x = keras.tree.map_structure(
        lambda leaf: (
            ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else leaf
        ),
        x,
    )
    leaves = keras.tree.flatten(x)
    if not leaves or not all(getattr(leaf, "shape", ()) for leaf in leaves):
        raise ValueError(
            "`x` must be an array with the samples first, or a list or dict "
            f"of such arrays. Received: {_short(x)}. Collect some batches of "
            "a dataset or a generator first, for instance with "
            "`np.concatenate([x for x, _ in dataset.take(8)])`."
        )
    lengths = [int(leaf.shape[0]) for leaf in leaves]
    if len({*lengths}) > 1 or not lengths[0]:
        raise ValueError(
            "All arrays in `x` must have the same number of samples, at "
            f"least one. Received: {lengths} samples."
        )
    return x, lengths[0]


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
    """Returns a name for each variable: its path, made unique.

    Keras allows two layers one path, in towers for instance: the second has
    the suffix `#2`, the third `#3`.
    """
    names, seen = [], dict[str, int]()
    for variable in variables:
        path = variable.path
        seen[path] = count = seen.get(path, 0) + 1
        names.append(path if count == 1 else f"{path}#{count}")
    return names


def names_by_id(model: keras.Model) -> dict[int, str]:
    """Returns the unique name of each variable of `model`, by its id."""
    variables = model.variables
    return dict(zip(map(id, variables), unique_names(variables), strict=True))


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
