"""Where a task ends, and where the next one starts."""

import keras
import numpy as np
import pytest
import reference_si as oracle
from helpers import (
    SIZES,
    assert_matches_oracle,
    fit,
    flat,
    make_model,
    make_oracle,
    make_tasks,
)
from helpers import compile_eagerly as compile_model

from keras_si import SICallback

STRENGTH, DAMPING = 0.7, 0.05


def start(optimizer=None, **kwargs):
    """Returns a compiled model, its callback and its oracle, with SGD."""
    model = compile_model(
        make_model(), optimizer or keras.optimizers.SGD(0.1), **kwargs
    )
    si = SICallback(STRENGTH, DAMPING)
    return model, si, make_oracle(model, oracle.SGD(0.1), STRENGTH, DAMPING)


def learn(reference, task, epochs=2):
    """Trains the oracle on a whole task."""
    logs = oracle.fit(reference, np.float64(task[0]), task[1], 8, epochs)
    reference.consolidate()
    return logs


def other_weights(model, seed=1):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=w.shape).astype("float32") for w in model.get_weights()
    ]


def look(model, si, how, tmp_path):
    """Looks at a model in one of the ways that must change nothing."""
    if how.startswith("get_"):
        getattr(si, how)()
    elif how == "set_model":
        si.set_model(model)
    elif how == "new callback":
        SICallback(STRENGTH, DAMPING).set_model(model)
    elif how == "evaluate":
        model.evaluate(*make_tasks(1)[0], verbose=0)
    elif how == "save":
        model.save(tmp_path / "model.keras")
    elif how == "strength":
        si.strength = si.strength


@pytest.mark.parametrize(
    "how",
    [
        "nothing",
        "get_importance",
        "get_path_integral",
        "get_reference",
        "set_model",
        "new callback",
        "evaluate",
        "save",
        "strength",
    ],
)
def test_looking_between_two_fits_changes_nothing(how, tmp_path):
    """Weights set afterwards are where the next task starts; theta~ stays."""
    model, si, reference = start()
    first, second = make_tasks(2)
    fit(model, first, si)
    learn(reference, first)
    look(model, si, how, tmp_path)
    model.set_weights(other_weights(model))
    reference.weights = [np.float64(w) for w in model.get_weights()]
    penalty = reference.penalty()
    assert penalty > 0.1
    np.testing.assert_allclose(float(sum(model.losses)), penalty, rtol=1e-4)
    fit(model, second, si)
    learn(reference, second)
    assert_matches_oracle(model, si, reference)


def test_a_new_compile_and_a_new_callback_between_two_fits():
    model, si, reference = start()
    first, second = make_tasks(2)
    fit(model, first, si)
    learn(reference, first)
    head = other_weights(model)[-2:]
    model.layers[-1].set_weights(head)
    reference.weights[-2:] = [np.float64(w) for w in head]
    compile_model(model, keras.optimizers.SGD(0.1))
    si = SICallback(STRENGTH, DAMPING)
    fit(model, second, si)
    learn(reference, second)
    assert_matches_oracle(model, si, reference)


