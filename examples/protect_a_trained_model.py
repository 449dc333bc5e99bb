"""A model that was trained without SI is protected before it is fine-tuned.

`last_year` trains a plain network on MNIST and saves it. `today` loads it, as
an engineer would who has the model and some old images, without labels: from
1,000 of them the importance of the weights is estimated, and the network
learns a second task, digits whose pixels are permuted. Beside it, the same
fine-tuning without protection. The digits are the MNIST that keras-si brings
along.
"""

import importlib.resources
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow_datasets as tfds

from keras_si import SICallback, fisher_importance


def digits(split):
    """Returns images from 0 to 1, shape (n, 784), and their labels."""
    images, labels = tfds.as_numpy(
        tfds.load(
            "mnist",
            split=split,
            data_dir=importlib.resources.files("keras_si_cli") / "datasets",
            batch_size=-1,
            as_supervised=True,
        )
    )
    return images.reshape(-1, 784).astype("float32") / 255, labels


def last_year(path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    x, y = digits("train[:20000]")
    model.fit(x, y, batch_size=128, epochs=3, verbose=0)
    model.save(path)


def today(path, old_images=None):
    keras.utils.set_random_seed(1)
    model = keras.models.load_model(path)
    callbacks = []
    if old_images is not None:
        importance = fisher_importance(model, old_images, verbose=0)
        si = SICallback(strength=100.0)
        si.set_model(model)
        si.add_importance(importance)
        callbacks = [si]
    order = np.random.default_rng(0).permutation(784)
    x, y = digits("train[20000:40000]")
    model.fit(
        x[:, order],
        y,
        batch_size=128,
        epochs=3,
        callbacks=callbacks,
        verbose=0,
    )
    x, y = digits("test")
    old, new = (
        model.evaluate(images, y, verbose=0)[1] for images in (x, x[:, order])
    )
    return f"old task {old:.1%}, new task {new:.1%}"


with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "in_production.keras"
    last_year(path)
    before = keras.models.load_model(path).evaluate(*digits("test"), verbose=0)
    print(f"before: old task {before[1]:.1%}")
    print("plain:", today(path))
    old_images, _ = digits("train[40000:41000]")
    print("protected:", today(path, old_images))
