"""Numbers for a whole run, from its accuracy matrix.

The accuracy matrix of a run over `T` tasks has the shape `(T, T)`:
`accuracy[i, j]` is the accuracy on the test set of task `j` after training
on task `i` (both counted from 0), and NaN where it was not measured. Every
function here takes fractions as well as percent, and returns a float of the
same unit. It raises a `ValueError` if the matrix is not square, holds an
infinity, or lacks an entry that is needed. Where a single task leaves nothing
to compare, transfer and forgetting are NaN.

References:

- Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning",
  NeurIPS 2017, section 2 (ACC, BWT, FWT).
- Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018,
  section 3.1 (forgetting).
"""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def average_accuracy(accuracy: ArrayLike, after: int | None = None) -> float:
    """Mean accuracy over the tasks met so far.

    `ACC = mean over j <= i of accuracy[i, j]` with `i` the last task (ACC of
    Lopez-Paz & Ranzato 2017), or the task named by `after`.

    Args:
        accuracy: The accuracy matrix, shape `(T, T)`.
        after: Index of the task after which to take the mean, from 0 to
            `T - 1`. Defaults to the last task.

    Examples:
        >>> average_accuracy([[0.9, np.nan], [0.5, 0.7]])
        0.6
    """
    accuracy = _matrix(accuracy)
    num_tasks = len(accuracy)
    after = num_tasks - 1 if after is None else after
    if type(after) is bool or not isinstance(after, numbers.Integral):
        raise ValueError(
            f"`after` must be the index of a task. Received: after={after!r}."
        )
    if not 0 <= after < num_tasks:
        raise ValueError(
            f"`after` must be the index of a task, from 0 to {num_tasks - 1}. "
            f"Received: after={after}."
        )
    return float(_measured(accuracy[after, : after + 1], f"row {after}").mean())


def backward_transfer(accuracy: ArrayLike) -> float:
    """What learning later tasks did to the earlier ones; below 0 is loss.

    `BWT = mean over j < T-1 of accuracy[T-1, j] - accuracy[j, j]`
    (Lopez-Paz & Ranzato 2017).

    Args:
        accuracy: The accuracy matrix, shape `(T, T)`.

    Examples:
        >>> round(backward_transfer([[0.9, np.nan], [0.5, 0.7]]), 6)
        -0.4
    """
    accuracy = _matrix(accuracy)
    if len(accuracy) == 1:
        return float("nan")
    learned = _measured(np.diagonal(accuracy)[:-1], "the diagonal")
    final = _measured(accuracy[-1, :-1], "the last row")
    return float((final - learned).mean())


def forward_transfer(accuracy: ArrayLike, baseline: ArrayLike) -> float:
    """What learning earlier tasks did to the tasks not met yet.

    `FWT = mean over j > 0 of accuracy[j-1, j] - baseline[j]` (Lopez-Paz &
    Ranzato 2017). It needs each task to be measured before it is learned.

    Args:
        accuracy: The accuracy matrix, shape `(T, T)`.
        baseline: Accuracy of the untrained model on each task, shape `(T,)`.
            `baseline[0]` is not used.

    Examples:
        >>> round(forward_transfer([[0.9, 0.3], [0.5, 0.7]], [0.1, 0.1]), 6)
        0.2
    """
    accuracy = _matrix(accuracy)
    baseline = np.asarray(baseline, dtype="float64")
    num_tasks = len(accuracy)
    if baseline.shape != (num_tasks,):
        raise ValueError(
            f"`baseline` must hold one accuracy for each of the {num_tasks} "
            f"tasks, shape ({num_tasks},). Received: shape {baseline.shape}."
        )
    if num_tasks == 1:
        return float("nan")
    before = _measured(np.diagonal(accuracy, offset=1), "the upper diagonal")
    return float((before - _measured(baseline[1:], "`baseline`")).mean())


def forgetting(accuracy: ArrayLike) -> float:
    """How far the earlier tasks fell from their best; above 0 is loss.

    `F = mean over j < T-1 of (max over j <= i < T-1 of accuracy[i, j]) -
    accuracy[T-1, j]` (Chaudhry et al. 2018). The maximum leaves out the last
    row, and nothing is clipped: a negative value says that the last task
    improved the earlier ones.

    Args:
        accuracy: The accuracy matrix, shape `(T, T)`.

    Examples:
        >>> round(forgetting([[0.9, np.nan], [0.5, 0.7]]), 6)
        0.4
    """
    accuracy = _matrix(accuracy)
    if len(accuracy) == 1:
        return float("nan")
    final = _measured(accuracy[-1, :-1], "the last row")
    best = [
        _measured(accuracy[task:-1, task], f"column {task}").max()
        for task in range(len(accuracy) - 1)
    ]
    return float((np.array(best) - final).mean())


def _matrix(accuracy: ArrayLike) -> np.ndarray:
    accuracy = np.asarray(accuracy, dtype="float64")
    square = accuracy.ndim == 2 and accuracy.shape[0] == accuracy.shape[1]
    if not square or accuracy.size == 0:
        raise ValueError(
            "`accuracy` must be a square matrix, accuracy[i, j] being the "
            "accuracy on task j after task i. "
            f"Received: shape {accuracy.shape}. Fill what was not measured "
            "with NaN."
        )
    if np.isinf(accuracy).any():
        raise ValueError(
            "`accuracy` must hold finite numbers, or NaN where nothing was "
            "measured. Received: an infinite value."
        )
    return accuracy


def _measured(values: np.ndarray, where: str) -> np.ndarray:
    """Returns `values`, refusing to average over what was not measured."""
    missing = np.flatnonzero(np.isnan(values))
    if missing.size:
        raise ValueError(
            "This metric needs accuracies that were not measured. Received: "
            f"NaN in {where}, at position {missing.tolist()}. Evaluate those "
            "tasks, or leave them out of the matrix."
        )
    return values
