"""Several models at once in one process, and a `fit` after an exception."""

import threading

import keras
import numpy as np
import pytest
from helpers import compile_model, fit, make_model, make_tasks, only_on

from keras_si import SICallback


def new_model():
    keras.utils.set_random_seed(11)
    return compile_model(make_model())


def knowledge(model):
    return [np.array(v) for v in [*model.variables, *model.optimizer.variables]]


def alone(tasks):
    model, si = new_model(), SICallback()
    for task in tasks:
        fit(model, task, si)
    return knowledge(model)


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


class FitAnother(keras.callbacks.Callback):
    """In the middle of an epoch, fits another model."""

    def __init__(self, model, task, si):
        super().__init__()
        self._other = model, task, si

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            fit(*self._other)


def test_a_fit_within_a_fit():
    tasks, others = make_tasks(2), make_tasks(4, seed=9)
    model, si = new_model(), SICallback()
    other, other_si = new_model(), SICallback()
    for index, task in enumerate(tasks):
        # Twice each, as there are two epochs.
        fit(model, task, si, FitAnother(other, others[index], other_si))
    assert_equal(knowledge(model), alone(tasks))
    twice = [others[index] for index in (0, 0, 1, 1)]
    assert_equal(knowledge(other), alone(twice))


@only_on("tensorflow", reason="Keras elsewhere keeps global state in a fit")
def test_fits_in_threads():
    tasks = [make_tasks(3, seed=seed) for seed in (1, 2)]
    models = [new_model() for _ in tasks]

    def train(model, tasks):
        si = SICallback()
        for task in tasks:
            fit(model, task, si)

    threads = [
        threading.Thread(target=train, args=pair) for pair in zip(models, tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model, own in zip(models, tasks):
        assert_equal(knowledge(model), alone(own))


class Fail(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("of the user's own")


@pytest.mark.parametrize("fresh", [False, True], ids=["same", "new"])
def test_a_fit_after_an_exception_in_another_callback(fresh):
    """What was trained before it belongs to the task that goes on."""
    first, second = make_tasks(2)
    model, si = new_model(), SICallback()
    fit(model, first, si)
    with pytest.raises(RuntimeError, match="of the user's own"):
        fit(model, second, si, Fail())
    if fresh:
        si = SICallback()
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, second, si)

    # The same steps, without the exception: one batch, then all of them.
    expected, si = new_model(), SICallback(consolidate=None)
    fit(expected, first, si)
    si.consolidate()
    x, y = second
    expected.train_on_batch(x[:8], y[:8])
    fit(expected, second, si)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
