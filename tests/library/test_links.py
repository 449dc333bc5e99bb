"""The penalty in `model.losses`, and in the losses that Keras logs."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_near,
    compile_eagerly,
    compile_model,
    fit,
    learned,
    make_model,
    make_tasks,
    other_weights,
    penalty_of_now,
    sgd,
    task_loss_of_now,
)

from keras_si import SICallback, SIRegularizer

# JAX takes SI's variables for constants of what `evaluate` traces.
TASK_ALONE = keras.backend.backend() == "jax"
MOVED = pytest.mark.filterwarnings("ignore:.*no step of theirs was heard")


@pytest.mark.parametrize("new", [False, True], ids=["same", "new"])
def test_first_steps_loss_has_the_penalty_of_weights_and_strength_set(new):
    """c * 54 weights * 1 * 0.1^2; a step moves nothing."""
    settings = {"strength": 1.0, "consolidate": None}
    model, si, _, second = learned(sgd(1e-12), compile_model, **settings)
    model.optimizer.state.importances[0].assign(
        np.ones_like(model.get_weights()[0])
    )
    model.set_weights([w + 0.1 for w in model.get_weights()])
    for strength, penalty in ((1.0, 0.54), (2.5, 1.35)):
        if new:
            si = SICallback(strength, consolidate=None)
        else:
            si.strength = strength
        logs = fit(model, second, si, epochs=1).history
        np.testing.assert_allclose(logs["si_penalty"], penalty, rtol=1e-5)
        np.testing.assert_allclose(
            logs["loss"][0] - penalty,
            task_loss_of_now(model, *second),
            rtol=1e-5,
        )


@pytest.mark.parametrize("new", [False, True], ids=["same", "new"])
def test_strength_set_between_two_steps_is_in_the_next_ones_loss(new):
    model, si, task, _ = learned(compile=compile_model)
    model.train_on_batch(*task)
    if new:
        si = SICallback(strength=50.0)
        si.set_model(model)
    else:
        si.strength = 50.0
    penalty = penalty_of_now(model, si)
    expected = task_loss_of_now(model, *task) + penalty
    model.reset_metrics()  # Keras 3.10 does not do it.
    np.testing.assert_allclose(model.train_on_batch(*task), expected, 1e-5)
    assert penalty > 1e-3


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_evaluate_has_the_penalty_of_now_until_detach(run_eagerly):
    """Also in `val_loss`, and where the test function was traced before."""
    model = compile_model(make_model(), run_eagerly=run_eagerly)
    *tasks, (x, y) = make_tasks()
    si = SICallback(strength=20.0, consolidate=None)
    test = {"batch_size": 8, "verbose": 0}
    model.evaluate(x, y, **test)
    for task in tasks:
        logs = fit(model, task, si, validation_data=(x, y)).history
        expected = task_loss_of_now(model, x, y)
        penalty = penalty_of_now(model, si)
        if not TASK_ALONE or run_eagerly:
            expected += penalty
        for loss in (
            logs["val_loss"][-1],
            model.evaluate(x, y, **test),
            model.test_on_batch(x, y),
        ):
            np.testing.assert_allclose(loss, expected, rtol=1e-5)
        si.consolidate()
    assert penalty > 1e-3
    si.detach()
    expected = task_loss_of_now(model, x, y)
    np.testing.assert_allclose(model.evaluate(x, y, **test), expected, 1e-5)


@MOVED
def test_fit_without_the_callback_after_a_new_compile_is_a_plain_one():
    """SI is in the optimizer, which `compile` replaces. Its state waits."""
    model, si, _, second = learned(compile=compile_model, strength=5.0)
    weights = other_weights(model)
    ends = []
    for each in (model, make_model()):
        each.set_weights(weights)
        fit(compile_model(each, sgd()), second)
        ends.append(each.get_weights())
    assert_near(*ends, rtol=1e-4, atol=1e-6)
    compile_model(model, sgd(1e-12))
    expected = task_loss_of_now(model, *second)
    if not TASK_ALONE:  # there steps know the penalty from SI alone
        expected += penalty_of_now(model, si)
    loss = fit(model, second, epochs=1).history["loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert penalty_of_now(model, si) > 1e-3
    assert fit(model, second, si).history["si_penalty"][0] > 0


@MOVED
@pytest.mark.parametrize("compiled_again", [False, True])
def test_variables_no_longer_tracked_are_not_in_the_loss(compiled_again):
    model, si, _, second = learned(sgd())
    before = si.get_importance()
    if compiled_again:
        compile_eagerly(model)
    model.optimizer.learning_rate = 1e-12
    model.set_weights([w + 1.0 for w in model.get_weights()])
    narrow = SICallback(include="dense_0/kernel", consolidate=None)
    narrow.set_model(model)
    (path,) = narrow.get_importance()
    np.testing.assert_array_equal(narrow.get_importance()[path], before[path])
    linked = {
        v.path
        for v in model.trainable_variables
        if isinstance(v.regularizer, SIRegularizer)
    }
    assert linked == {path}
    logs = fit(model, second, narrow, epochs=1).history
    loss = logs["loss"][0] - logs["si_penalty"][0]
    np.testing.assert_allclose(loss, task_loss_of_now(model, *second), 1e-5)
    assert logs["si_penalty"][0] > 1e-3


def test_trunk_of_two_models_stays_with_the_one_that_tracks_it():
    trunk = keras.layers.Dense(2)
    one, other = (
        keras.Sequential(
            [keras.Input((3,)), trunk, keras.layers.Dense(1, name=name)]
        )
        for name in ("head_one", "head_other")
    )
    for model in (one, other):
        model.compile("sgd", "mse")
    SICallback().set_model(one)
    SICallback(include="head_other").set_model(other)
    # Not given back: it belongs to the state of `one`.
    assert isinstance(trunk.kernel.regularizer, SIRegularizer)
    assert len(other.losses) == 4  # two variables each, trunk and head
