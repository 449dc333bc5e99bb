"""One trunk, and a head for each of three tasks.

All heads are one layer, with two outputs for each task. `OutputMask` lets only
the outputs of the current task take part in the softmax, so the heads of the
other tasks get no gradient at all. The tasks share the trunk, which SI
protects. In testing, the net knows which task it is.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_si import OutputMask, SICallback

TASKS = 3

rng = np.random.default_rng(0)
tasks = []
for index in range(TASKS):
    x = rng.normal(size=(2000, 20)).astype("float32")
    hidden = np.maximum(x @ rng.normal(size=(20, 5)), 0)
    score = hidden @ rng.normal(size=5)
    y = (score > np.median(score)).astype("int32")
    tasks.append((x, 2 * index + y))  # outputs 0 and 1, 2 and 3, ...

for name, callbacks in {"naive": [], "SI": [SICallback(strength=1.0)]}.items():
    keras.utils.set_random_seed(0)
    mask = OutputMask()
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(2 * TASKS, name="heads"),
            mask,
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    for index, (x, y) in enumerate(tasks):
        mask.set_active([2 * index, 2 * index + 1])
        model.fit(
            x, y, batch_size=100, epochs=10, callbacks=callbacks, verbose=0
        )
    accuracies = []
    for index, (x, y) in enumerate(tasks):
        mask.set_active([2 * index, 2 * index + 1])
        accuracies.append(model.evaluate(x, y, verbose=0)[1])
    print(f"{name}:", ", ".join(f"{accuracy:.1%}" for accuracy in accuracies))