class SetWeights(keras.callbacks.Callback):
    """Sets weights at one of the moments of a `fit`, once."""

    def __init__(self, when, weights):
        super().__init__()
        self.weights = weights
        setattr(self, when, self.set)

    def set(self, *args, **kwargs):
        if self.weights is not None:
            self.model.set_weights(self.weights)
        self.weights = None


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end"])
def test_a_task_ends_after_the_other_callbacks_end(first, consolidate):
    model = compile_model(make_model())
    si = SICallback(consolidate=consolidate)
    left = other_weights(model)
    other = SetWeights("on_train_end", left)
    fit(model, make_tasks(1)[0], *([si, other] if first else [other, si]))
    for weights in (left, other_weights(model, seed=2)):
        model.set_weights(weights)
        for a, b in zip(si.get_reference().values(), left, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.abs(flat(si.get_path_integral())).max() == 0


def test_a_loop_of_the_users_own_that_calls_callbacks():
    """Its list of callbacks has no `History`, behind which SI could wait."""
    model, si, reference = start()
    for x, y in make_tasks(2):
        callbacks = keras.callbacks.CallbackList([si], model=model)
        callbacks.on_train_begin()
        for epoch in range(2):
            callbacks.on_epoch_begin(epoch)
            for first in (0, 8, 16):
                callbacks.on_train_batch_begin(first)
                batch = slice(first, first + 8)
                model.train_on_batch(x[batch], y[batch])
                callbacks.on_train_batch_end(first)
            callbacks.on_epoch_end(epoch)
        callbacks.on_train_end()
        learn(reference, (x, y))
    assert_matches_oracle(model, si, reference)


@pytest.mark.filterwarnings("ignore:.*(ran out of data|provided as a gen)")
def test_a_task_ends_whose_data_ran_out_before_the_last_epoch():
    model, si, reference = start()
    x, y = make_tasks(1)[0]
    starts = [0, 8, 16] * 2
    batches = ((x[i : i + 8], y[i : i + 8]) for i in starts)
    # A warning that no step was heard would be an error here.
    model.fit(batches, steps_per_epoch=3, epochs=3, callbacks=[si], verbose=0)
    learn(reference, (x, y))
    assert_matches_oracle(model, si, reference)


def test_a_history_of_the_users_own_is_as_it_was_after_fit():
    model, si, _ = start()
    history = keras.callbacks.History()
    fit(model, make_tasks(1)[0], si, history)
    assert "on_train_end" not in vars(history)
    assert flat(si.get_importance()).max() > 0


# Before the first step.


@pytest.mark.parametrize(
    "how",
    [
        "set_weights",
        "load_weights",
        "layer",
        "on_train_begin",
        "on_epoch_begin",
        "on_train_batch_begin",
    ],
)
def test_weights_set_before_the_first_step_are_the_reference(how, tmp_path):
    model, si, _ = start()
    weights = other_weights(model)
    task = make_tasks(1)[0]
    callbacks = [si]
    if how.startswith("on_"):
        callbacks.append(SetWeights(how, weights))
    else:
        si.set_model(model)
        if how == "load_weights":
            source = compile_model(make_model(), keras.optimizers.SGD(0.1))
            SICallback().set_model(source)
            source.set_weights(weights)
            source.save_weights(tmp_path / "a.weights.h5")
            model.load_weights(tmp_path / "a.weights.h5")
        elif how == "layer":
            for i, layer in enumerate(model.layers):
                layer.set_weights(weights[2 * i : 2 * i + 2])
        else:
            model.set_weights(weights)
        for a, b in zip(si.get_reference().values(), weights, strict=True):
            np.testing.assert_array_equal(a, b)
    fit(model, task, *callbacks)
    clone = compile_model(make_model())
    clone.set_weights(weights)
    reference = make_oracle(clone, oracle.SGD(0.1), STRENGTH, DAMPING)
    learn(reference, task)
    assert_matches_oracle(model, si, reference)


@pytest.mark.parametrize("mode", [{"run_eagerly": False}, {}])
def test_weights_set_before_a_loop_of_the_users_own(mode):
    model, si, _ = start(**mode)
    si.set_model(model)
    model.set_weights(other_weights(model))
    reference = make_oracle(model, oracle.SGD(0.1), STRENGTH, DAMPING)
    x, y = make_tasks(1)[0]
    for step in range(4):
        model.train_on_batch(x, y)
        reference.train_step(np.float64(x), y)
        if step == 1:  # no longer: a task has begun
            model.set_weights(other_weights(model, seed=2))
            reference.weights = [np.float64(w) for w in model.get_weights()]
    si.consolidate()
    reference.consolidate()
    assert_matches_oracle(model, si, reference)


def test_a_new_head_starts_from_the_weights_that_it_is_given():
    """The trunk was trained before; the head is the first task's of its own."""
    first, second = make_tasks(2)
    model, si, reference = start()
    fit(model, first, si)
    learn(reference, first)
    head = keras.layers.Dense(SIZES[-1], name="new_head")
    other = compile_model(
        keras.Sequential([keras.Input((SIZES[0],)), *model.layers[:-1], head]),
        keras.optimizers.SGD(0.1),
    )
    si = SICallback(STRENGTH, DAMPING)
    si.set_model(other)
    weights = [w + 0.5 for w in head.get_weights()]
    head.set_weights(weights)
    reference.weights[-2:] = [np.float64(w) for w in weights]
    reference.reference[-2:] = [np.float64(w) for w in weights]
    for array in reference.importance[-2:]:
        array[:] = 0
    fit(other, second, si)
    learn(reference, second)
    assert_matches_oracle(other, si, reference)


# Checkpoints, and looking at the wrong moment.


@pytest.mark.parametrize("then", ["fit", "compile", "new callback"])
def test_the_best_checkpoint_of_a_fit_is_where_its_task_ends(tmp_path, then):
    model, si, reference = start()
    first, second = make_tasks(2)
    path = tmp_path / "epoch_{epoch}.weights.h5"
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    fit(model, first, si, save)
    oracle.fit(reference, np.float64(first[0]), first[1], 8, 1)
    reference.consolidate()
    model.load_weights(tmp_path / "epoch_1.weights.h5")
    if then == "compile":
        compile_model(model, keras.optimizers.SGD(0.1))
    if then != "fit":
        si = SICallback(STRENGTH, DAMPING)
    fit(model, second, si)
    learn(reference, second)
    assert_matches_oracle(model, si, reference)


@pytest.mark.filterwarnings("ignore:.*continues that task")
def test_a_backup_restored_in_the_same_process_ends_no_task(tmp_path):
    tasks = make_tasks(2)
    model, si, reference = start()
    for task in tasks:
        learn(reference, task)
    fit(model, tasks[0], si)
    for crash in (True, False):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        if crash:
            stop = BreakOff(batch=0, epoch=1)
            with pytest.raises(KeyboardInterrupt):
                fit(model, tasks[1], backup, si, stop)
        else:
            fit(model, tasks[1], backup, si)
    assert_matches_oracle(model, si, reference)


@pytest.mark.filterwarnings("ignore:.*continues that task")
def test_a_backup_that_is_kept_does_not_end_the_next_task_early(tmp_path):
    model, si, _ = start()
    for task, epochs in zip(make_tasks(2), (2, 4), strict=True):
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / "backup", delete_checkpoint=False
        )
        save = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
        fit(model, task, backup, si, save, epochs=epochs)
    within = SICallback(STRENGTH, DAMPING)
    within.set_model(keras.models.load_model(tmp_path / "model.keras"))
    assert flat(within.get_path_integral()).any()


