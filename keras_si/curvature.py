"""A square root of the second derivative of each loss.

z is a model's output for one sample, p the probabilities in it, H the second
derivative of the sample's loss by z. For the losses here H depends on no label:
it is the Fisher information of z. S is a square root of it, S S^T = H. With a
vector a of random signs, the mean of (S a) (S a)^T is H.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import losses, ops

from keras_si.equations import Tensor


def categorical(
    output: Tensor, signs: Tensor, from_logits: bool = False, axis: int = -1
) -> Tensor:
    """Returns a scalar with the derivative S a by z, for a cross-entropy.

    H is `diag(p) - p p^T` at each position, over the number of positions.

    Args:
        output: Logits or probabilities of one sample, `(1, ..., classes)`.
        signs: a, of the same shape.
        from_logits: Which of them. Defaults to `False`: probabilities.
        axis: Where the classes are. Defaults to -1.
    """
    if from_logits:
        p, z = ops.softmax(output, axis=axis), output
    else:
        # z is log p then: S a adds up to 0, and a constant in z is nothing.
        p = output / ops.sum(output, axis=axis, keepdims=True)
        z = ops.log(ops.where(output > 0, output, ops.ones_like(output)))
    root = ops.sqrt(p) * signs
    s = root - p * ops.sum(root, axis=axis, keepdims=True)
    positions = math.prod(signs.shape) / signs.shape[axis]
    return ops.sum(ops.stop_gradient(s) * z) / math.sqrt(positions)


def binary(output: Tensor, signs: Tensor, from_logits: bool = False) -> Tensor:
    """The same for a binary cross-entropy: p (1 - p) over all outputs."""
    if from_logits:
        s = ops.sqrt(ops.sigmoid(output) * ops.sigmoid(-output))
    else:
        # By the output p in place of z, and dz = dp / (p (1 - p)).
        variance = output * (1 - output)
        sure = variance <= 0
        s = ops.rsqrt(ops.where(sure, ops.ones_like(variance), variance))
        s = ops.where(sure, ops.zeros_like(s), s)
    s = ops.stop_gradient(s) * signs
    return ops.sum(s * output) / math.sqrt(math.prod(signs.shape))


def squared(output: Tensor, signs: Tensor) -> Tensor:
    """The same for the mean squared error: 2 over the number of outputs."""
    return ops.sum(signs * output) * math.sqrt(2 / math.prod(signs.shape))


_OPTIONS = {
    categorical: ("from_logits", "axis"),
    binary: ("from_logits",),
    squared: (),
}
_KNOWN: dict[Any, Callable[..., Tensor]] = {
    losses.CategoricalCrossentropy: categorical,
    losses.categorical_crossentropy: categorical,
    losses.SparseCategoricalCrossentropy: categorical,
    losses.sparse_categorical_crossentropy: categorical,
    losses.BinaryCrossentropy: binary,
    losses.binary_crossentropy: binary,
    losses.MeanSquaredError: squared,
    losses.mean_squared_error: squared,
}


def of_loss(loss: Any) -> "functools.partial[Tensor]":
    """Returns the function above for a loss as `compile` takes it."""
    if loss is None:
        raise ValueError(
            "`fisher_importance` needs the loss that the model was trained "
            "with. Received: loss=None, and a model compiled without one. "
            'Pass it, or loss="mse", which suits any output.'
        )
    given = keras.tree.flatten(loss)
    loss = losses.get(given[0]) if len(given) == 1 else given
    is_object = isinstance(loss, keras.Loss)
    # Not what only inherits from them: it may compute something else.
    function = _KNOWN.get(type(loss) if is_object or len(given) != 1 else loss)
    config = loss.get_config() if is_object and function else {}
    if function is None or config.get("ignore_class") is not None:
        raise ValueError(
            "`fisher_importance` knows CategoricalCrossentropy, "
            "SparseCategoricalCrossentropy (without `ignore_class`), "
            "BinaryCrossentropy and MeanSquaredError, each with its options. "
            f"Received: {loss!r}. Pass one of these as `loss` if the model's "
            'outputs suit it; loss="mse" suits any output.'
        )
    options = {k: config[k] for k in _OPTIONS[function] if k in config}
    return functools.partial(function, **options)


def check_output(measure: "functools.partial[Tensor]", output: Tensor) -> None:
    """Refuses outputs that the loss cannot be meant for."""
    if measure.func is squared or measure.keywords.get("from_logits"):
        return
    values = ops.convert_to_numpy(ops.cast(output, "float32"))
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            "The loss takes probabilities. Received: a model that puts out "
            f"{values.min():.3g} to {values.max():.3g}. If these are logits, "
            "pass the loss with `from_logits=True`."
        )
