"""Two tasks in 20 lines: what naive training forgets and SI keeps."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_si import SICallback

rng = np.random.default_rng(0)
tasks = []
for centre in (-1.0, 1.0):  # each task has its own region and its own rule
    x = rng.normal(size=(2000, 20)).astype("float32")
    y = (x @ rng.normal(size=20) > 0).astype("int32")
    tasks.append((x + np.float32(centre), y))

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
    for x, y in tasks:
        model.fit(
            x, y, batch_size=100, epochs=10, callbacks=callbacks, verbose=0
        )
    accuracies = [model.evaluate(x, y, verbose=0)[1] for x, y in tasks]
    print(f"{name}: task 1 {accuracies[0]:.1%}, task 2 {accuracies[1]:.1%}")
