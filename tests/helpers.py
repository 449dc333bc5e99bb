"""What several test files share: small models and tasks, programs, marks."""

import json
import os
import pathlib
import socket
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import reference_si as oracle

from keras_si import SICallback

SIZES = (6, 9, 7, 3)
TESTS = pathlib.Path(__file__).parent
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def only_on(*backends, reason="it is that backend's own"):
    """Returns the mark of a test that the other backends skip."""
    return pytest.mark.skipif(
        keras.backend.backend() not in backends,
        reason=f"on {' and '.join(backends)} only: {reason}",
    )


HAS_MULTI_OPTIMIZER = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"),
    reason="Keras has had it since 3.15",
)

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


def make_model(built=True, regularizer=None, constraint=None, sizes=SIZES):
    """Returns an MLP of the given sizes, not compiled."""
    layers = [
        keras.layers.Dense(
            units,
            activation="relu" if units != sizes[-1] else None,
            bias_initializer="random_normal",
            kernel_regularizer=regularizer,
            kernel_constraint=constraint,
            name=f"dense_{index}",
        )
        for index, units in enumerate(sizes[1:])
    ]
    if built:
        layers.insert(0, keras.Input((sizes[0],)))
    return keras.Sequential(layers)


def compile_model(model, optimizer=None, **kwargs):
    """Compiles `model` for the tasks of `make_tasks`."""
    optimizer = optimizer or keras.optimizers.Adam(1e-2)
    model.compile(optimizer, CROSS_ENTROPY, **kwargs)
    return model


def compile_eagerly(model, optimizer=None, **kwargs):
    """The same where tracing is not what is tested: TensorFlow traces long."""
    eager = keras.backend.backend() == "tensorflow"
    return compile_model(model, optimizer, **{"run_eagerly": eager, **kwargs})


def towers():
    """Returns a model in which two layers have one path."""
    inputs = keras.Input((SIZES[0],))
    parts = [
        keras.Model(inputs, keras.layers.Dense(4, name="dense")(inputs))
        for _ in range(2)
    ]
    both = keras.layers.Concatenate()([part(inputs) for part in parts])
    head = keras.layers.Dense(3, name="head")(both)
    return compile_eagerly(keras.Model(inputs, head))


def fit(model, task, *callbacks, epochs=2, batch_size=8, **kwargs):
    """Trains `model` on one task in its order, and returns the `History`."""
    return model.fit(
        *task,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    )


def sgd(rate=0.1, **settings):
    return keras.optimizers.SGD(rate, **settings)


def begin(optimizer=None, compile=compile_eagerly, **settings):
    """Returns a compiled model, a callback for it, and two tasks."""
    model = compile(make_model(), optimizer)
    return model, SICallback(**settings), *make_tasks(2)


def learned(*args, **settings):
    """Returns the same when the first of the tasks has been learned."""
    model, si, first, second = begin(*args, **settings)
    fit(model, first, si)
    return model, si, first, second


def freeze(model, layer=0, optimizer=None, trainable=False):
    """Freezes one of the layers, and compiles, as Keras asks users to."""
    model.layers[layer].trainable = trainable
    return compile_eagerly(model, optimizer)


def unfreeze(model, layer=0, optimizer=None):
    return freeze(model, layer, optimizer, trainable=True)


def reloaded(model, folder):
    """Returns what a file of the model makes of it."""
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    loaded.run_eagerly = model.run_eagerly  # Keras does not save that
    return loaded


class PowerCut(BaseException):
    """No `Exception`, so that nothing but a test catches it."""


class CutPower(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.moment, self.epoch = (epoch, batch), None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.on_train_batch_end(None)

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.moment:
            raise PowerCut


def interrupt(model, task, *callbacks, epoch=0, batch=1, **kwargs):
    """Breaks a `fit` off after a batch of an epoch, or before the epoch."""
    with pytest.raises(PowerCut):
        fit(model, task, *callbacks, CutPower(epoch, batch), **kwargs)


def flat(state):
    return np.concatenate([value.ravel() for value in state.values()])


def other_weights(model, seed=1):
    """Returns random weights of the shapes of the model's."""
    draw = np.random.default_rng(seed).normal
    return [draw(size=w.shape).astype("float32") for w in model.get_weights()]


def task_loss_of_now(model, x, y):
    return float(keras.ops.convert_to_numpy(model.loss(y, model(x))))


def penalty_of_now(model, si):
    """Returns the penalty of `model`, from what `si` gives to read."""
    importance, reference = si.get_importance(), si.get_reference()
    return si.strength * sum(
        np.sum(
            np.float64(importance[v.path])
            * (np.float64(v.numpy()) - reference[v.path]) ** 2
        )
        for v in model.trainable_variables
    )


def assert_equal(actual, expected):
    """Bit for bit, for arrays or dicts of arrays."""
    for a, e in _pairs(actual, expected):
        np.testing.assert_array_equal(a, e)


def assert_near(actual, expected, rtol=1e-5, atol=1e-7):
    """To rounding, for arrays or dicts of arrays."""
    for a, e in _pairs(actual, expected):
        np.testing.assert_allclose(a, e, rtol, atol)


def _pairs(*arrays):
    lists = [a.values() if isinstance(a, dict) else a for a in arrays]
    return zip(*lists, strict=True)


def all_state(si):
    """Returns omega, Omega and theta~ of every variable."""
    getters = si.get_path_integral, si.get_importance, si.get_reference
    return [array for get in getters for array in get().values()]


# What most callbacks that the oracle is compared with are made of.
STRENGTH, DAMPING = 0.7, 0.05


def make_oracle(model, optimizer=None, network=None, **options):
    """Returns the NumPy implementation, from the weights of `model`."""
    return oracle.ReferenceSI(
        network or oracle.Network(),
        model.get_weights(),
        optimizer or oracle.SGD(0.1),
        STRENGTH,
        DAMPING,
        **options,
    )


def learn(reference, task, epochs=2):
    """Trains the oracle on a whole task, as `fit` does a model."""
    x, y = task
    oracle.fit(reference, np.float64(x), y, batch_size=8, epochs=epochs)
    reference.consolidate()


def assert_close(actual, expected, what):
    """Largest error relative to the largest entry of each array."""
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        a, scale = keras.ops.convert_to_numpy(a), np.abs(e).max()
        assert np.abs(a - e).max() <= 1e-4 * max(scale, 1e-7), (
            f"{what} {index}: {a} instead of {e}"
        )


def assert_matches_oracle(model, si, reference):
    assert_close(model.get_weights(), reference.weights, "weights")
    for name in ("path_integral", "importance", "reference"):
        actual = getattr(si, f"get_{name}")()
        assert_close(actual.values(), getattr(reference, name), name)


def start(*arguments, **environment):
    """Starts a Python program; `finish` ends it."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    """Waits for programs, and returns what each of them printed."""
    try:
        printed = []
        for process in processes:
            out, error = process.communicate(timeout=240)
            assert process.returncode == 0, error
            printed.append(out)
        return printed
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def worker_environments(count):
    """Yields each worker's environment for `MultiWorkerMirroredStrategy`."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": workers}, "task": task}
        yield {"TF_CONFIG": json.dumps(config)}
