"""A net whose `fit` works under `MultiWorkerMirroredStrategy`."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


class MultiWorkerSequential(keras.Sequential):
    """`keras.Sequential`, mended for several workers.

    That of Keras 3.15 takes the logs of a step for arrays, and fails to build
    a model that is built already (keras-team/keras#20585).
    """

    def train_step(self, data: Any) -> Any:
        return keras.tree.map_structure(_as_array, super().train_step(data))

    def test_step(self, data: Any) -> Any:
        return keras.tree.map_structure(_as_array, super().test_step(data))

    def _maybe_symbolic_build(
        self, iterator: Iterator[Any] | None = None, data_batch: Any = None
    ) -> None:
        if not self.built:
            raise ValueError("Build the model first: begin with keras.Input.")


def _as_array(log: tf.Tensor) -> tf.Tensor:
    return tf.convert_to_tensor(log)[tf.newaxis]
