"""Where a task ends, and where the next one starts."""

import keras
import numpy as np
import pytest
from helpers import (
    DAMPING,
    SIZES,
    STRENGTH,
    assert_equal,
    assert_matches_oracle,
    assert_near,
    begin,
    fit,
    flat,
    freeze,
    interrupt,
    learn,
    learned,
    make_model,
    make_oracle,
    make_tasks,
    other_weights,
    sgd,
    unfreeze,
)
from helpers import compile_eagerly as compile_model
from keras.callbacks import (
    BackupAndRestore,
    CallbackList,
    LambdaCallback,
    ModelCheckpoint,
)

from keras_si import SICallback


def start(**kwargs):
    """Returns a compiled model, its callback and its oracle, with SGD."""
    model = compile_model(make_model(), sgd(), **kwargs)
    return model, SICallback(STRENGTH, DAMPING), make_oracle(model)


def nothing(model, si, path):
    pass


def look(model, si, path):
    for read in (si.get_importance, si.get_path_integral, si.get_reference):
        read()
    si.set_model(model)
    SICallback(STRENGTH, DAMPING).set_model(model)
    model.evaluate(*make_tasks(1)[0], verbose=0)
    model.save(path)
    si.strength = si.strength


def compile_again(model, si, path):
    compile_model(model, sgd())


@pytest.mark.parametrize("look", [nothing, look, compile_again])
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


@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end"])
def test_task_ends_after_the_other_callbacks_end(consolidate):
    """Also those that only look, or are a `History` of the user's own."""
    model, si, task, _ = begin(consolidate=consolidate)
    left = other_weights(model)
    looking = LambdaCallback(on_train_end=lambda _: si.get_importance())
    histories = [keras.callbacks.History() for _ in range(2)]
    set_weights = LambdaCallback(on_train_end=lambda _: model.set_weights(left))
    fit(model, task, histories[0], si, looking, set_weights, histories[1])
    for weights in (left, other_weights(model, seed=2)):
        model.set_weights(weights)
        assert_equal(si.get_reference().values(), left)
    assert np.abs(flat(si.get_path_integral())).max() == 0
    # Keras's own is what SI waits behind; these are left as they were.
    assert not any("on_train_end" in vars(history) for history in histories)


@pytest.mark.parametrize("first", [True, False])
def test_checkpoint_loaded_when_fit_ends_is_where_its_task_ends(
    first, tmp_path
):
    model, si, reference = start()
    task = make_tasks(1)[0]
    path = str(tmp_path / "epoch_{epoch}.weights.h5")
    save = ModelCheckpoint(path, save_weights_only=True)
    load = LambdaCallback(
        on_train_end=lambda _: model.load_weights(path.format(epoch=1))
    )
    fit(model, task, *([si, save, load] if first else [save, load, si]))
    learn(reference, task, epochs=1)
    assert_matches_oracle(model, si, reference)


def own_loop(model, si, task, of_batches=True):
    """Trains on a task; its list of callbacks has no `History`."""
    x, y = task
    callbacks = CallbackList([si], model=model)
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
    model, si, first, second = begin(sgd())
    if before == "plain":
        fit(model, first)
    else:
        interrupt(model, first, si)
        si.detach()
    reference = make_oracle(model)
    si = SICallback(STRENGTH, DAMPING)
    for task in (first, second):
        own_loop(model, si, task)
        learn(reference, task)
    assert_matches_oracle(model, si, reference)


@pytest.mark.parametrize("by_hand", [True, False])
def test_task_of_a_layer_that_is_frozen_within_it_ends_with_the_others(by_hand):
    model, _, reference = start()
    consolidate = None if by_hand else "train_end"
    si = SICallback(STRENGTH, DAMPING, consolidate)
    task = make_tasks(1)[0]
    if by_hand:
        fit(model, task, si, epochs=1)
        freeze(model, optimizer=sgd())
        fit(model, task, si)
        si.consolidate()
    else:
        interrupt(model, task, si, epoch=1, batch=None)
        freeze(model, optimizer=sgd())
        with pytest.warns(UserWarning, match="continues that task"):
            fit(model, task, si)
    si.set_model(unfreeze(model, optimizer=sgd()))
    assert np.abs(flat(si.get_path_integral())).max() == 0
    assert_equal(si.get_reference().values(), model.get_weights())
    # Its part of the task were the steps before.
    learn(reference, task, epochs=1)
    kernel, bias, *_ = si.get_importance().values()
    assert_near([kernel, bias], reference.importance[:2], rtol=1e-4)


def test_weights_of_a_frozen_layer_that_are_set_do_not_move_its_reference():
    model, si, _, second = learned()
    before = model.layers[0].get_weights()
    freeze(model)
    model.layers[0].set_weights([w + 1 for w in before])
    fit(model, second, si)
    si.set_model(unfreeze(model))
    kernel, bias, *_ = si.get_reference().values()
    assert_equal([kernel, bias], before)


