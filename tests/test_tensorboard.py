"""What stands in the event files of a user's own TensorBoard callback."""

import collections
import importlib.util

import keras
import numpy as np
import pytest
from conftest import compile_model, fit, make_model, make_tasks

from keras_si import SICallback, tensorboard

with_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="Keras's own TensorBoard callback needs TensorFlow on any backend",
)

# A fit takes 2 epochs, an epoch 3 steps: 22 examples in batches of 8.


def small_model():
    """One layer, not traced: what is tested here is what is written."""
    return compile_model(make_model(sizes=(6, 3)), run_eagerly=True)


def events(folder):
    """Returns what was written to a folder: tag -> list of (step, array)."""
    import tensorflow as tf

    found = collections.defaultdict(list)
    for path in sorted(folder.glob("events*"), key=lambda p: p.stat().st_ctime):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                found[value.tag].append((event.step, array))
    return found


def steps_of(found, tag):
    return [step for step, _ in found.get(tag, [])]


def importance_steps(folder):
    """The steps at which importance was written: the same for every tag."""
    found = events(folder)
    tags = [tag for tag in found if tag.startswith("importance")]
    steps = [steps_of(found, tag) for tag in tags]
    assert all(each == steps[0] for each in steps)
    return steps[0] if steps else []


def assert_importance(found, index, importance):
    """Compares what was written with what the callback itself returns."""
    for path, values in importance.items():
        mean = sum(float(v) for v in values.ravel()) / values.size
        greatest = max(float(v) for v in values.ravel())
        logged = found[f"importance_mean/{path}"][index][1]
        np.testing.assert_allclose(logged, mean, rtol=1e-6)
        assert found[f"importance_max/{path}"][index][1] == greatest
        # A row for each bucket: its left end, its right end, its count.
        buckets = found[f"importance/{path}"][index][1]
        counts, edges = np.histogram(values, bins=30)
        np.testing.assert_array_equal(buckets[:, 2], counts)
        np.testing.assert_allclose(buckets[:, 0], edges[:-1], atol=1e-7)
        np.testing.assert_allclose(buckets[:, 1], edges[1:], atol=1e-7)


@with_tensorboard
@pytest.mark.parametrize("si_first", [True, False])
def test_penalty_and_importance(tmp_path, si_first):
    # Keras's callback, which logs every second batch here, turns recording
    # off in between.
    board = keras.callbacks.TensorBoard(tmp_path, update_freq=2)
    si = SICallback(strength=10.0)
    callbacks = [si, board] if si_first else [board, si]
    model = compile_model(make_model())
    first, second = make_tasks(2)
    penalties = fit(model, first, *callbacks).history["si_penalty"]
    assert importance_steps(tmp_path / "si") == []  # due, not carried out
    after_first = si.get_importance()
    penalties += fit(model, second, *callbacks).history["si_penalty"]
    assert importance_steps(tmp_path / "si") == [6]
    after_second = si.get_importance()
    si.get_importance()
    found = events(tmp_path / "si")
    assert importance_steps(tmp_path / "si") == [6, 12]
    assert len(found) == 1 + 3 * len(model.trainable_variables)
    assert_importance(found, 0, after_first)
    assert_importance(found, 1, after_second)
    assert steps_of(found, "si_penalty") == [3, 6, 9, 12]
    assert penalties[:2] == [0, 0] and min(penalties[2:]) > 1e-6
    np.testing.assert_allclose(
        [value for _, value in found["si_penalty"]], penalties, rtol=1e-6
    )


@with_tensorboard
@pytest.mark.parametrize(
    ("consolidate", "during", "after"),
    [
        ("epoch_end", [3, 6], [3, 6]),
        # After steps 2, 4 and 6: at an epoch's end, of the last one.
        (2, [2, 6], [2, 6]),
        (100, [], []),
        (None, [], [6]),
    ],
)
def test_every_way_to_consolidate(tmp_path, consolidate, during, after):
    board = keras.callbacks.TensorBoard(tmp_path, write_graph=False)
    si = SICallback(consolidate=consolidate, include="bias")
    model = small_model()
    fit(model, make_tasks(1)[0], si, board)
    assert importance_steps(tmp_path / "si") == during
    if consolidate is None:
        si.consolidate()
    importance = si.get_importance()
    assert importance_steps(tmp_path / "si") == after
    if after:
        assert_importance(events(tmp_path / "si"), -1, importance)


@with_tensorboard
def test_a_folder_for_each_task(tmp_path):
    """What is due goes to the task's own; the next says what it began with."""
    si = SICallback()
    model = small_model()
    for index, task in enumerate(make_tasks(3)):
        board = keras.callbacks.TensorBoard(tmp_path / str(index))
        fit(model, task, si, *([board] if index < 2 else []))
    assert importance_steps(tmp_path / "0" / "si") == [6]
    assert importance_steps(tmp_path / "1" / "si") == [6, 12]
    si.get_importance()  # of the last task, which had no TensorBoard
    assert importance_steps(tmp_path / "1" / "si") == [6, 12]
    assert not (tmp_path / "2").exists()


@with_tensorboard
def test_a_new_process_appends(tmp_path):
    """Also where a new `compile` sets the optimizer's own steps back to 0."""
    first, second = make_tasks(2)
    model = small_model()
    board = keras.callbacks.TensorBoard(tmp_path / "logs")
    fit(model, first, SICallback(), board)
    model.save(tmp_path / "model.keras")
    keras.utils.clear_session(free_memory=False)
    model = keras.models.load_model(tmp_path / "model.keras")
    si = SICallback()
    si.set_model(model)
    compile_model(model)
    fit(model, second, si, keras.callbacks.TensorBoard(tmp_path / "logs"))
    si.get_importance()
    found = events(tmp_path / "logs" / "si")
    assert steps_of(found, "si_penalty") == [3, 6, 9, 12]
    assert importance_steps(tmp_path / "logs" / "si") == [6, 12]


@with_tensorboard
def test_another_model_is_not_taken_for_the_one_before(tmp_path):
    si = SICallback()
    board = keras.callbacks.TensorBoard(tmp_path)
    for _ in range(2):
        fit(small_model(), make_tasks(1)[0], si, board)
        si.get_importance()
    found = events(tmp_path / "si")
    assert len(found) == 1 + 2 * 3 * 2  # of two models, two variables each
    assert importance_steps(tmp_path / "si") == [6]


class Untouchable:
    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked for")


@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end", 2])
def test_nothing_happens_without_tensorboard(monkeypatch, consolidate):
    # All that the log computes is computed with `ops`; its one import, of
    # TensorFlow's summaries, is in `_recording`.
    monkeypatch.setattr(tensorboard, "ops", Untouchable())
    monkeypatch.setattr(tensorboard.SILog, "_recording", Untouchable())
    si = SICallback(consolidate=consolidate)
    model = small_model()
    fit(model, make_tasks(1)[0], si, keras.callbacks.TerminateOnNaN())
    si.get_importance()


def test_the_state_is_not_even_looked_at_without_tensorboard():
    log = tensorboard.SILog()
    log.look_for_tensorboard()
    log.write_epoch(Untouchable())
    log.write_importance(Untouchable())
