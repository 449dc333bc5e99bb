"""SI's state lives where Keras saves it."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import compile_model, fit, make_model, make_tasks, only_on

from keras_si import SICallback


def history(*args, **kwargs):
    return fit(*args, **kwargs).history


def assert_same_state(a, b):
    for read in ("get_path_integral", "get_importance", "get_reference"):
        for one, other in zip(
            getattr(a, read)().values(), getattr(b, read)().values()
        ):
            np.testing.assert_array_equal(one, other)


def middle_of_a_task():
    first, second, _ = make_tasks()
    model = compile_model(make_model())
    si = SICallback(strength=1.0)
    fit(model, first, si)
    si.get_importance()  # ends the first task
    si_inside = SICallback(strength=1.0, consolidate=None)
    fit(model, second, si_inside, epochs=1)
    return model, si_inside


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_loaded_model_goes_on_bit_for_bit(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    model, si = middle_of_a_task()
    path = tmp_path / "model.keras"
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


@pytest.mark.parametrize("backup_first", [True, False])
def test_backup_and_restore_after_a_crash(tmp_path, backup_first):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("power cut")

    def callbacks(si, name):
        backup = keras.callbacks.BackupAndRestore(tmp_path / name)
        return [backup, si] if backup_first else [si, backup]

    first, second, third = make_tasks()
    results = []
    for crash in (False, True):
        keras.utils.set_random_seed(4)
        model = compile_model(make_model())
        si = SICallback(strength=1.0)
        fit(model, first, si)
        si.get_importance()
        name = f"backup-{crash}"
        if crash:
            with pytest.raises(RuntimeError, match="power cut"):
                fit(model, second, *callbacks(si, name), Crash(), epochs=4)
            model = compile_model(make_model())  # a new process
            si = SICallback(strength=1.0)
        fit(model, second, *callbacks(si, name), epochs=4)
        # Keras alone would begin this task at epoch 2 as well.
        logs = history(model, third, *callbacks(si, name), epochs=3)
        assert len(logs["loss"]) == 3
        results.append((si, model.get_weights()))
    assert_same_state(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1]):
        np.testing.assert_array_equal(one, other)


@only_on("tensorflow", "torch", reason="JAX's steps must be wrapped first")
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
