"""Regression on a stream whose inputs drift: there are no tasks to speak of.

A machine warms up, say, and its sensors read differently as it does. The net
sees every example once, in order of time, and is asked at the end about the
whole range. `consolidate=20` makes SI consolidate every 20 optimizer steps.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_si import SICallback

rng = np.random.default_rng(0)
readings = rng.normal(size=(40_000, 10)).astype("float32")
first, last = rng.normal(size=(2, 10)).astype("float32") / np.sqrt(10)


def machine(readings, temperature):
    """What the readings stand for, at temperatures from -1 to 1."""
    angle = (temperature + 1) * np.pi / 4
    y = np.cos(angle) * (readings @ first) + np.sin(angle) * (readings @ last)
    # The sensors show their readings shifted by the temperature.
    return readings + 4 * temperature[:, None], y


temperature = np.linspace(-1, 1, len(readings), dtype="float32")
x, y = machine(readings, temperature)
x_all, y_all = machine(readings, rng.permutation(temperature))

for name, callbacks in {
    "naive": [],
    "SI": [SICallback(strength=20.0, damping=0.01, consolidate=20)],
}.items():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "mse", metrics=["mse"])
    model.fit(
        x, y, batch_size=50, shuffle=False, callbacks=callbacks, verbose=0
    )
    # Not the loss, which includes the penalty.
    mse = [
        model.evaluate(*data, batch_size=1000, verbose=0)[1]
        for data in (
            (x_all, y_all),
            (x[:4000], y[:4000]),
            (x[-4000:], y[-4000:]),
        )
    ]
    print(
        f"{name}: mean squared error over the whole range {mse[0]:.3f}, "
        f"where the stream began {mse[1]:.3f}, where it ended {mse[2]:.3f}"
    )