def test_model_with_a_part_that_is_another_models_leaves_its_task_alone():
    """As a generator's, trained through a discriminator that stands still."""
    first, second = make_tasks(2)
    part = compile_model(make_model(sizes=(SIZES[0], SIZES[0], SIZES[-1])))
    of_part = SICallback()
    interrupt(part, first, of_part)
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
    model, si, first, second = begin()
    path = tmp_path / "model.keras"
    fit(
        model,
        first,
        si,
        LambdaCallback(on_train_end=lambda _: model.save(path)),
    )
    model = freeze(keras.models.load_model(path))
    si = SICallback(consolidate=None)
    fit(model, second, si)
    (*_, omega) = si.get_path_integral().values()
    assert np.abs(omega).max() > 0
    si.set_model(unfreeze(model))
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
    "how", ["set_weights", "load_weights", "on_train_batch_begin"]
)
def test_weights_set_before_the_first_step_are_the_reference(how, tmp_path):
    model, si, _ = start()
    weights = other_weights(model)
    task = make_tasks(1)[0]
    late = iter([weights] if how == "on_train_batch_begin" else [])

    def set_once(batch, logs):
        for each in late:
            model.set_weights(each)

    if how != "on_train_batch_begin":
        si.set_model(model)
        if how == "load_weights":
            source, other, *_ = begin(sgd())
            other.set_model(source)
            source.set_weights(weights)
            source.save_weights(tmp_path / "a.weights.h5")
            model.load_weights(tmp_path / "a.weights.h5")
        else:
            model.set_weights(weights)
        assert_equal(si.get_reference().values(), weights)
    fit(model, task, si, LambdaCallback(on_train_batch_begin=set_once))
    clone = make_model()
    clone.set_weights(weights)
    reference = make_oracle(clone)
    learn(reference, task)
    assert_matches_oracle(model, si, reference)


@pytest.mark.parametrize("mode", [{"run_eagerly": False}, {}])
def test_weights_set_before_a_loop_of_the_users_own_are_the_reference(mode):
    model, si, _ = start(**mode)
    si.set_model(model)
    model.set_weights(other_weights(model))
    reference = make_oracle(model)
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


def test_weights_set_between_two_fits_are_no_task_of_an_epoch():
    model, si, _, second = learned(consolidate="epoch_end")
    ended, seen = model.get_weights(), []
    model.set_weights(other_weights(model))
    look = LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(si.get_reference())
    )
    fit(model, second, si, look, epochs=1)
    assert_equal(seen[0].values(), ended)


def test_new_head_starts_from_the_weights_that_it_is_given():
    """The trunk was trained before; the head is the first task's of its own."""
    first, second = make_tasks(2)
    model, si, reference = start()
    fit(model, first, si)
    learn(reference, first)
    head = keras.layers.Dense(SIZES[-1], name="new_head")
    layers = [keras.Input((SIZES[0],)), *model.layers[:-1], head]
    other = compile_model(keras.Sequential(layers), sgd())
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


@pytest.mark.parametrize("anew", [False, True])
def test_best_checkpoint_of_a_fit_is_where_its_task_ends(tmp_path, anew):
    model, si, reference = start()
    first, second = make_tasks(2)
    path = str(tmp_path / "epoch_{epoch}.weights.h5")
    fit(model, first, si, ModelCheckpoint(path, save_weights_only=True))
    learn(reference, first, epochs=1)
    model.load_weights(path.format(epoch=1))
    if anew:
        compile_model(model, sgd())
        si = SICallback(STRENGTH, DAMPING)
    fit(model, second, si)
    learn(reference, second)
    assert_matches_oracle(model, si, reference)


@pytest.mark.filterwarnings("ignore:.*continues that task")
def test_backup_restored_in_the_same_process_ends_no_task(tmp_path):
    model, si, reference = start()
    first, second = make_tasks(2)
    learn(reference, first)
    learn(reference, second)
    fit(model, first, si)
    backup = BackupAndRestore(tmp_path / "backup")
    interrupt(model, second, backup, si, epoch=1, batch=0)
    fit(model, second, BackupAndRestore(tmp_path / "backup"), si)
    assert_matches_oracle(model, si, reference)


@pytest.mark.filterwarnings("ignore:.*continues that task")
def test_backup_that_is_kept_does_not_end_the_next_task_early(tmp_path):
    model, si, *tasks = begin()
    path = tmp_path / "model.keras"
    for task, epochs in zip(tasks, (2, 4), strict=True):
        backup = BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        fit(model, task, backup, si, ModelCheckpoint(path), epochs=epochs)
    within = SICallback()
    within.set_model(keras.models.load_model(path))
    assert flat(within.get_path_integral()).any()


def test_interrupted_task_continues_in_the_next_fit():
    """On other data, as the warning says."""
    model, si, reference = start()
    before, first, second = make_tasks()
    fit(model, before, si)
    learn(reference, before)
    interrupt(model, first, si)
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, second, SICallback(STRENGTH, DAMPING))
    for offset in (0, 8):
        batch = slice(offset, offset + 8)
        reference.train_step(np.float64(first[0][batch]), first[1][batch])
    learn(reference, second)
    si.set_model(model)
    assert_matches_oracle(model, si, reference)


def test_averages_that_are_swapped_in_between_epochs_are_not_the_reference():
    """Those of `SwapEMAWeights`."""
    references = []
    for place in (None, 0, 2):  # not there, in front of SI, behind it
        keras.utils.set_random_seed(5)
        optimizer = sgd(use_ema=True, ema_momentum=0.9)
        settings = {"strength": 0.0, "consolidate": "epoch_end"}
        model, si, task, _ = begin(optimizer, **settings)
        seen = []

        class Look(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None, si=si, seen=seen):
                if batch == 0:
                    seen.append(flat(si.get_reference()))

        callbacks = [si, Look()]
        if place is not None:
            average = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            callbacks.insert(place, average)
        fit(model, task, *callbacks, epochs=3)
        references.append(seen)
    for swapped in references[1:]:
        assert_near(swapped, references[0])
