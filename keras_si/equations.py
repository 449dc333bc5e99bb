"""The arithmetic of Synaptic Intelligence: pure functions of tensors.

Symbols are those of Zenke, Poole & Ganguli, "Continual Learning Through
Synaptic Intelligence" (ICML 2017). Every tensor argument of a function has
the shape of the weights it belongs to; nothing here has state.
"""

from typing import Any, TypeAlias

from keras import ops

# A tensor of the backend, or what its operations take for one: Keras has no
# type for it.
Tensor: TypeAlias = Any

_LANES = 4


def accumulate(
    path_integral: Tensor, gradient: Tensor, before: Tensor, after: Tensor
) -> Tensor:
    """Returns omega after one optimizer step (equation 3 of the paper).

    `omega - gradient * (after - before)`: the fall of the task's loss along
    the step, as each weight saw it. A weight that is no longer finite
    contributes nothing, so the sum over the good steps before stays usable.

    Args:
        path_integral: omega, the running sum of this task, in the unit of
            the loss.
        gradient: Gradient of the task's loss alone at `before`.
        before: theta when the gradient was taken.
        after: theta after the step that really happened.

    Examples:
        >>> float(accumulate(3.0, gradient=2.0, before=1.0, after=0.5))
        4.0
    """
    contribution = -gradient * (after - before)
    return path_integral + ops.where(
        ops.isfinite(after), contribution, ops.zeros_like(contribution)
    )


def consolidate(
    importance: Tensor,
    path_integral: Tensor,
    weights: Tensor,
    reference: Tensor,
    damping: float | Tensor,
) -> Tensor:
    """Returns Omega at a task's end (equation 5 of the paper).

    `relu(Omega + omega / ((theta - theta~)^2 + xi))`. What is rectified is
    the running sum, as in the authors' own code.

    Args:
        importance: Omega of the tasks before, in units of loss over squared
            weights.
        path_integral: omega of the task that ends.
        weights: theta now.
        reference: theta~, the weights when the task before ended.
        damping: xi, above 0, in units of squared weights.

    Examples:
        >>> float(consolidate(3.0, 1.0, 0.5, 1.0, damping=0.25))
        5.0
    """
    change = ops.square(weights - reference) + damping
    return ops.relu(importance + path_integral / change)


def penalty(
    weights: Tensor,
    importance: Tensor,
    reference: Tensor,
    strength: float | Tensor,
) -> Tensor:
    """Returns `c * sum(Omega * (theta - theta~)^2)`, a scalar (equation 4).

    Args:
        weights: theta.
        importance: Omega.
        reference: theta~.
        strength: c. There is no factor 1/2.

    Examples:
        >>> weights, importance = ops.array([3.0, 9.0]), ops.array([2.0, 0.0])
        >>> float(penalty(weights, importance, ops.ones(2), strength=0.5))
        4.0
    """
    return strength * _sum(importance * ops.square(weights - reference))


def penalty_gradient(
    weights: Tensor,
    importance: Tensor,
    reference: Tensor,
    strength: float | Tensor,
) -> Tensor:
    """Returns the gradient of `penalty`: `2 * c * Omega * (theta - theta~)`.

    Args:
        weights: theta.
        importance: Omega.
        reference: theta~.
        strength: c.

    Examples:
        >>> float(penalty_gradient(3.0, 2.0, 1.0, strength=0.5))
        4.0
    """
    return 2.0 * strength * importance * (weights - reference)


def _sum(x: Tensor) -> Tensor:
    """Sums all of `x`, four rows at a time.

    A compiler may not reorder floating-point sums, so a plain sum of millions
    of numbers is one long chain of dependent additions: slow, and it loses
    digits. Independent lanes and a second level cure both.
    """
    if len(x.shape) > 1:
        x = ops.reshape(x, (-1, x.shape[-1]))
    rows = x.shape[0] // _LANES if len(x.shape) == 2 else 0
    if rows == 0:
        return ops.sum(x)
    lanes = x[:rows]
    for lane in range(1, _LANES):
        lanes = lanes + x[lane * rows : (lane + 1) * rows]
    return ops.sum(ops.sum(lanes, axis=1)) + ops.sum(x[_LANES * rows :])
