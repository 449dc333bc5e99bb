"""The penalty of one variable, as a Keras regularizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_si import importance as si
from keras_si.arguments import check_importance, check_strength
from keras_si.types import Tensor

if TYPE_CHECKING:
    from keras_si.regularizer_group import RegularizerGroup


@keras.saving.register_keras_serializable(package="keras_si")
class SIRegularizer(keras.regularizers.Regularizer):
    """Holds one variable near the weights that earlier tasks settled on.

    Calling it with theta, of the weights' shape, gives
    `c * sum(Omega * (theta - theta~)^2)` (Zenke, Poole & Ganguli, ICML 2017,
    equation 4), a scalar in the unit of the loss, plus the penalty of the
    regularizer that was there before; so Omega is in units of loss over
    squared weights. `SICallback` makes one for every variable
    it tracks; used alone, it is an ordinary differentiable regularizer with
    fixed importance.

    Args:
        strength: c, a float or a scalar `keras.Variable`, at least 0.
        importance: Omega, an array or `keras.Variable` of the weights' shape,
            at least 0. The values of a variable, which may change, are not
            checked.
        reference: theta~, an array or `keras.Variable` of the same shape.
        previous: The regularizer that the variable had before, or `None`
            (the default). Its penalty is added.

    Raises:
        ValueError: If `strength` is not a number of at least 0, if
            `importance` has elements that are not, or if `importance` and
            `reference` differ in shape; when called, if the weights do.

    Attached by `SICallback`, its value carries no gradient: the optimizer adds
    that itself.

    Examples:
        >>> regularizer = SIRegularizer(
        ...     strength=0.5, importance=[2.0, 0.0], reference=[1.0, 1.0]
        ... )
        >>> float(regularizer(keras.ops.array([3.0, 9.0])))
        4.0
    """

    def __init__(
        self,
        strength: float | keras.Variable,
        importance: Tensor,
        reference: Tensor,
        previous: keras.regularizers.Regularizer | str | None = None,
    ) -> None:
        self.strength = (
            strength
            if isinstance(strength, keras.Variable)
            else check_strength(strength)
        )
        self.importance = _as_state(importance)
        if not isinstance(importance, keras.Variable):
            check_importance(ops.convert_to_numpy(self.importance))
        self.reference = _as_state(reference)
        self.previous = keras.regularizers.get(previous)
        if tuple(self.importance.shape) != tuple(self.reference.shape):
            raise ValueError(
                "SIRegularizer needs `importance` and `reference` of one "
                f"shape. Received: {tuple(self.importance.shape)} and "
                f"{tuple(self.reference.shape)}. Pass both with the shape of "
                "the weights that are regularized."
            )
        # The `RegularizerGroup` of the SI optimizer that drives this variable,
        # where there is one.
        self.group: RegularizerGroup | None = None
        # The penalty to answer with where that optimizer knows it already:
        # while a step is running.
        self.known_penalty: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.known_penalty is not None:
            penalty = self.known_penalty
        else:
            self._check_shape(x)
            penalty = si.penalty(
                ops.cast(x, self.reference.dtype),
                ops.convert_to_tensor(self.importance),
                ops.convert_to_tensor(self.reference),
                self.strength,
            )
        if self.group is not None:
            # The optimizer adds the gradient itself, in closed form.
            penalty = ops.stop_gradient(penalty)
        if self.previous is None:
            return penalty
        return penalty + ops.cast(self.previous(x), self.reference.dtype)

    def _check_shape(self, x: Tensor) -> None:
        if tuple(x.shape) != tuple(self.importance.shape):
            raise ValueError(
                "SIRegularizer has the importance and the reference of one "
                f"variable, of shape {tuple(self.importance.shape)}. "
                f"Received: weights of shape {tuple(x.shape)}. Make a "
                "regularizer for each variable."
            )

    def get_config(self) -> dict[str, Any]:
        return {
            "strength": float(ops.convert_to_numpy(self.strength)),
            "importance": ops.convert_to_numpy(self.importance).tolist(),
            "reference": ops.convert_to_numpy(self.reference).tolist(),
            "previous": keras.regularizers.serialize(self.previous)
            if self.previous is not None
            else None,
        }


def _as_state(value: Tensor) -> Tensor:
    if isinstance(value, keras.Variable):
        return value
    return ops.convert_to_tensor(value, dtype=keras.config.floatx())
