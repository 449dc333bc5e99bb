"""What stands in the event files of a user's own TensorBoard callback."""

import collections
import importlib.util

import keras
import numpy as np
import pytest
from helpers import compile_model, fit, make_model, make_tasks

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
    layers = collections.defaultdict(list)
    for path, values in importance.items():
        layers[path[: path.rindex("/")]] += values.ravel().tolist()
    assert {tag for tag in found if tag != "si_penalty"} == {
        *(f"importance_{what}/{n}" for n in layers for what in ("mean", "max")),
        *(f"importance/{path}" for path in importance),
    }
    for name, elements in layers.items():
        mean = sum(elements) / len(elements)
        logged = found[f"importance_mean/{name}"][index][1]
        np.testing.assert_allclose(logged, mean, rtol=1e-6)
        assert found[f"importance_max/{name}"][index][1] == max(elements)
    for path, values in importance.items():
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
    # Still due; what it comes to is known, and is not written again.
    assert int(model.optimizer.state.due) == 1
    assert importance_steps(tmp_path / "si") == [6]
    after_first = si.get_importance()
    penalties += fit(model, second, *callbacks).history["si_penalty"]
    assert importance_steps(tmp_path / "si") == [6, 12]
    after_second = si.get_importance()
    si.get_importance()
    found = events(tmp_path / "si")
    assert importance_steps(tmp_path / "si") == [6, 12]
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
        (2, [2, 4, 6], [2, 4, 6]),
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


class SetWeights(keras.callbacks.Callback):
    """Changes the weights when the fit ends, as `EarlyStopping` may."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)


@with_tensorboard
def test_what_is_due_counts_with_the_weights_that_others_leave(tmp_path):
    """Back where it began, a weight is as important as omega over xi."""
    model = small_model()
    began = model.get_weights()
    # A list of the user's own serves many fits.
    given = [SICallback(damping=0.5), keras.callbacks.TensorBoard(tmp_path)]
    callbacks = keras.callbacks.CallbackList(
        [*given, SetWeights(began)], add_history=True, model=model
    )
    x, y = make_tasks(1)[0]
    model.fit(x, y, batch_size=8, epochs=2, callbacks=callbacks)
    kernel, bias = (
        np.maximum(np.array(omega), 0) / 0.5
        for omega in model.optimizer.state.path_integrals
    )
    found = events(tmp_path / "si")
    ((step, greatest),) = found["importance_max/sequential/dense_0"]
    assert (step, greatest) == (6, max(kernel.max(), bias.max()))
    ((_, mean),) = found["importance_mean/sequential/dense_0"]
    np.testing.assert_allclose(
        mean, (kernel.sum() + bias.sum()) / (18 + 3), rtol=1e-6
    )
    # Changed by the user, before it is carried out: what was written is not
    # what comes of it.
    model.set_weights([array + 1 for array in began])
    importance = given[0].get_importance()
    assert importance_steps(tmp_path / "si") == [6, 6]
    assert_importance(events(tmp_path / "si"), -1, importance)
    callbacks.set_model(model)  # Keras's TensorBoard wants it.
    model.fit(x, y, batch_size=8, epochs=1, callbacks=callbacks)
    assert importance_steps(tmp_path / "si") == [6, 6, 9]
    assert len(callbacks.callbacks) == 5  # one of ours behind them


@with_tensorboard
def test_nothing_is_written_of_a_fit_that_ends_no_task(tmp_path):
    model, task = small_model(), make_tasks(1)[0]
    si, board = SICallback(), keras.callbacks.TensorBoard(tmp_path)

    def interrupt(epoch, logs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, task, si, board, keras.callbacks.LambdaCallback(interrupt))
    # Nor is what cannot be consolidated.
    broken = [array * np.nan for array in model.get_weights()]
    fit(model, task, si, board, SetWeights(broken), epochs=1)
    assert importance_steps(tmp_path / "si") == []


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
    # Keras calls a layer of a `Sequential` otherwise once it was loaded.
    assert steps_of(found, "importance_mean/sequential/dense_0") == [6]
    assert steps_of(found, "importance_mean/dense_0") == [6, 12]


@with_tensorboard
def test_another_model_is_not_taken_for_the_one_before(tmp_path):
    si = SICallback()
    board = keras.callbacks.TensorBoard(tmp_path)
    for _ in range(2):
        fit(small_model(), make_tasks(1)[0], si, board)
        si.get_importance()
    found = events(tmp_path / "si")
    # Of two models: a mean, a maximum and two histograms each.
    assert len(found) == 1 + 2 * (2 + 2)
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
