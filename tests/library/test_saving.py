"""SI's state lives where Keras saves it."""

import functools
import warnings

import keras
import numpy as np
import pytest
from helpers import (
    all_state,
    assert_equal,
    assert_near,
    begin,
    compile_eagerly,
    finish,
    fit,
    flat,
    freeze,
    interrupt,
    learned,
    make_model,
    make_tasks,
    reloaded,
    start,
    unfreeze,
)
from helpers import compile_model as compile_traced

from keras_si import SICallback

SKIPPED = "ignore:Skipping variable loading for optimizer"


def continued(model):
    """Returns a callback that continues the task of `middle_of_a_task`."""
    si = SICallback(strength=1.0, consolidate=None)
    si.set_model(model)
    return si


def middle_of_a_task(*callbacks, compile=compile_eagerly):
    model, _, _, second = learned(compile=compile)
    si = continued(model)
    fit(model, second, si, *callbacks, epochs=1)
    return model, si


# It is all there.


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_loaded_model_continues_its_task_bit_for_bit(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    model, si = middle_of_a_task()
    loaded = reloaded(model, tmp_path)
    again = continued(loaded)
    assert np.abs(next(iter(again.get_path_integral().values()))).max() > 0
    assert_equal(all_state(si), all_state(again))
    task = make_tasks()[1]
    logs, other_logs = fit(model, task, si), fit(loaded, task, again)
    assert logs.history == other_logs.history
    assert_equal(all_state(si), all_state(again))
    assert_equal(model.get_weights(), loaded.get_weights())


def test_model_saved_within_a_compiled_fit_has_the_state_of_that_moment(
    tmp_path,
):
    path = tmp_path / "model.keras"
    save = keras.callbacks.ModelCheckpoint(path)
    model, si = middle_of_a_task(save, compile=compile_traced)
    loaded = keras.models.load_model(path)
    assert_equal(all_state(si), all_state(continued(loaded)))
    assert_equal(model.get_weights(), loaded.get_weights())


def test_task_that_has_ended_is_saved_as_ended(tmp_path):
    model, si, _, second = learned(strength=1.0)
    loaded, again = reloaded(model, tmp_path), SICallback(strength=1.0)
    logs, other_logs = fit(model, second, si), fit(loaded, second, again)
    assert logs.history == other_logs.history
    assert_equal(all_state(si), all_state(again))


def test_loaded_optimizer_has_the_settings_of_the_saved_one(tmp_path):
    settings = {"damping": 0.3, "consolidate": 5, "include": "kernel"}
    model, si, *_ = begin(**settings)
    si.set_model(model)
    si.strength = 3.0
    config = reloaded(model, tmp_path).optimizer.get_config()
    assert config["strength"] == 3.0
    assert config["damping"] == 0.3
    assert config["consolidate_every"] == 5
    assert config["tracked"] == [True, False] * 3
    assert config["inner_optimizer"]["class_name"] == "Adam"


def test_loading_needs_nothing_but_the_import(tmp_path):
    model, _ = middle_of_a_task()
    path = tmp_path / "model.keras"
    model.save(path)
    code = (
        "import sys, keras, keras_si;"
        "m = keras.models.load_model(sys.argv[1]);"
        "print(type(m.optimizer).__name__, m.optimizer.inner_optimizer.name)"
    )
    (printed,) = finish([start("-c", code, path)])
    assert printed.split() == ["SIOptimizer", "adam"]


def test_loaded_model_pays_the_penalty_before_a_callback_sees_it(tmp_path):
    model, si = middle_of_a_task(compile=compile_traced)
    loaded = reloaded(model, tmp_path)
    assert flat(si.get_importance()).max() > 1e-3
    task = make_tasks()[2]
    loaded.evaluate(*task, verbose=0)
    for each in (model, loaded):
        fit(each, task)
    assert_near(model.get_weights(), loaded.get_weights())
    mine, other = (each.get_path_integral() for each in (si, continued(loaded)))
    assert_near(mine, other, rtol=1e-4)


def test_fit_on_a_model_loaded_in_the_middle_of_a_task_says_so(tmp_path):
    model, si, first, second = begin()
    path = tmp_path / "model.keras"
    fit(model, first, si, keras.callbacks.ModelCheckpoint(path))
    loaded = keras.models.load_model(path)
    with pytest.warns(UserWarning, match="saved within it.*continues"):
        fit(loaded, second, SICallback())
    # By hand, the task that the file was in the middle of ends first.
    loaded = keras.models.load_model(path)
    si = SICallback()
    si.set_model(loaded)
    si.consolidate()
    fit(loaded, second, si)


# Backups.


def model_and_callback(accumulation, consolidate):
    keras.utils.set_random_seed(4)
    optimizer = keras.optimizers.Adam(
        1e-2, gradient_accumulation_steps=accumulation
    )
    return begin(optimizer, strength=1.0, consolidate=consolidate)[:2]


@functools.cache
def undisturbed(accumulation, consolidate):
    model, si = model_and_callback(accumulation, consolidate)
    for task, epochs in zip(make_tasks(), (2, 4, 3)):
        fit(model, task, si, epochs=epochs)
    return model.get_weights(), all_state(si)


# 22 examples: an epoch has three batches.
@pytest.mark.parametrize(
    ("epoch", "batch", "backup_first", "accumulation", "consolidate"),
    [
        (2, None, True, None, "train_end"),
        (1, 1, False, None, "train_end"),
        # A batch is left over at the end of the epoch that is restored.
        (1, 1, False, 2, "epoch_end"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*had one optimizer step")
def test_backup_restored_after_a_crash_ends_as_an_undisturbed_run(
    tmp_path, epoch, batch, backup_first, accumulation, consolidate
):
    def callbacks(si):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return [backup, si] if backup_first else [si, backup]

    first, second, third = make_tasks()
    model, si = model_and_callback(accumulation, consolidate)
    fit(model, first, si)
    si.get_importance()
    crash = {"epoch": epoch, "batch": batch}
    interrupt(model, second, *callbacks(si), **crash, epochs=4)
    # A new process.
    model, si = model_and_callback(accumulation, consolidate)
    fit(model, second, *callbacks(si), epochs=4)
    # Keras alone would begin this task at the crash's epoch as well.
    logs = fit(model, third, *callbacks(si), epochs=3).history
    assert len(logs["loss"]) == 3
    weights, state = undisturbed(accumulation, consolidate)
    assert_equal(model.get_weights(), weights)
    assert_equal(all_state(si), state)
    assert max(i.max() for i in si.get_importance().values()) > 1e-3


def test_backup_within_an_epoch_begins_it_again_from_the_step_it_is_of(
    tmp_path,
):
    """So does Keras by itself: what was trained of that epoch stays."""

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "a", save_freq=2)

    model, si, (x, y), _ = begin()
    # Saved after the first, third, ... step of epoch 1.
    interrupt(model, (x, y), si, backup(), epoch=1, batch=1, epochs=3)
    model, si, *_ = begin(consolidate=None)
    fit(model, (x, y), si, backup(), epochs=3)

    keras.utils.set_random_seed(7)
    expected, expected_si, *_ = begin()
    expected_si.set_model(expected)
    for epoch in ((0, 8, 16), (0,), (0, 8, 16), (0, 8, 16)):
        for offset in epoch:
            batch = slice(offset, offset + 8)
            expected.train_on_batch(x[batch], y[batch])
    assert_equal(all_state(si), all_state(expected_si))
    assert_equal(model.get_weights(), expected.get_weights())


# Frozen layers, and LoRA.


def test_importance_of_frozen_layers_is_in_the_file(tmp_path):
    model, si, _, second = learned()
    before = [*si.get_importance().values()]
    fit(freeze(model), second, si)
    assert len(si.get_importance()) == 4
    for _ in range(2):  # saved, loaded, and once more, still frozen
        model = compile_eagerly(reloaded(model, tmp_path))
        si = SICallback()
        si.set_model(model)
    si.set_model(unfreeze(model))
    after = [*si.get_importance().values()]
    assert len(after) == 6
    assert_equal(after[:2], before[:2])
    assert before[0].max() > 1e-3 and before[1].max() > 1e-3
    reference, *_ = si.get_reference().values()
    np.testing.assert_array_equal(reference, model.get_weights()[0])


def test_saving_with_layers_frozen_since_compile_is_warned_of(tmp_path):
    model, si, *_ = learned()
    model.layers[0].trainable = False
    with pytest.warns(UserWarning, match="frozen after the model was compiled"):
        model.save(tmp_path / "model.keras")
    si.set_model(compile_eagerly(model))
    loaded = reloaded(model, tmp_path)  # without a warning
    assert not loaded.layers[0].trainable


def test_lora_that_keras_merges_pays_no_penalty_in_a_loaded_model(tmp_path):
    first, second = make_tasks(2)
    model = make_model()
    model.layers[0].enable_lora(2)
    si = SICallback(strength=5.0)
    fit(compile_eagerly(model), first, si)
    lora = [i for i, p in enumerate(si.get_importance()) if "lora_" in p]
    before = list(si.get_importance().values())
    assert len(lora) == 2 and max(before[i].max() for i in lora) > 1e-4
    with pytest.warns(UserWarning, match="merges LoRA.*lora_kernel_a"):
        loaded = reloaded(model, tmp_path)
    again = SICallback(strength=5.0)
    again.set_model(loaded)
    assert float(sum(loaded.losses)) == 0
    for index, importance in enumerate(again.get_importance().values()):
        expected = 0 * before[index] if index in lora else before[index]
        np.testing.assert_array_equal(importance, expected)
    fit(loaded, second, again)


# Weights alone, and state that does not fit.


def test_weights_have_the_state_for_another_model_with_the_same_variables(
    tmp_path,
):
    model, si = middle_of_a_task()
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = compile_eagerly(make_model())
    again = continued(other)
    other.load_weights(path)
    assert_equal(all_state(si), all_state(again))

    other, narrow, *_ = begin(include="dense_0")
    narrow.set_model(other)
    before = other.get_weights()
    with pytest.raises(ValueError, match="SI state does not fit.*dense"):
        other.load_weights(path)
    assert_equal(other.get_weights(), before)
    narrow.detach()
    assert "load_weights" not in vars(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda stored, index: stored.pop(index),
            r"1_bias_importance' has shape \(7,\), .* none",
        ),
        (
            lambda stored, index: stored.update({index: np.zeros(4)}),
            r"1_bias_importance' has shape \(7,\), .* \(4,\)",
        ),
        (
            lambda stored, _: stored.update({"99": np.zeros(1)}),
            r"has 20 arrays, expected 19\. ",
        ),
    ],
)
def test_array_that_does_not_fit_is_named_and_nothing_is_loaded(
    change, message
):
    model, si, *_ = begin(include="dense_[01]/")
    si.set_model(model)
    optimizer = model.optimizer
    stored = {}
    optimizer.save_own_variables(stored)
    stored = {key: value + 1 for key, value in stored.items()}
    paths = [variable.path for variable in optimizer.variables]
    (path,) = (p for p in paths if p.endswith("dense_1_bias_importance"))
    change(stored, str(paths.index(path)))
    with pytest.raises(ValueError, match=f"SI state does not fit.*{message}"):
        optimizer.load_own_variables(stored)
    first, *_ = optimizer.state.importances
    assert keras.ops.convert_to_numpy(first).max() == 0


# Files of another kind.


@pytest.mark.filterwarnings(SKIPPED)
@pytest.mark.parametrize(
    ("source", "used"),
    [("fitted", True), ("compiled", False), ("uncompiled", True)],
)
def test_weights_without_si_state_are_loaded_with_a_warning(
    tmp_path, source, used
):
    """As in k-fold loops that put the first weights back."""
    model, si, first, second = begin()
    plain = make_model()
    if source != "uncompiled":
        compile_eagerly(plain)
    if source == "fitted":
        fit(plain, second)
    plain.save_weights(tmp_path / "plain.weights.h5")
    if used:
        fit(model, first, si)
    else:
        si.set_model(model)
    importance = [a.copy() for a in si.get_importance().values()]
    with pytest.warns(UserWarning, match="no state of SI in what was loaded"):
        model.load_weights(tmp_path / "plain.weights.h5")
    assert_equal(model.get_weights(), plain.get_weights())
    assert_equal(si.get_importance().values(), importance)
    fit(model, second, si)


@pytest.mark.filterwarnings(SKIPPED)
@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_quantized_model_is_loaded_without_si_state(tmp_path, kind):
    model, _, (x, _), _ = learned()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.quantize(kind)
        expected = model.predict(x, verbose=0)
        model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="SI state was not restored"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_near(loaded.predict(x, verbose=0), expected, atol=1e-6)


def test_h5_file_is_loaded_without_si_state(tmp_path):
    model, _, task, _ = learned()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    # Keras logs that the optimizer is a new one.
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert_equal(model.get_weights(), loaded.get_weights())
    compile_eagerly(loaded)  # which Keras needs by itself, too
    fit(loaded, task, SICallback())