@pytest.mark.parametrize("look", [True, False])
def test_looking_when_fit_ends_does_not_end_the_task_early(look):
    model, si, _ = start()
    left = other_weights(model)

    class Look(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            si.get_importance()

    callbacks = [si, *[Look()] * look, SetWeights("on_train_end", left)]
    fit(model, make_tasks(1)[0], *callbacks)
    for a, b in zip(si.get_reference().values(), left, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_history_of_the_users_own_may_stand_anywhere(position):
    model, si, _ = start()
    left = other_weights(model)
    callbacks = [si]
    callbacks.insert(position, keras.callbacks.History())
    if position != 0:
        callbacks.insert(1, SetWeights("on_train_end", left))
    fit(model, make_tasks(1)[0], *callbacks)
    ended = model.get_weights()
    model.set_weights(other_weights(model, seed=2))
    for a, b in zip(si.get_reference().values(), ended, strict=True):
        np.testing.assert_array_equal(a, b)


# What is no end.


class BreakOff(keras.callbacks.Callback):
    def __init__(self, batch=1, epoch=0):
        super().__init__()
        self.moment, self.epoch = (epoch, batch), None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.moment:
            raise KeyboardInterrupt


@pytest.mark.parametrize("fresh", [False, True], ids=["same", "new"])
def test_a_fit_after_an_interrupted_one_says_that_it_continues(fresh):
    model, si, reference = start()
    first, second = make_tasks(2)
    with pytest.raises(KeyboardInterrupt):
        fit(model, first, si, BreakOff())
    assert flat(si.get_importance()).max() == 0
    if fresh:
        si = SICallback(STRENGTH, DAMPING)
    with pytest.warns(UserWarning, match="continues that task.*consolidate"):
        fit(model, second, si)
    for start_ in (0, 8):
        batch = slice(start_, start_ + 8)
        reference.train_step(np.float64(first[0][batch]), first[1][batch])
    learn(reference, second)
    assert_matches_oracle(model, si, reference)
    fit(model, first, si)  # nothing to say: the task has ended


def test_an_interrupted_task_can_be_ended_by_hand():
    model, si, _ = start()
    first, second = make_tasks(2)
    with pytest.raises(KeyboardInterrupt):
        fit(model, first, si, BreakOff())
    si.consolidate()
    assert flat(si.get_importance()).max() > 0
    fit(model, second, si)


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_fit_that_terminates_on_nan_ends_no_task(order):
    model, si, _ = start()
    first, (x, y) = make_tasks(2)
    fit(model, first, si)
    importance, reference = si.get_importance(), si.get_reference()
    good = [w.copy() for w in model.get_weights()]
    bad = x.copy()
    bad[-1] = np.nan
    stop = keras.callbacks.TerminateOnNaN()
    with pytest.warns(UserWarning, match="NaN or infinite values in the weig"):
        fit(model, (bad, y), *([stop, si] if order == "before" else [si, stop]))
    for _ in range(2):
        for before, after in (
            (importance, si.get_importance()),
            (reference, si.get_reference()),
        ):
            for path in before:
                np.testing.assert_array_equal(before[path], after[path])
        model.set_weights(good)
    with pytest.warns(UserWarning, match="its loss was not finite"):
        fit(model, (x, y), si)
    assert (flat(si.get_importance()) != flat(importance)).any()


# Tasks of one step.


def test_a_task_of_one_step_is_warned_of():
    model, si, _ = start()
    (x, y), *_ = make_tasks(1)
    si.set_model(model)
    model.train_on_batch(x, y)
    with pytest.warns(UserWarning, match="had one optimizer step"):
        si.consolidate()
    model.train_on_batch(x, y)
    si.consolidate()  # said once


@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end"])
def test_a_fit_of_one_step_a_task_is_warned_of(consolidate):
    model = compile_model(make_model())
    (x, y), *_ = make_tasks(1)
    si = SICallback(consolidate=consolidate)
    epochs = 2 if consolidate == "epoch_end" else 1
    with pytest.warns(UserWarning, match="had one optimizer step"):
        model.fit(
            x, y, batch_size=len(x), epochs=epochs, verbose=0, callbacks=[si]
        )


# Steps that are not heard.


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_variables_that_another_optimizer_moves_are_named():
    """Two optimizers, as in a GAN; SI hears the first."""
    model, si, _ = start()
    si.set_model(model)
    variables = model.trainable_variables
    other = keras.optimizers.SGD(0.1)
    other.build(variables[:2])
    for _ in range(2):
        gradients = [0.1 * v.value for v in variables]
        model.optimizer.apply([None, None, *gradients[2:]], variables)
        other.apply(gradients[:2], variables[:2])
    with pytest.warns(UserWarning, match="0/kernel', '[^']*0/bias'. moved"):
        si.consolidate()


def test_steps_by_the_optimizer_of_before_are_warned_of():
    handle = keras.optimizers.SGD(0.1)
    model, si, _ = start(handle)
    si.set_model(model)
    variables = model.trainable_variables
    handle.apply([0.1 * v.value for v in variables], variables)
    with pytest.warns(UserWarning, match="use `model.optimizer`"):
        si.consolidate()
