"""SI's state lives where Keras saves it."""

import functools
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from helpers import compile_model, fit, make_model, make_tasks

from keras_si import SICallback


def history(*args, **kwargs):
    return fit(*args, **kwargs).history


def assert_same_state(a, b):
    for read in ("get_path_integral", "get_importance", "get_reference"):
        for one, other in zip(
            getattr(a, read)().values(), getattr(b, read)().values()
        ):
            np.testing.assert_array_equal(one, other)


def middle_of_a_task(*callbacks):
    first, second, _ = make_tasks()
    model = compile_model(make_model())
    si = SICallback(strength=1.0)
    fit(model, first, si)
    si.get_importance()  # ends the first task
    si_inside = SICallback(strength=1.0, consolidate=None)
    fit(model, second, si_inside, *callbacks, epochs=1)
    return model, si_inside


@pytest.mark.parametrize(
    ("policy", "within_fit"),
    [("float32", False), ("mixed_float16", False), ("float32", True)],
)
def test_a_loaded_model_goes_on_bit_for_bit(tmp_path, policy, within_fit):
    keras.config.set_dtype_policy(policy)
    path = tmp_path / "model.keras"
    if within_fit:
        save = keras.callbacks.ModelCheckpoint(path)
        model, si = middle_of_a_task(save)
    else:
        model, si = middle_of_a_task()
        model.save(path)
    loaded = keras.models.load_model(path)
    again = SICallback(strength=1.0, consolidate=None)
    again.set_model(loaded)
    assert np.abs(next(iter(again.get_path_integral().values()))).max() > 0
    assert_same_state(si, again)
    task = make_tasks()[1]
    assert history(model, task, si) == history(loaded, task, again)
    assert_same_state(si, again)
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_a_consolidation_that_is_due_is_saved(tmp_path):
    first, second, _ = make_tasks()
    model = compile_model(make_model())
    si = SICallback(strength=1.0)
    fit(model, first, si)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = SICallback(strength=1.0)
    assert history(model, second, si) == history(loaded, second, again)
    assert_same_state(si, again)


def test_save_weights_keeps_the_state(tmp_path):
    model, si = middle_of_a_task()
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = compile_model(make_model())
    again = SICallback(strength=1.0, consolidate=None)
    again.set_model(other)
    other.load_weights(path)
    assert_same_state(si, again)


def test_loading_state_that_does_not_fit_names_the_variable(tmp_path):
    model, _ = middle_of_a_task()
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = compile_model(make_model())
    SICallback(include="dense_0").set_model(other)
    with pytest.raises(ValueError, match="SI state does not fit.*dense"):
        other.load_weights(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, r"1_bias_importance' has shape \(7,\), .* none"),
        (np.zeros(4), r"1_bias_importance' has shape \(7,\), .* \(4,\)"),
        ("one more", r"holds 20 arrays, expected 19\. "),
    ],
)
def test_arrays_that_do_not_fit_are_named_and_nothing_is_loaded(array, message):
    model = compile_model(make_model())
    SICallback(include="dense_[01]/").set_model(model)
    optimizer = model.optimizer
    stored = {}
    optimizer.save_own_variables(stored)
    stored = {key: value + 1 for key, value in stored.items()}
    (index,) = [
        index
        for index, variable in enumerate(optimizer.variables)
        if variable.path.endswith("dense_1_bias_importance")
    ]
    if array is None:
        del stored[str(index)]
    elif isinstance(array, str):
        stored[str(len(stored))] = np.zeros(1)
    else:
        stored[str(index)] = array
    with pytest.raises(ValueError, match=f"SI state does not fit.*{message}"):
        optimizer.load_own_variables(stored)
    first, *_ = optimizer.state.importances
    assert keras.ops.convert_to_numpy(first).max() == 0


def test_a_loaded_optimizer_has_the_settings_of_the_saved_one(tmp_path):
    model = compile_model(make_model())
    si = SICallback(2.0, damping=0.3, consolidate=5, include="kernel")
    si.set_model(model)
    si.strength = 3.0
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    config = loaded.optimizer.get_config()
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
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.split() == ["SIOptimizer", "adam"]


def test_after_detach_a_model_saves_as_if_si_had_never_been_there(tmp_path):
    model, si = middle_of_a_task()
    si.detach()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)
    task = make_tasks()[1]
    assert history(model, task) == history(loaded, task)


