"""Two classes more: a trained head grows, and old images are replayed.

A network knows the digits 0 to 7. Then it learns 8 and 9, in a larger copy of
itself: the rows of its head are copied, and so is the importance of its
weights. The digits are told apart all together, for which a small memory of
old images does most of the work, and SI adds to it. The strength of SI may be
given:

    python examples/new_classes.py 3000

The digits are the MNIST that keras-si brings along.
"""

import importlib.resources
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow_datasets as tfds

from keras_si import SICallback

OLD = 8  # classes 0 to 7
STRENGTH = float(sys.argv[1]) if sys.argv[1:] else 100.0


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


def make_model(classes):
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(200, activation="relu", name="hidden"),
            keras.layers.Dense(classes, name="logits"),
        ],
        name="net",  # so that both models' weights have the same paths
    )
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def grow(model, classes):
    """Returns a larger model with the old rows, and new ones as initialized."""
    grown = make_model(classes)
    for old, new in zip(model.weights, grown.weights, strict=True):
        values = keras.ops.convert_to_numpy(new).copy()
        corner = tuple(slice(n) for n in old.shape)
        values[corner] = keras.ops.convert_to_numpy(old)
        new.assign(values)
    return grown


def pad(importance, shape):
    """Returns importance of a larger variable: 0 for what is new."""
    padded = np.zeros(shape, "float32")
    padded[tuple(slice(n) for n in importance.shape)] = importance
    return padded


def choose_memory(x, y, per_class, rng):
    """Returns images of each class, chosen at random, and their labels."""
    chosen = [
        rng.choice(np.flatnonzero(y == label), per_class, replace=False)
        for label in np.unique(y)
    ]
    chosen = np.concatenate(chosen)
    return x[chosen], y[chosen]


def mix(new, memory, rng):
    """Returns new data with as many old images for each class, repeated."""
    (x, y), (old_x, old_y) = new, memory
    count = len(x) * len(np.unique(old_y)) // len(np.unique(y))
    chosen = rng.choice(len(old_x), count)
    return (
        np.concatenate([x, old_x[chosen]]),
        np.concatenate([y, old_y[chosen]]),
    )


def learn_new(model, importance=None, memory=None):
    keras.utils.set_random_seed(1)
    grown = grow(model, classes=10)
    callbacks = []
    if importance is not None:
        si = SICallback(STRENGTH)
        si.set_model(grown)
        si.add_importance(
            {
                variable.path: pad(importance[variable.path], variable.shape)
                for variable in grown.trainable_variables
            }
        )
        callbacks = [si]
    data = x[y >= OLD], y[y >= OLD]
    if memory is not None:
        data = mix(data, memory, np.random.default_rng(1))
    grown.fit(*data, batch_size=128, epochs=3, callbacks=callbacks, verbose=0)
    old = y_test < OLD
    old, new, every = (
        grown.evaluate(x_test[part], y_test[part], verbose=0)[1]
        for part in (old, ~old, old | ~old)
    )
    return f"old digits {old:.1%}, new digits {new:.1%}, all {every:.1%}"


x, y = digits("train[:10000]")
x_test, y_test = digits("test")

keras.utils.set_random_seed(0)
model = make_model(OLD)
si = SICallback()
model.fit(
    x[y < OLD], y[y < OLD], batch_size=128, epochs=5, callbacks=[si], verbose=0
)
importance = si.get_importance()
memory = choose_memory(x[y < OLD], y[y < OLD], 20, np.random.default_rng(0))

print("plain:", learn_new(model))
print("SI:", learn_new(model, importance))
print("replay:", learn_new(model, memory=memory))
print("replay and SI:", learn_new(model, importance, memory))
