"""The importance of a model that was trained before: its Fisher information.

J is the derivative of a model's output z by its weights, for one sample, and H
the second derivative of the sample's loss by z. The Fisher information of the
weights is J^T H J. With S S^T = H and a vector a of random signs, J^T S a is
one backward pass, and the mean of its square the diagonal of J^T H J.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_si import backend, curvature, gradients
from keras_si.arguments import (
    check_count,
    check_progress_bar,
    check_samples,
    check_trained,
    names_by_id,
)
from keras_si.equations import Tensor

_SCALE = 1024.0  # or small gradients of float16 would be rounded to 0


def fisher_importance(
    model: keras.Model,
    x: Any,
    loss: keras.losses.Loss | str | None = None,
    samples: int = 1000,
    seed: int = 0,
    verbose: int | str = "auto",
) -> dict[str, np.ndarray]:
    """Returns the importance of a trained model's weights, without labels.

    It is F/2, where F is the diagonal of the Fisher information: the mean over
    samples of the squared gradient of the log-likelihood, with the model's own
    predictions in place of labels. When a weight leaves its place by d, the
    loss on the old data rises by about F/2 * d^2. So the `strength` of
    `SICallback`, times the `scale` of `add_importance`, is the lambda of
    elastic weight consolidation (Kirkpatrick et al., PNAS 2017), if F is
    computed as here: codes that square the gradient of a batch, or take one
    label for all, need another lambda, by factors of up to a million.

    The gradient is taken sample by sample, with the layers in inference mode.
    No variable of the model changes.

    Args:
        model: A built `keras.Model` with one output.
        x: Inputs like those that the model has learned, as `model(x)` takes
            them: an array with the samples first, or a list or dict of these.
            Inputs that the model is not quite sure of show most: validation
            data rather than training data.
        loss: What the model was trained with: a cross-entropy (categorical,
            sparse or binary), the mean squared error, or the name of one.
            `"mse"` also suits models with another loss, or none: importance is
            then how much the output changes. Defaults to `None`: the loss of
            `compile`. As Keras computes it by default, the mean over positions
            and outputs, whatever its `reduction`.
        samples: How many samples to take, at random. Defaults to 1000; if
            there are fewer, all are taken.
        seed: Of the random choice and signs. Defaults to 0.
        verbose: 0 is silent, 1 shows a progress bar, 2 one line. Defaults to
            `"auto"`: 1.

    Returns:
        A dict of `variable.path` to numpy array for all trainable variables,
        as `SICallback.get_importance` has it: each of the variable's shape, at
        least 0, in units of loss over squared weights.

    Raises:
        ValueError: If an argument is not as described, or if anything in the
            weights or the data is not finite; it says what to do.

    Examples:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> x = np.array([[1.0, 0.0], [1.0, 2.0]])
        >>> importance = fisher_importance(model, x, "mse", verbose=0)
        >>> [each.ravel().round(3).tolist() for each in importance.values()]
        [[1.0, 2.0], [1.0]]
    """
    check_trained(model)
    gradients.check_one_device(model)
    x, count = check_samples(x)
    rng = np.random.default_rng(check_count("seed", seed, least=0))
    chosen = rng.permutation(count)[: check_count("samples", samples, least=1)]
    bar = check_progress_bar(verbose, len(chosen))
    variables = model.trainable_variables
    others = model.non_trainable_variables

    def predict(values: Any, other_values: Any, sample: Any) -> Tensor:
        pairs = zip(variables + others, values + other_values, strict=True)
        with keras.StatelessScope(pairs):
            return model(sample, training=False)

    now = [v.value for v in variables], [v.value for v in others]
    output = _only_output(predict(*now, _sample(x, chosen[0])))
    measure = curvature.of_loss(
        getattr(model, "loss", None) if loss is None else loss
    )
    curvature.check_output(measure, output)

    def measured(
        values: Any, other_values: Any, sample: Any, signs: Tensor
    ) -> Tensor:
        (z,) = keras.tree.flatten(predict(values, other_values, sample))
        double = keras.backend.standardize_dtype(z.dtype) == "float64"
        dtype = "float64" if double else "float32"
        return _SCALE * measure(ops.cast(z, dtype), ops.cast(signs, dtype))

    def draw() -> Iterator[tuple[Any, np.ndarray]]:
        for done, index in enumerate(chosen, start=1):
            yield _sample(x, index), _draw_signs(rng, tuple(output.shape))
            bar.update(done)

    squares = gradients.sum_squares(measured, variables, others, draw(), model)
    name_of = names_by_id(model)
    importance = {
        name_of[id(variable)]: square / (2 * len(chosen) * _SCALE**2)
        for variable, square in zip(variables, squares, strict=True)
        # Such a variable is no weight: its "gradient" overwrites it.
        if not getattr(variable, "overwrite_with_gradient", False)
    }
    _check_result(importance)
    return importance


# One sample; the output; the result.


def _sample(x: Any, index: int) -> Any:
    """Returns a batch of one sample, as `fit` would make it."""

    def row(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf[index : index + 1])
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                "`x` must be finite. Received: NaN or infinite values in "
                f"sample {index}. Leave such samples out."
            )
        if array.dtype == "float64" and keras.config.floatx() != "float64":
            array = array.astype("float32")
        return array

    return keras.tree.map_structure(row, x)


def _draw_signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (2 * rng.integers(0, 2, shape) - 1).astype("float32")


def _only_output(outputs: Any) -> Tensor:
    outputs = keras.tree.flatten(outputs)
    if len(outputs) != 1:
        raise ValueError(
            "`fisher_importance` needs a model with one output. Received: one "
            f"with {len(outputs)}. Make `keras.Model(model.input, output)` of "
            "each, with the loss of that output; the importances add up, "
            "with the weight of the loss as `scale` of `add_importance`."
        )
    if backend.has_mask(outputs[0]):
        raise ValueError(
            "The model's output has a mask (of `mask_zero` or a Masking "
            "layer), and how many steps count is not known here. End the "
            "model with a layer that uses the mask up, as pooling does, or "
            "estimate on a model without a mask, with samples of full length."
        )
    return outputs[0]


def _check_result(importance: dict[str, np.ndarray]) -> None:
    broken = [n for n, f in importance.items() if not np.isfinite(f).all()]
    if broken:
        raise ValueError(
            f"The gradients of {broken} are NaN or infinite. Look for a layer "
            "that is not finite on these samples; in float16, estimate with a "
            "float32 copy of the model."
        )
    if not any(f.any() for f in importance.values()):
        warnings.warn(
            "fisher_importance: all importance is 0, so nothing would be "
            "protected. The model is so sure of every sample that no small "
            "change of a weight matters. Take samples that it is less sure "
            'of, validation data for instance, or loss="mse" on its logits.',
            stacklevel=3,
        )
