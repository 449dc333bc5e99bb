"""The penalty of one variable, as a Keras regularizer."""

from typing import Any

import keras
from keras import ops

from keras_si import equations
from keras_si.arguments import check_importance, check_strength
from keras_si.equations import Tensor


@keras.saving.register_keras_serializable(package="keras_si")
class SIRegularizer(keras.regularizers.Regularizer):
    """Keeps one variable near the weights that earlier tasks ended with.

    Calling it with theta, of the weights' shape, gives
    `c * sum(Omega * (theta - theta~)^2)` (Zenke, Poole & Ganguli, ICML 2017,
    equation 4), a scalar in the unit of the loss, plus the penalty of the
    regularizer that was there before; so Omega is in units of loss over
    squared weights. It is an ordinary differentiable regularizer with fixed
    importance. `SICallback` puts a subclass of it on every variable that it
    tracks.

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

    def __call__(self, x: Tensor) -> Tensor:
        penalty = self.penalty(x)
        if self.previous is None:
            return penalty
        return penalty + ops.cast(self.previous(x), penalty.dtype)

    def penalty(self, x: Tensor) -> Tensor:
        """Returns SI's own penalty at the weights `x`, a scalar."""
        if tuple(x.shape) != tuple(self.importance.shape):
            raise ValueError(
                "SIRegularizer has the importance and the reference of one "
                f"variable, of shape {tuple(self.importance.shape)}. "
                f"Received: weights of shape {tuple(x.shape)}. Make a "
                "regularizer for each variable."
            )
        return equations.penalty(
            ops.cast(x, self.reference.dtype),
            ops.convert_to_tensor(self.importance),
            ops.convert_to_tensor(self.reference),
            ops.cast(self.strength, self.reference.dtype),
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
