"""Some weights are frozen for the second task, and some never tracked.

`exclude` is a regular expression that is searched for in `variable.path`:
biases are left free here. Between the tasks the first layer is frozen, in
Keras's own way: `trainable = False`, and `compile` again. What SI knows of the
other layers is kept.
"""

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

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((20,)),
        keras.layers.Dense(100, activation="relu", name="features"),
        keras.layers.Dense(50, activation="relu", name="hidden"),
        keras.layers.Dense(2, activation="softmax", name="head"),
    ],
    name="net",
)
si = SICallback(strength=10.0, exclude="bias$")


def learn(x, y):
    model.compile(
        keras.optimizers.Adam(1e-2),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=100, epochs=10, callbacks=[si], verbose=0)
    print("SI follows", ", ".join(si.get_importance()))


learn(*tasks[0])
features = model.get_layer("features")
before = features.get_weights()

features.trainable = False
learn(*tasks[1])
moved = max(
    np.abs(a - b).max()
    for a, b in zip(before, features.get_weights(), strict=True)
)
first, second = (model.evaluate(x, y, verbose=0)[1] for x, y in tasks)
print(f"the frozen layer moved by {moved}")
print(f"task 1 {first:.1%}, task 2 {second:.1%}")
