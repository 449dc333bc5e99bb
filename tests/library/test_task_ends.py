"""Where a task ends, and where the next one starts."""

import keras
import numpy as np
import pytest
import reference_si as oracle
from helpers import (
    SIZES,
    CutPower,
    PowerCut,
    SetWeights,
    assert_equal,
    assert_matches_oracle,
    assert_near,
    fit,
    flat,
    make_model,
    make_oracle,
    make_tasks,
    other_weights,
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


def nothing(model, si, path):
    pass


def getters(model, si, path):
    for read in (si.get_importance, si.get_path_integral, si.get_reference):
        read()


def set_model(model, si, path):
    si.set_model(model)


def new_callback(model, si, path):
    SICallback(STRENGTH, DAMPING).set_model(model)


def others(model, si, path):
    model.evaluate(*make_tasks(1)[0], verbose=0)
    model.save(path)
    si.strength = si.strength


@pytest.mark.parametrize(
    "look", [nothing, getters, set_model, new_callback, others]
)
def test_looking_between_two_fits_changes_nothing(look, tmp_path):
    """Weights set afterwards are where the next task starts; theta~ stays."""
    model, si, reference = start()
    first, second = make_tasks(2)
    fit(model, first, si)
    learn(reference, first)
    look(model, si, tmp_path / "model.keras")
    model.set_weights(other_weights(model))
    reference.weights = [np.float64(w) for w in model.get_weights()]
    penalty = reference.penalty()
    assert penalty > 0.1
    np.testing.assert_allclose(float(sum(model.losses)), penalty, rtol=1e-4)
    fit(model, second, si)
    learn(reference, second)
    assert_matches_oracle(model, si, reference)


def test_new_compile_and_new_callback_take_up_the_state():
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


def test_task_is_consolidated_when_its_fit_has_ended():
    """Before anybody looks."""
    model, si, _ = start()
    fit(model, make_tasks(1)[0], si)
    state = model.optimizer.state
    assert int(state.due.numpy()) == int(state.steps.numpy().max()) == 0
    assert np.abs(state.path_integrals[0].numpy()).max() == 0
    assert state.importances[0].numpy().max() > 0


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end"])
def test_task_ends_after_the_other_callbacks_end(first, consolidate):
    model = compile_model(make_model())
    si = SICallback(consolidate=consolidate)
    left = other_weights(model)
    other = SetWeights("on_train_end", left)
    fit(model, make_tasks(1)[0], *([si, other] if first else [other, si]))
    for weights in (left, other_weights(model, seed=2)):
        model.set_weights(weights)
        assert_equal(si.get_reference().values(), left)
    assert np.abs(flat(si.get_path_integral())).max() == 0


@pytest.mark.parametrize("first", [True, False])
def test_checkpoint_loaded_when_fit_ends_is_where_its_task_ends(
    first, tmp_path
):
    model, si, reference = start()
    task = make_tasks(1)[0]
    path = tmp_path / "epoch_{epoch}.weights.h5"
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)

    class LoadFirst(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            self.model.load_weights(tmp_path / "epoch_1.weights.h5")

    others = [save, LoadFirst()]
    fit(model, task, *([si, *others] if first else [*others, si]))
    learn(reference, task, epochs=1)
    assert_matches_oracle(model, si, reference)


def test_looking_when_fit_ends_does_not_end_the_task_early():
    model, si, _ = start()
    left = other_weights(model)

    class Look(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            si.get_importance()

    fit(model, make_tasks(1)[0], si, Look(), SetWeights("on_train_end", left))
    assert_equal(si.get_reference().values(), left)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_history_of_the_users_own_may_stand_anywhere(position):
    """Keras's own is what SI waits behind; this one is left as it was."""
    model, si, _ = start()
    history = keras.callbacks.History()
    callbacks = [si]
    callbacks.insert(position, history)
    if position != 0:
        left = other_weights(model)
        callbacks.insert(1, SetWeights("on_train_end", left))
    fit(model, make_tasks(1)[0], *callbacks)
    ended = model.get_weights()
    model.set_weights(other_weights(model, seed=2))
    assert_equal(si.get_reference().values(), ended)
    assert "on_train_end" not in vars(history)


def own_loop(model, si, task, of_batches=True):
    """Trains on a task; its list of callbacks has no `History`."""
    x, y = task
    callbacks = keras.callbacks.CallbackList([si], model=model)
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for first in (0, 8, 16):
            batch = slice(first, first + 8)
            if of_batches:
                callbacks.on_train_batch_begin(first)
            model.train_on_batch(x[batch], y[batch])
            if of_batches:
                callbacks.on_train_batch_end(first)
        callbacks.on_epoch_end(epoch)
    callbacks.on_train_end()


@pytest.mark.parametrize("of_batches", [True, False])
def test_loop_of_the_users_own_that_calls_callbacks_matches_the_oracle(
    of_batches,
):
    model, si, reference = start()
    for task in make_tasks(2):
        own_loop(model, si, task, of_batches)
        learn(reference, task)
    assert_matches_oracle(model, si, reference)


@pytest.mark.parametrize("before", ["plain", "interrupted"])
def test_loop_of_the_users_own_after_a_fit_ends_its_task(before):
    """Where a fit was there is a `History`, which nobody calls any more."""
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    first, second = make_tasks(2)
    if before == "plain":
        fit(model, first)
    else:
        si = SICallback()
        with pytest.raises(PowerCut):
            fit(model, first, si, CutPower())
        si.detach()
    reference = make_oracle(model, oracle.SGD(0.1), STRENGTH, DAMPING)
    si = SICallback(STRENGTH, DAMPING)
    for task in (first, second):
        own_loop(model, si, task)
        learn(reference, task)
    assert_matches_oracle(model, si, reference)


@pytest.mark.parametrize("how", ["by hand", "interrupted"])
def test_task_of_a_layer_that_is_frozen_within_it_ends_with_the_others(how):
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    reference = make_oracle(model, oracle.SGD(0.1), STRENGTH, DAMPING)
    by_hand = how == "by hand"
    si = SICallback(
        STRENGTH, DAMPING, consolidate=None if by_hand else "train_end"
    )
    task = make_tasks(1)[0]
    if by_hand:
        fit(model, task, si, epochs=1)
        oracle.fit(reference, np.float64(task[0]), task[1], 8, 1)
    else:
        with pytest.raises(PowerCut):
            fit(model, task, si, CutPower(epoch=1, batch=0))
    frozen = model.layers[0]
    frozen.trainable = False
    compile_model(model, keras.optimizers.SGD(0.1))
    if by_hand:
        fit(model, task, si)
        si.consolidate()
    else:
        with pytest.warns(UserWarning, match="continues that task"):
            fit(model, task, si)
    frozen.trainable = True
    compile_model(model, keras.optimizers.SGD(0.1))
    si.set_model(model)
    assert np.abs(flat(si.get_path_integral())).max() == 0
    assert_equal(si.get_reference().values(), model.get_weights())
    kernel, bias, *_ = si.get_importance().values()
    if by_hand:  # Its part of the task were the steps before.
        reference.consolidate()
        assert_near([kernel, bias], reference.importance[:2], rtol=1e-4)
    assert kernel.max() > 0


def test_weights_of_a_frozen_layer_that_are_set_do_not_move_its_reference():
    model, si, _ = start()
    first, second = make_tasks(2)
    fit(model, first, si)
    frozen = model.layers[0]
    learned = frozen.get_weights()
    frozen.trainable = False
    compile_model(model)
    frozen.set_weights([w + 1 for w in learned])
    fit(model, second, si)
    frozen.trainable = True
    compile_model(model)
    si.set_model(model)
    kernel, bias, *_ = si.get_reference().values()
    assert_equal([kernel, bias], learned)


def test_model_with_a_part_that_is_another_models_leaves_its_task_alone():
    """As a generator's, trained through a discriminator that stands still."""
    first, second = make_tasks(2)
    part = compile_model(make_model(sizes=(SIZES[0], SIZES[0], SIZES[-1])))
    of_part = SICallback()
    with pytest.raises(PowerCut):
        fit(part, first, of_part, CutPower())
    under_way = of_part.get_path_integral()
    part.trainable = False
    in_front = keras.layers.Dense(SIZES[0])
    whole = compile_model(
        keras.Sequential([keras.Input((SIZES[0],)), in_front, part])
    )
    fit(whole, second, SICallback())  # It has no task to continue.
    assert_equal(of_part.get_path_integral(), under_way)
    part.trainable = True
    compile_model(part)
    with pytest.warns(UserWarning, match="continues that task"):
        fit(part, first, of_part)


def test_end_that_is_due_of_an_earlier_state_ends_no_later_task(tmp_path):
    first, second = make_tasks(2)
    model, si, _ = start()
    save = keras.callbacks.LambdaCallback(
        on_train_end=lambda _: model.save(tmp_path / "model.keras")
    )
    fit(model, first, si, save)
    model = keras.models.load_model(tmp_path / "model.keras")
    model.layers[0].trainable = False
    compile_model(model)
    si = SICallback(consolidate=None)
    fit(model, second, si)
    (*_, omega) = si.get_path_integral().values()
    assert np.abs(omega).max() > 0
    model.layers[0].trainable = True
    compile_model(model)
    si.set_model(model)
    assert_equal([[*si.get_path_integral().values()][-1]], [omega])
    kernel, *_ = si.get_importance().values()
    assert kernel.max() > 0  # The first task's.


@pytest.mark.filterwarnings("ignore:.*(ran out of data|provided as a gen)")
def test_task_ends_whose_data_ran_out_before_the_last_epoch():
    model, si, reference = start()
    x, y = make_tasks(1)[0]
    starts = [0, 8, 16] * 2
    batches = ((x[i : i + 8], y[i : i + 8]) for i in starts)
    # A warning that no step was heard would be an error here.
    model.fit(batches, steps_per_epoch=3, epochs=3, callbacks=[si], verbose=0)
    learn(reference, (x, y))
    assert_matches_oracle(model, si, reference)


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
        assert_equal(si.get_reference().values(), weights)
    fit(model, task, *callbacks)
    clone = compile_model(make_model())
    clone.set_weights(weights)
    reference = make_oracle(clone, oracle.SGD(0.1), STRENGTH, DAMPING)
    learn(reference, task)
    assert_matches_oracle(model, si, reference)


@pytest.mark.parametrize("mode", [{"run_eagerly": False}, {}])
def test_weights_set_before_a_loop_of_the_users_own_are_the_reference(mode):
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


def test_new_head_starts_from_the_weights_that_it_is_given():
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


# Checkpoints, interruptions and averages.


@pytest.mark.parametrize("then", ["fit", "compile", "new callback"])
def test_best_checkpoint_of_a_fit_is_where_its_task_ends(tmp_path, then):
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
def test_backup_restored_in_the_same_process_ends_no_task(tmp_path):
    tasks = make_tasks(2)
    model, si, reference = start()
    for task in tasks:
        learn(reference, task)
    fit(model, tasks[0], si)
    for crash in (True, False):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        if crash:
            with pytest.raises(PowerCut):
                fit(model, tasks[1], backup, si, CutPower(epoch=1, batch=0))
        else:
            fit(model, tasks[1], backup, si)
    assert_matches_oracle(model, si, reference)


@pytest.mark.filterwarnings("ignore:.*continues that task")
def test_backup_that_is_kept_does_not_end_the_next_task_early(tmp_path):
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


def test_interrupted_task_continues_in_the_next_fit():
    """On other data, as the warning says."""
    model, si, reference = start()
    first, second = make_tasks(2)
    with pytest.raises(PowerCut):
        fit(model, first, si, CutPower())
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, second, SICallback(STRENGTH, DAMPING))
    for start_ in (0, 8):
        batch = slice(start_, start_ + 8)
        reference.train_step(np.float64(first[0][batch]), first[1][batch])
    learn(reference, second)
    si.set_model(model)
    assert_matches_oracle(model, si, reference)


def test_averages_that_are_swapped_in_between_epochs_are_not_the_reference():
    """Those of `SwapEMAWeights`."""
    references = []
    for swap in (False, True):
        keras.utils.set_random_seed(5)
        optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
        model = compile_model(make_model(), optimizer)
        si = SICallback(strength=0.0, consolidate="epoch_end")
        seen = []

        class Look(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None, si=si, seen=seen):
                if batch == 0:
                    seen.append(flat(si.get_reference()))

        callbacks = [si, Look()]
        if swap:
            average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            callbacks.insert(0, average)
        fit(model, make_tasks(1)[0], *callbacks, epochs=3)
        references.append(seen)
    assert_near(*references)
