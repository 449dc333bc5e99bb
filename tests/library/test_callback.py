"""SICallback: its arguments, its getters, and what counts as a step."""

import copy
import itertools
import pickle

import keras
import numpy as np
import pytest
from helpers import (
    DAMPING,
    STRENGTH,
    all_state,
    assert_equal,
    assert_matches_oracle,
    assert_near,
    begin,
    compile_eagerly,
    compile_model,
    fit,
    flat,
    learn,
    learned,
    make_model,
    make_oracle,
    make_tasks,
    only_on,
    sgd,
)

from keras_si import SICallback

# Arguments.


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strength": -0.1}, r"`strength`.*at least 0.*-0\.1"),
        ({"strength": float("nan")}, "`strength`.*finite.*nan"),
        ({"strength": float("inf")}, "`strength`.*finite.*inf"),
        ({"strength": 10**400}, "`strength`.*finite"),
        ({"strength": "much"}, "`strength`.*'much'"),
        ({"strength": True}, "`strength`.*True"),
        ({"damping": 0}, "`damping`.*above 0.*0"),
        ({"damping": float("nan")}, "`damping`.*nan"),
        ({"damping": None}, "`damping`.*None"),
        ({"consolidate": "batch_end"}, "`consolidate`.*'batch_end'"),
        ({"consolidate": 1}, "`consolidate`.*at least 2.*1.*gradient"),
        ({"consolidate": True}, "`consolidate`.*True"),
        ({"consolidate": np.array([1, 2])}, "`consolidate`.*array"),
        ({"consolidate": 2.5}, r"`consolidate`.*2\.5"),
        ({"include": "("}, r"`include`.*regular expression.*'\('"),
        ({"include": [b"x"]}, "`include`.*b'x'"),
        ({"exclude": 3}, "`exclude`.*3"),
    ],
)
def test_bad_argument_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SICallback(**kwargs)


def test_bad_strength_set_later_is_refused_and_the_old_one_kept():
    si = SICallback()
    with pytest.raises(ValueError, match="`strength`"):
        si.strength = -1.0
    assert si.strength == 0.1


@pytest.mark.parametrize(
    "call",
    [
        *("get_importance", "get_path_integral", "get_reference"),
        *("consolidate", "detach", "reset_optimizer"),
    ],
)
def test_call_without_a_model_is_refused(call):
    with pytest.raises(ValueError, match="not attached.*model.fit"):
        getattr(SICallback(), call)()


@pytest.mark.parametrize(
    "make",
    [copy.deepcopy, lambda si: pickle.loads(pickle.dumps(si))],
    ids=["deepcopy", "pickle"],
)
def test_copy_of_a_used_callback_has_its_settings_and_no_model(make):
    settings = {"strength": 2.0, "damping": 0.3, "consolidate": "epoch_end"}
    _, si, task, _ = learned(**settings, include="kernel", exclude=["_2"])
    importance = flat(si.get_importance())
    other = make(si)
    assert (other.strength, other.damping) == (2.0, 0.3)
    with pytest.raises(ValueError, match="not attached"):
        other.get_importance()
    fit(compile_eagerly(make_model()), task, other)
    names = [path.split("/")[-2] for path in other.get_importance()]
    assert names == ["dense_0", "dense_1"]
    np.testing.assert_array_equal(importance, flat(si.get_importance()))


def test_new_callback_brings_its_strength_and_damping():
    model, *_ = learned()
    again = SICallback(strength=3.0, damping=0.7)
    again.set_model(model)
    state = model.optimizer.state
    assert flat(again.get_importance()).max() > 1e-3
    assert float(state.strength.numpy()) == 3.0
    np.testing.assert_allclose(state.damping.numpy(), 0.7)


# It takes effect.


