"""Today a task is learned and the model saved; tomorrow it continues.

SI's state is in the `.keras` file. A new `SICallback` on the loaded model
takes it up, and needs nothing but `import keras_si`. For comparison, the same
model loaded with `compile=False`: its weights, without SI's state.
"""

import os
import pathlib
import tempfile

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


def compile_and_fit(model, task):
    if not model.compiled:
        model.compile(
            keras.optimizers.Adam(1e-2),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    si = SICallback(strength=3.0)
    model.fit(*task, batch_size=100, epochs=10, callbacks=[si], verbose=0)


def today(path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(50, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    compile_and_fit(model, tasks[0])
    model.save(path)


def tomorrow(path, with_state):
    keras.utils.set_random_seed(1)
    model = keras.models.load_model(path, compile=with_state)
    compile_and_fit(model, tasks[1])
    first, second = (model.evaluate(*task, verbose=0)[1] for task in tasks)
    return f"task 1 {first:.1%}, task 2 {second:.1%}"


with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model.keras"
    today(path)
    print("weights alone:", tomorrow(path, with_state=False))
    print("with SI's state:", tomorrow(path, with_state=True))
