"""Two tasks on several machines, each with its share of every batch.

Run it on every machine, with the machines named in TF_CONFIG; the README's
section on several machines shows how. Without TF_CONFIG it trains on this
machine alone, and comes to the same numbers.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_si import SICallback


class MultiWorkerModel(keras.Sequential):
    """A model whose `fit` works under `MultiWorkerMirroredStrategy`.

    That of Keras 3.15 does not (keras-team/keras#20585): it takes the logs of
    a step for arrays, and fails to build a model that is built already.
    """

    def train_step(self, data):
        return keras.tree.map_structure(_as_array, super().train_step(data))

    def test_step(self, data):
        return keras.tree.map_structure(_as_array, super().test_step(data))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if not self.built:
            raise ValueError("Build the model first: begin with keras.Input.")


def _as_array(log):
    return tf.convert_to_tensor(log)[tf.newaxis]


def make_tasks(count=2, examples=1024, features=20):
    """Each task has its own region of the inputs and its own rule."""
    rng = np.random.default_rng(0)
    for centre in np.linspace(-1.0, 1.0, count):
        x = rng.normal(size=(examples, features)).astype("float32")
        y = (x @ rng.normal(size=features) > 0).astype("int32")
        yield x + np.float32(centre), y


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    workers = strategy.num_replicas_in_sync
    keras.utils.set_random_seed(0)  # the same on every machine
    with strategy.scope():
        model = MultiWorkerModel(
            [
                keras.Input((20,)),
                keras.layers.Dense(50, activation="relu"),
                keras.layers.Dense(2, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(2e-2),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    si = SICallback(strength=10.0)
    tasks = list(make_tasks())
    for x, y in tasks:
        # A global batch: each of two machines gets 128 of the 256.
        model.fit(
            x,
            y,
            batch_size=256,
            epochs=6,
            shuffle=False,
            callbacks=[si],
            verbose=0,
        )
    first, second = (
        model.evaluate(x, y, batch_size=256, verbose=0)[1] for x, y in tasks
    )
    print(f"workers: {workers}, task 1 {first:.1%}, task 2 {second:.1%}")


if __name__ == "__main__":
    main()