def test_strength_0_measures_importance_and_trains_bit_for_bit_as_without_si():
    ends = []
    si = SICallback(strength=0.0)
    for callbacks in ([], [si]):
        keras.utils.set_random_seed(11)
        model, _, *tasks = begin()
        for task in tasks:
            fit(model, task, *callbacks)
        ends.append(model.get_weights())
    assert_equal(*ends)
    assert flat(si.get_importance()).max() > 1e-3


def test_model_that_was_traced_before_without_si_matches_the_oracle():
    first, *tasks = make_tasks()
    model = compile_model(make_model(), sgd())
    fit(model, first)
    reference = make_oracle(model)
    si = SICallback(STRENGTH, DAMPING)
    for task in tasks:
        fit(model, task, si)
        learn(reference, task)
    assert_matches_oracle(model, si, reference)


@only_on("tensorflow", reason="GradientTape is its own")
def test_penalty_in_a_loop_of_the_users_own_counts_once():
    import tensorflow as tf

    ends = []
    for own_loop in (False, True):
        keras.utils.set_random_seed(11)
        model, _, (x, y), _ = learned(sgd(), strength=5.0)
        for _ in range(3):
            if not own_loop:
                model.train_on_batch(x, y)
                continue
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x, y, model(x))
                assert len(model.losses) == 6
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)
        ends.append(model.get_weights())
    assert_near(*ends, atol=1e-6)


# Every N steps, and within an epoch.


def test_consolidating_by_hand_within_an_epoch_equals_every_2_steps():
    """Compiled: within an epoch JAX keeps variables elsewhere."""
    states = []
    for every in (2, None):
        keras.utils.set_random_seed(2)
        model, si, task, _ = begin(
            compile=compile_model, strength=1.0, consolidate=every
        )
        steps = itertools.count(1)

        def end(batch, logs, si=si, steps=steps, by_hand=every is None):
            if by_hand and next(steps) % 2 == 0:
                si.consolidate()

        ending = keras.callbacks.LambdaCallback(on_train_batch_end=end)
        logs = fit(model, task, si, ending, epochs=4).history
        states.append([logs["loss"], logs["si_penalty"], *all_state(si)])
    assert_near(*states, rtol=1e-4)
    assert max(states[0][1]) > 0


def test_strength_set_within_an_epoch_stays():
    model, si, task, _ = begin(compile=compile_model)

    def strengthen(batch, logs):
        si.strength = 2.0 + batch

    stronger = keras.callbacks.LambdaCallback(on_train_batch_end=strengthen)
    fit(model, task, si, stronger, epochs=1)
    assert float(model.optimizer.state.strength.numpy()) == si.strength == 4.0


def test_another_number_of_steps_takes_effect_on_a_compiled_update():
    model, _, _, second = learned(compile=compile_model, consolidate=100)
    si = SICallback(consolidate=np.int64(2))
    fit(model, second, si)
    assert flat(si.get_importance()).max() > 0


@pytest.mark.parametrize(
    ("every", "micro_batches", "by_hand", "ended"),
    [
        (3, None, 1, [False, True, False, False, True, False]),
        (2, 2, None, [False, False, False, True, False, False]),
    ],
)
def test_every_n_steps_counts_steps_since_the_last_consolidation(
    every, micro_batches, by_hand, ended
):
    """And no micro-batches."""
    optimizer = sgd(gradient_accumulation_steps=micro_batches)
    model, si, task, _ = begin(optimizer, consolidate=every)
    si.set_model(model)
    before = flat(si.get_importance())
    changed = []
    for step in range(len(ended)):
        model.train_on_batch(*task)
        if step == by_hand:
            si.consolidate()
        importance = flat(si.get_importance())
        changed.append(bool((importance != before).any()))
        before = importance
    assert changed == ended


def test_steps_do_not_wait_for_their_logs():
    """As soon as a callback may need them, Keras converts them every step."""
    with_si, without = map(keras.callbacks.CallbackList, ([SICallback()], []))
    assert with_si._async_train == without._async_train
