"""The plain Keras net of each benchmark; nothing in it knows of SI."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_si import OutputMask

from .config import RunConfig
from .presets import BENCHMARKS

KERNELS = {"zeros": "zeros", "glorot": "glorot_uniform"}
# The graph's optimizer may rewrite a division by a constant as this product;
# writing the product keeps eager and graph values the same.
SCALE = np.float32(1 / 255)


class ToFeatures(keras.layers.Layer):
    """Bytes of pixels to float32 features in [0, 1].

    As the first layer of a net, so that only bytes travel to an accelerator.
    """

    def call(self, pixels: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.cast(pixels, "float32") * SCALE


def build(
    config: RunConfig, image_shape: Sequence[int], num_outputs: int
) -> keras.Model:
    """Returns the net of the configured benchmark, not compiled.

    Images have `image_shape`, height, width and channels; the net takes them
    flat.
    """
    num_features = image_shape[0] * image_shape[1] * image_shape[2]
    first = [keras.Input((num_features,), dtype="uint8"), ToFeatures()]
    # In the order of the net: each layer draws its seed when it is made.
    if BENCHMARKS[config.benchmark].net == "conv":
        body = _convolutions(image_shape) + _dense(config.hidden, dropout=0.5)
    else:
        body = _dense(config.hidden)
    # Logits in float32: under mixed precision the softmax of the loss would
    # otherwise be taken of half-precision numbers.
    logits = layers.Dense(
        num_outputs,
        dtype="float32",
        kernel_initializer=KERNELS[config.output_weights],
        name="logits",
    )
    last = [] if config.scenario == "domain" else [OutputMask(dtype="float32")]
    name = f"{BENCHMARKS[config.benchmark].net}_net"
    return keras.Sequential([*first, *body, logits, *last], name=name)


def _dense(
    hidden: Iterable[int], dropout: float | None = None
) -> list[keras.Layer]:
    made = []
    for i, units in enumerate(hidden):
        made.append(layers.Dense(units, activation="relu", name=f"hidden_{i}"))
        if dropout is not None:
            made.append(layers.Dropout(dropout))
    return made


def _convolutions(image_shape: Sequence[int]) -> list[keras.Layer]:
    """The paper's; which of them pad is in the authors' code."""
    made = [layers.Reshape(image_shape)]
    for filters in (32, 64):
        made += [
            layers.Conv2D(filters, 3, activation="relu", padding="same"),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
        ]
    return [*made, layers.Flatten()]


def compile_classifier(
    model: keras.Model,
    config: RunConfig,
    outputs_by_task: Sequence[tuple[int, ...]] | None = None,
) -> keras.Model:
    """Compiles with Adam.

    Where batches mix tasks whose outputs must not be compared,
    `outputs_by_task` has the outputs of each.
    """
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy: Any = "accuracy"
    if outputs_by_task is not None:
        loss = _within_tasks(loss, outputs_by_task)
        accuracy = keras.metrics.MeanMetricWrapper(
            _within_tasks(
                keras.metrics.sparse_categorical_accuracy, outputs_by_task
            ),
            name="accuracy",
        )
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss=loss,
        metrics=[accuracy],
        jit_compile=config.jit,
    )
    return model


def _within_tasks(
    judge: Callable[[Any, Any], Any],
    outputs_by_task: Sequence[tuple[int, ...]],
) -> Callable[[Any, Any], Any]:
    """Makes a loss or metric look at the outputs of each example's own task.

    The label says which: no two tasks share an output.
    """
    count = max(map(max, outputs_by_task)) + 1
    same_task = np.zeros((count, count), "bool")
    for outputs in outputs_by_task:
        for label in outputs:
            same_task[label, list(outputs)] = True
    mask = OutputMask(dtype="float32")

    def judge_masked(labels: Any, logits: Any) -> Any:
        labels = keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32")
        active = keras.ops.take(same_task, labels, axis=0)
        return judge(labels, mask(logits, active=active))

    return judge_masked


def reset_optimizer(model: keras.Model) -> None:
    """Zeroes the state of the user's optimizer, Adam: it starts from zero.

    SI's optimizer is around it, and the optimizer that scales the loss around
    both; their state is kept, and nothing is traced again.
    """
    optimizer = model.optimizer
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    for variable in optimizer.variables:
        if variable is not optimizer.learning_rate:
            zeros = keras.ops.zeros(variable.shape, variable.dtype)
            variable.assign(zeros)


def set_active_outputs(model: keras.Model, outputs: Iterable[int]) -> None:
    """Tells a net with an `OutputMask` which outputs count."""
    for layer in model.layers:
        if isinstance(layer, OutputMask):
            layer.set_active(outputs)
