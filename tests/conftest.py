"""Shared by all tests: quiet TensorFlow, fixed seeds, small models."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

SIZES = (6, 9, 7, 3)


def only_on(*backends, reason="it is that backend's own"):
    """Returns the mark of a test that the other backends skip."""
    return pytest.mark.skipif(
        keras.backend.backend() not in backends,
        reason=f"on {' and '.join(backends)} only: {reason}",
    )


@pytest.fixture(autouse=True)
def _fresh_keras():
    keras.utils.clear_session()
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(7)


# For a compiled variant of a test. `test_parity.test_modes` runs on torch too.
JIT = only_on("tensorflow", "jax", reason="torch compiles for a minute")


def make_tasks(count=3, examples=22, seed=3):
    """Returns `count` small classification tasks `(x, y)`."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=(examples, SIZES[0])).astype("float32"),
            rng.integers(0, SIZES[-1], examples),
        )
        for _ in range(count)
    ]


def make_model(built=True, regularizer=None, constraint=None):
    """Returns an MLP of sizes `SIZES`, not compiled."""
    layers = [
        keras.layers.Dense(
            units,
            activation="relu" if units != SIZES[-1] else None,
            bias_initializer="random_normal",
            kernel_regularizer=regularizer,
            kernel_constraint=constraint,
            name=f"dense_{index}",
        )
        for index, units in enumerate(SIZES[1:])
    ]
    if built:
        layers.insert(0, keras.Input((SIZES[0],)))
    return keras.Sequential(layers)


def compile_model(model, optimizer=None, **kwargs):
    """Compiles `model` for the tasks of `make_tasks`."""
    model.compile(
        optimizer or keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model


def fit(model, task, *callbacks, epochs=2, **kwargs):
    """Trains `model` on one task in its order, and returns the `History`."""
    x, y = task
    return model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    )
