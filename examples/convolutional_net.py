"""A convolutional net learns MNIST, then MNIST with its grey values inverted.

Convolution kernels get their importance like any other weights: nothing in
the net has to be changed. Inverted images change every input at once, which
asks for much more strength than the paper's permutations do. The digits are
the MNIST that keras-si brings along.
"""

import importlib.resources
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow_datasets as tfds

from keras_si import SICallback

layers = keras.layers


def load(split):
    """Returns images from 0 to 1, shape (n, 28, 28, 1), and their labels."""
    embedded = importlib.resources.files("keras_si_cli") / "datasets"
    images, labels = tfds.as_numpy(
        tfds.load(
            "mnist",
            split=split,
            data_dir=embedded,
            batch_size=-1,
            as_supervised=True,
        )
    )
    return images.astype("float32") / 255, labels


x, y = load("train[:2000]")
x_test, y_test = load("test[:1000]")
train = [(x, y), (1 - x, y)]
test = [(x_test, y_test), (1 - x_test, y_test)]

for name, callbacks in {
    "naive": [],
    "SI": [SICallback(strength=300.0)],
}.items():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    for images, labels in train:
        model.fit(
            images,
            labels,
            batch_size=50,
            epochs=3,
            callbacks=callbacks,
            verbose=0,
        )
    plain, inverted = (model.evaluate(*task, verbose=0)[1] for task in test)
    print(f"{name}: digits {plain:.1%}, inverted digits {inverted:.1%}")
