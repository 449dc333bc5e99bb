"""From the bytes of a batch to a net's features: permute, cast, scale."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Divisions by a constant may be rewritten into this product when the graph
# is optimised; writing the product keeps eager and graph values the same.
SCALE = np.float32(1 / 255)


def to_features(pixels: tf.Tensor, permutation: tf.Tensor | None) -> tf.Tensor:
    """Returns float32 features in [0, 1], shape `(batch, features)`.

    Args:
        pixels: uint8, shape `(batch, features)`.
        permutation: Which pixel feeds each feature, shape `(features,)`;
            `None` leaves them in place.
    """
    # The bytes are permuted, not the floats: a quarter to move.
    if permutation is not None:
        pixels = tf.gather(pixels, permutation, axis=1)
    return tf.cast(pixels, tf.float32) * SCALE


class ToFeatures(keras.layers.Layer):
    """`to_features` as the first layer of a net.

    For nets on an accelerator: only bytes travel there, and what is made of
    them is made there. TensorFlow's pipelines themselves run on the host.
    """

    def build(self, input_shape: Any) -> None:
        self.permutation = self.add_weight(
            shape=(input_shape[-1],),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            name="permutation",
        )

    def call(self, pixels: keras.KerasTensor) -> keras.KerasTensor:
        # In Keras's operations: the net need not be TensorFlow's.
        pixels = keras.ops.take(pixels, self.permutation, axis=1)
        return keras.ops.cast(pixels, "float32") * SCALE