class Crash(keras.callbacks.Callback):
    """A power cut before an epoch, or after a batch of it."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.epoch, self.batch, self.now = epoch, batch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        if (epoch, None) == (self.epoch, self.batch):
            raise RuntimeError("power cut")

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            raise RuntimeError("power cut")


def model_and_callback(accumulation, consolidate):
    keras.utils.set_random_seed(4)
    optimizer = keras.optimizers.Adam(
        1e-2, gradient_accumulation_steps=accumulation
    )
    model = compile_model(make_model(), optimizer)
    return model, SICallback(strength=1.0, consolidate=consolidate)


@functools.cache
def undisturbed(accumulation, consolidate):
    model, si = model_and_callback(accumulation, consolidate)
    for task, epochs in zip(make_tasks(), (2, 4, 3)):
        fit(model, task, si, epochs=epochs)
    return model, si


# 22 examples: an epoch has three batches.
@pytest.mark.parametrize(
    ("crash", "backup_first", "accumulation", "consolidate"),
    [
        ((2, None), True, None, "train_end"),
        ((2, None), False, None, "train_end"),
        ((1, 1), False, None, "train_end"),
        ((2, None), True, None, "epoch_end"),
        # A batch is left over at the end of the epoch that is restored.
        ((1, 1), False, 2, "epoch_end"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*had one optimizer step")
def test_backup_and_restore_after_a_crash(
    tmp_path, crash, backup_first, accumulation, consolidate
):
    def callbacks(si):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        return [backup, si] if backup_first else [si, backup]

    first, second, third = make_tasks()
    model, si = model_and_callback(accumulation, consolidate)
    fit(model, first, si)
    si.get_importance()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, second, *callbacks(si), Crash(*crash), epochs=4)
    # A new process.
    model, si = model_and_callback(accumulation, consolidate)
    fit(model, second, *callbacks(si), epochs=4)
    # Keras alone would begin this task at the crash's epoch as well.
    logs = history(model, third, *callbacks(si), epochs=3)
    assert len(logs["loss"]) == 3
    expected, expected_si = undisturbed(accumulation, consolidate)
    assert_same_state(si, expected_si)
    for one, other in zip(model.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert max(i.max() for i in si.get_importance().values()) > 1e-3


def test_what_is_saved_with_layers_frozen_since_compile_is_warned_of(tmp_path):
    model, task = compile_model(make_model()), make_tasks(1)[0]
    si = SICallback()
    fit(model, task, si)
    model.layers[0].trainable = False
    with pytest.warns(UserWarning, match="frozen after the model was compiled"):
        model.save(tmp_path / "model.keras")
    compile_model(model)
    si.set_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.layers[0].trainable


def test_a_backup_within_an_epoch_begins_it_again_from_the_step_it_is_of(
    tmp_path,
):
    """So does Keras by itself: what was trained of that epoch stays."""

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "a", save_freq=2)

    (x, y), *_ = make_tasks(1)
    model = compile_model(make_model())
    # Saved after the first, third, ... step of epoch 1.
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, (x, y), SICallback(), backup(), Crash(1, 1), epochs=3)
    model = compile_model(make_model())
    si = SICallback(consolidate=None)
    fit(model, (x, y), si, backup(), epochs=3)

    keras.utils.set_random_seed(7)
    expected, expected_si = compile_model(make_model()), SICallback()
    expected_si.set_model(expected)
    for epoch in ((0, 8, 16), (0,), (0, 8, 16), (0, 8, 16)):
        for start in epoch:
            batch = slice(start, start + 8)
            expected.train_on_batch(x[batch], y[batch])
    assert_same_state(si, expected_si)
    for one, other in zip(model.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_a_new_compile_after_loading_keeps_the_state(tmp_path):
    model, si = middle_of_a_task()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    compile_model(loaded, keras.optimizers.SGD(0.1))
    again = SICallback(strength=1.0, consolidate=None)
    again.set_model(loaded)
    assert_same_state(si, again)
    x, y = make_tasks()[2]
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0), loaded.evaluate(x, y, verbose=0), 1e-6
    )


def test_a_loaded_model_pays_the_penalty_before_a_callback_sees_it(tmp_path):
    model, si = middle_of_a_task()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert sum(w.max() for w in si.get_importance().values()) > 1e-3
    x, y = make_tasks()[2]
    loaded.evaluate(x, y, verbose=0)
    for each in (model, loaded):
        fit(each, (x, y))
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    again = SICallback(strength=1.0, consolidate=None)
    again.set_model(loaded)
    for one, other in zip(
        si.get_path_integral().values(), again.get_path_integral().values()
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_a_fit_on_a_model_loaded_in_the_middle_of_a_task_says_so(tmp_path):
    first, second, _ = make_tasks()
    model = compile_model(make_model())
    save = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
    fit(model, first, SICallback(), save)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="saved within it.*continues"):
        fit(loaded, second, SICallback())
    # By hand, the task that the file was in the middle of ends first.
    loaded = keras.models.load_model(tmp_path / "model.keras")
    si = SICallback()
    si.set_model(loaded)
    si.consolidate()
    fit(loaded, second, si)


# Files of another kind.


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
@pytest.mark.parametrize("source", ["fitted", "compiled", "uncompiled"])
@pytest.mark.parametrize("used", [False, True], ids=["set_model", "fit"])
def test_weights_without_si_state_are_loaded_with_a_warning(
    tmp_path, source, used
):
    """As in k-fold loops that put the first weights back."""
    first, second, _ = make_tasks()
    plain = make_model()
    if source != "uncompiled":
        compile_model(plain)
    if source == "fitted":
        fit(plain, second)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model, si = compile_model(make_model()), SICallback()
    si.set_model(model)
    if used:
        fit(model, first, si)
    importance = [a.copy() for a in si.get_importance().values()]
    with pytest.warns(UserWarning, match="no state of SI in what was loaded"):
        model.load_weights(tmp_path / "plain.weights.h5")
    for one, other in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(si.get_importance().values(), importance):
        np.testing.assert_array_equal(one, other)
    fit(model, second, si)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_a_quantized_model_is_loaded_without_si_state(tmp_path, kind):
    model = compile_model(make_model())
    fit(model, make_tasks(1)[0], SICallback())
    x = make_tasks(1)[0][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.quantize(kind)
        expected = model.predict(x, verbose=0)
        model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="SI state was not restored"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )


def test_an_h5_file_is_loaded_without_si_state(tmp_path):
    model = compile_model(make_model())
    task = make_tasks(1)[0]
    fit(model, task, SICallback())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    # Keras logs that the optimizer is a new one.
    loaded = keras.models.load_model(tmp_path / "model.h5")
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(one, other)
    compile_model(loaded)  # which Keras needs by itself, too
    fit(loaded, task, SICallback())
