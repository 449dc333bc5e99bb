"""Two tasks as `tf.data` pipelines: one pipeline is one `fit` is one task.

The pipelines shuffle, add noise and repeat without end, so
`steps_per_epoch` says how long an epoch is. SI sees steps, not the pipeline.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_si import SICallback


def add_noise(x, y):
    return x + tf.random.normal(tf.shape(x), stddev=0.1), y


keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
tasks, pipelines = [], []
for centre in (-1.0, 1.0):  # each task has its own region and its own rule
    x = rng.normal(size=(2000, 20)).astype("float32")
    y = (x @ rng.normal(size=20) > 0).astype("int32")
    tasks.append((x + np.float32(centre), y))
    pipelines.append(
        tf.data.Dataset.from_tensor_slices(tasks[-1])
        .shuffle(2000)
        .repeat()
        .batch(100)
        .map(add_noise)
        .prefetch(tf.data.AUTOTUNE)
    )

for name, callbacks in {"naive": [], "SI": [SICallback(strength=3.0)]}.items():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(50, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-2),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    for pipeline in pipelines:
        model.fit(
            pipeline,
            steps_per_epoch=20,
            epochs=10,
            shuffle=False,  # the pipeline does it
            callbacks=callbacks,
            verbose=0,
        )
    first, second = (model.evaluate(x, y, verbose=0)[1] for x, y in tasks)
    print(f"{name}: task 1 {first:.1%}, task 2 {second:.1%}")
