"""A training loop of your own, without `fit`.

Three things are SI's: `si.set_model(model)` before the first step, steps taken
with `model.optimizer`, and `si.consolidate()` where a task ends. The loss is
the task's alone: SI's optimizer adds the gradient of its penalty itself.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_si import SICallback

rng = np.random.default_rng(0)
tasks = []
for centre in (-1.0, 1.0):  # each task has its own region and its own rule
    x = rng.normal(size=(2000, 20)).astype("float32")
    y = (x @ rng.normal(size=20) > 0).astype("int32")
    tasks.append((x + np.float32(centre), y))

loss_function = keras.losses.SparseCategoricalCrossentropy()


def train(with_si):
    """Learns the tasks one after another, and returns the model."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(50, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2))
    if with_si:
        si = SICallback(strength=3.0, consolidate=None)
        si.set_model(model)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)

    for x, y in tasks:
        batches = tf.data.Dataset.from_tensor_slices((x, y))
        for _ in range(10):
            for batch in batches.shuffle(2000).batch(100):
                step(*batch)
        if with_si:
            si.consolidate()
    return model


for name in ("naive", "SI"):
    model = train(with_si=name == "SI")
    first, second = (
        np.mean(model.predict(x, verbose=0).argmax(axis=1) == y)
        for x, y in tasks
    )
    print(f"{name}: task 1 {first:.1%}, task 2 {second:.1%}")
