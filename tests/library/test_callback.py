"""SICallback: attaching, task boundaries, logs, and what it refuses."""

import contextlib

import keras
import numpy as np
import pytest
from helpers import (
    HAS_MULTI_OPTIMIZER,
    JIT,
    SIZES,
    compile_model,
    fit,
    make_model,
    make_tasks,
    only_on,
)
from keras import ops

from keras_si import SICallback, SIRegularizer


def trained(*callbacks, tasks=3, **kwargs):
    """Weights after a few tasks from the same start."""
    keras.utils.set_random_seed(11)
    model = compile_model(make_model(), **kwargs)
    for task in make_tasks(tasks):
        fit(model, task, *callbacks)
    return model.get_weights()


def flat(state):
    return np.concatenate([value.ravel() for value in state.values()])


def short(path):
    return "/".join(path.split("/")[-2:])


# It takes effect.


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=JIT)])
def test_naive_and_si_differ(jit_compile):
    naive = trained(tasks=2, jit_compile=jit_compile)
    si = trained(SICallback(strength=5.0), tasks=2, jit_compile=jit_compile)
    assert max(np.abs(n - s).max() for n, s in zip(naive, si)) > 1e-3


def test_strength_zero_is_plain_fit_bit_for_bit():
    plain = trained(run_eagerly=True, tasks=2)
    si = trained(SICallback(strength=0.0), run_eagerly=True, tasks=2)
    for p, s in zip(plain, si, strict=True):
        np.testing.assert_array_equal(p, s)


def test_strength_zero_is_plain_fit_to_rounding_where_compiled():
    plain = trained()
    si = trained(SICallback(strength=0.0))
    for p, s in zip(plain, si, strict=True):
        np.testing.assert_allclose(p, s, rtol=1e-4, atol=1e-6)


def test_strength_zero_still_measures_importance():
    si = SICallback(strength=0.0)
    trained(si, tasks=1)
    assert flat(si.get_importance()).max() > 1e-3


@pytest.mark.parametrize("jit_compile", ["auto", pytest.param(True, marks=JIT)])
def test_takes_effect_on_a_model_that_was_trained_before(jit_compile):
    first, second, third = make_tasks()
    model = compile_model(make_model(), jit_compile=jit_compile)
    fit(model, first)  # traces the training function without SI
    si = SICallback()
    start = [w.copy() for w in model.get_weights()]
    fit(model, second, si)
    assert np.abs(flat(si.get_path_integral())).max() == 0  # consolidated
    importance = flat(si.get_importance())
    assert importance.max() > 1e-3
    fit(model, third, si)
    assert np.abs(flat(si.get_importance()) - importance).max() > 1e-3
    assert any((a != b).any() for a, b in zip(start, model.get_weights()))


@pytest.mark.filterwarnings("ignore:.*no step of theirs was heard")
def test_strength_is_settable_between_fits():
    first, second = make_tasks(2)
    model = compile_model(make_model(), keras.optimizers.SGD(1e-12))
    si = SICallback(strength=1.0, consolidate=None)
    fit(model, first, si)
    model.optimizer.state.importances[0].assign(
        np.ones_like(model.get_weights()[0])
    )
    model.set_weights([w + 0.1 for w in model.get_weights()])
    one = fit(model, second, si).history["si_penalty"][0]
    si.strength = 2.5
    assert si.strength == 2.5
    more = fit(model, second, si).history["si_penalty"][0]
    np.testing.assert_allclose([one, more], [0.54, 1.35], rtol=1e-5)


# It attaches to every kind of model and data.


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.out = keras.layers.Dense(SIZES[-1])

    def call(self, x):
        return self.out(self.hidden(x))


def functional():
    inputs = keras.Input((SIZES[0],))
    return keras.Model(inputs, keras.layers.Dense(SIZES[-1])(inputs))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 8)

    def __getitem__(self, index):
        batch = slice(8 * index, 8 * index + 8)
        return self.x[batch], self.y[batch]


def tf_data(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


def torch_loader(x, y):
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return torch.utils.data.DataLoader(data, batch_size=8)


@pytest.mark.parametrize(
    "as_data",
    [
        None,
        Batches,
        pytest.param(tf_data, marks=only_on("tensorflow")),
        pytest.param(torch_loader, marks=only_on("torch")),
    ],
)
@pytest.mark.parametrize(
    "make",
    [make_model, lambda: make_model(built=False), functional, Subclassed],
)
def test_models_and_data(make, as_data):
    model = compile_model(make())
    si = SICallback(strength=1.0)
    for x, y in make_tasks(2):
        if as_data is None:
            history = fit(model, (x, y), si)
        else:
            history = model.fit(
                as_data(x, y),
                epochs=2,
                shuffle=False,
                callbacks=[si],
                verbose=0,
            )
    assert history.history["si_penalty"][-1] > 0
    importance = si.get_importance()
    assert set(importance) == {v.path for v in model.trainable_variables}
    assert all(value.max() > 0 for value in importance.values())


def test_unbuilt_and_built_model_agree():
    histories = []
    for built in (True, False):
        keras.utils.set_random_seed(5)
        model = compile_model(make_model(built=built))
        si = SICallback(strength=1.0, consolidate="epoch_end")
        history = fit(model, make_tasks(1)[0], si, epochs=3).history
        histories.append((history["loss"], history["si_penalty"]))
    np.testing.assert_allclose(*histories, rtol=1e-6)
    assert histories[1][1][1] > 0


def test_model_with_dict_inputs():
    a, b = keras.Input((2,), name="a"), keras.Input((4,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    model = compile_model(
        keras.Model({"a": a, "b": b}, keras.layers.Dense(3)(joined))
    )
    (x, y), *_ = make_tasks(1)
    si = SICallback()
    fit(model, ({"a": x[:, :2], "b": x[:, 2:]}, y), si)
    assert flat(si.get_importance()).max() > 0


def test_train_on_batch():
    model = compile_model(make_model())
    si = SICallback(strength=1.0)
    si.set_model(model)
    for x, y in make_tasks(2):
        for _ in range(3):
            model.train_on_batch(x, y)
        assert np.abs(flat(si.get_path_integral())).max() > 0
        si.consolidate()
    assert flat(si.get_importance()).max() > 0


# Which variables.


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("kernel", None, {f"dense_{i}/kernel" for i in range(3)}),
        (None, ["bias$", "dense_2"], {"dense_0/kernel", "dense_1/kernel"}),
        (
            lambda v: v.ndim == 1,
            "dense_1",
            {"dense_0/bias", "dense_2/bias"},
        ),
    ],
)
def test_include_and_exclude(include, exclude, expected):
    model = compile_model(make_model())
    si = SICallback(include=include, exclude=exclude)
    fit(model, make_tasks(1)[0], si)
    assert {short(path) for path in si.get_importance()} == expected


def test_nothing_to_track_is_refused():
    model = compile_model(make_model())
    with pytest.raises(
        ValueError, match="no variable to track.*dense_0/kernel"
    ):
        fit(model, make_tasks(1)[0], SICallback(include="no such name"))


def test_a_variable_without_gradient_is_left_alone():
    """A second head, not in the loss, is not moved by its own penalty."""
    inputs = keras.Input((SIZES[0],))
    head = keras.layers.Dense(3, name="head")
    other = keras.layers.Dense(3, name="other")
    model = keras.Model(inputs, [head(inputs), other(inputs)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), [loss, None])
    before = other.kernel.numpy().copy()
    si = SICallback()
    (x, y), *_ = make_tasks(1)
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() != "jax":  # there it is zero, not missing
            stack.enter_context(
                pytest.warns(UserWarning, match="Gradients do not exist")
            )
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[si])
    np.testing.assert_array_equal(other.kernel.numpy(), before)
    assert si.get_importance()["other/kernel"].max() == 0
    assert si.get_importance()["head/kernel"].max() > 0


# When a task ends.


def test_a_task_is_consolidated_when_its_fit_has_ended():
    model = compile_model(make_model())
    fit(model, make_tasks(1)[0], SICallback())
    state = model.optimizer.state
    assert int(state.due.numpy()) == int(state.steps.numpy().max()) == 0
    assert np.abs(state.path_integrals[0].numpy()).max() == 0
    assert state.importances[0].numpy().max() > 0


class ZeroWeights(keras.callbacks.Callback):
    """Rewrites the weights when `fit` ends, as EarlyStopping may."""

    def on_train_end(self, logs=None):
        self.model.set_weights([0 * w for w in self.model.get_weights()])


@pytest.mark.parametrize("first", [True, False])
def test_reference_is_what_other_callbacks_leave(first):
    model = compile_model(make_model())
    si = SICallback()
    callbacks = [si, ZeroWeights()] if first else [ZeroWeights(), si]
    fit(model, make_tasks(1)[0], *callbacks)
    assert np.abs(flat(si.get_reference())).max() == 0


def test_epoch_end():
    model = compile_model(make_model())
    si = SICallback(consolidate="epoch_end", strength=1.0)
    penalty = fit(model, make_tasks(1)[0], si, epochs=3).history["si_penalty"]
    assert penalty[0] == 0
    assert penalty[1] > 0
    for name, weights in si.get_reference().items():
        now = {v.path: v.numpy() for v in model.trainable_variables}
        np.testing.assert_array_equal(weights, now[name])


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=JIT)])
def test_every_n_steps_equals_consolidating_by_hand(jit_compile):
    x, y = make_tasks(1, examples=32)[0]
    states = []
    for every in (3, None):
        keras.utils.set_random_seed(2)
        model = compile_model(make_model(), jit_compile=jit_compile)
        si = SICallback(strength=1.0, consolidate=every)
        si.set_model(model)
        for step in range(8):
            batch = slice(4 * step, 4 * step + 4)
            model.train_on_batch(x[batch], y[batch])
            if every is None and step in (2, 5):
                si.consolidate()
        states.append(
            (
                flat(si.get_importance()),
                flat(si.get_path_integral()),
                flat(si.get_reference()),
            )
        )
    for by_steps, by_hand in zip(*states, strict=True):
        np.testing.assert_allclose(by_steps, by_hand, rtol=1e-4, atol=1e-7)
    assert np.abs(states[0][1]).max() > 0


class TwoSteps(keras.callbacks.Callback):
    """Ends a task after every two steps: of three, that is within an epoch."""

    def __init__(self, si):
        super().__init__()
        self.si, self.steps = si, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps % 2 == 0:
            self.si.consolidate()


def test_consolidating_within_an_epoch_equals_every_n_steps():
    states = []
    for every in (2, None):
        keras.utils.set_random_seed(2)
        model = compile_model(make_model())
        si = SICallback(strength=1.0, consolidate=every)
        by_hand = [] if every else [TwoSteps(si)]
        logs = fit(model, make_tasks(1)[0], si, *by_hand, epochs=4).history
        states.append(
            (
                logs["loss"],
                logs["si_penalty"],
                flat(si.get_importance()),
                flat(si.get_reference()),
            )
        )
    for by_steps, by_hand in zip(*states, strict=True):
        np.testing.assert_allclose(by_steps, by_hand, rtol=1e-4, atol=1e-7)
    assert max(states[0][1]) > 0


def test_strength_is_settable_within_an_epoch():
    class Stronger(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            si.strength = 2.0 + batch

    model = compile_model(make_model())
    si = SICallback(strength=1.0)
    fit(model, make_tasks(1)[0], si, Stronger(), epochs=1)
    assert float(model.optimizer.state.strength.numpy()) == si.strength == 4.0


def test_another_strength_is_in_the_next_steps_loss():
    model = compile_model(make_model())
    si = SICallback(strength=1.0, consolidate=None)
    si.set_model(model)
    x, y = make_tasks(1)[0]
    for _ in range(2):
        for _ in range(2):
            model.train_on_batch(x, y)
        si.consolidate()
    model.train_on_batch(x, y)
    si.strength = 50.0
    penalty = penalty_of_now(model, si)
    expected = task_loss_of_now(model, x, y) + penalty
    model.reset_metrics()  # Keras 3.10 does not do it.
    np.testing.assert_allclose(model.train_on_batch(x, y), expected, 1e-5)
    assert penalty > 1e-3


def test_steps_are_counted_from_a_consolidation_by_hand():
    model = compile_model(make_model())
    si = SICallback(consolidate=3)
    si.set_model(model)
    x, y = make_tasks(1)[0]
    ended = []
    for step in range(5):
        model.train_on_batch(x, y)
        if step == 1:
            si.consolidate()
        ended.append(not flat(si.get_path_integral()).any())
    assert ended == [False, True, False, False, True]


def test_none_consolidates_only_by_hand():
    model = compile_model(make_model())
    si = SICallback(consolidate=None)
    fit(model, make_tasks(1)[0], si)
    assert flat(si.get_importance()).max() == 0
    si.consolidate()
    assert flat(si.get_importance()).max() > 0


class Interrupt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def test_an_interrupted_fit_is_not_a_tasks_end():
    model = compile_model(make_model())
    si = SICallback()
    task = make_tasks(1)[0]
    with pytest.raises(KeyboardInterrupt):
        fit(model, task, si, Interrupt())
    assert flat(si.get_importance()).max() == 0
    before = flat(si.get_path_integral())
    assert np.abs(before).max() > 0
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, task, si)
    assert flat(si.get_importance()).max() > 0


# State.


def test_a_new_callback_takes_the_state_up():
    model = compile_model(make_model())
    tasks = make_tasks(2)
    si = SICallback()
    fit(model, tasks[0], si)
    again = SICallback(strength=3.0)
    again.set_model(model)
    np.testing.assert_array_equal(
        flat(again.get_importance()), flat(si.get_importance())
    )
    assert float(model.optimizer.state.strength.numpy()) == 3.0


@pytest.mark.parametrize("same_callback", [True, False])
def test_state_survives_a_new_compile(same_callback):
    model = compile_model(make_model())
    tasks = make_tasks(2)
    si = SICallback(strength=1.0)
    fit(model, tasks[0], si)
    # Not read, which would carry out the consolidation that is due.
    compile_model(model, keras.optimizers.SGD(0.1))
    if not same_callback:
        si = SICallback(strength=1.0)
    penalty = fit(model, tasks[1], si).history["si_penalty"]
    assert penalty[0] > 0
    np.testing.assert_array_less(0, flat(si.get_importance()).max())
    assert isinstance(model.optimizer.inner_optimizer, keras.optimizers.SGD)


@pytest.mark.filterwarnings("ignore:.*no step of theirs was heard")
def test_a_fit_without_the_callback_after_a_new_compile_is_a_plain_one():
    """SI is in the optimizer, which `compile` replaces. Its state waits."""
    first, second, third = make_tasks()
    ends = []
    for callbacks in ([], [SICallback(strength=5.0)]):
        keras.utils.set_random_seed(11)
        model = compile_model(make_model())
        fit(model, first, *callbacks)
        for si in callbacks:
            si.get_importance()  # ends the first task
        compile_model(model, keras.optimizers.SGD(0.1))
        fit(model, second)
        ends.append(model.get_weights())
    for plain, with_si in zip(*ends, strict=True):
        np.testing.assert_allclose(plain, with_si, rtol=1e-4, atol=1e-6)
    compile_model(model, keras.optimizers.SGD(1e-12))
    expected = task_loss_of_now(model, *third)
    if keras.backend.backend() != "jax":  # where steps know it from SI alone
        expected += penalty_of_now(model, si)
    loss = fit(model, third, epochs=1).history["loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert penalty_of_now(model, si) > 1e-3
    assert fit(model, third, si).history["si_penalty"][0] > 0


@pytest.mark.filterwarnings("ignore:.*no step of theirs was heard")
def test_what_is_no_longer_tracked_after_a_new_compile_is_not_in_the_loss():
    first, (x, y) = make_tasks(2)
    model = compile_model(make_model())
    si = SICallback()
    fit(model, first, si)
    assert flat(si.get_importance()).max() > 1e-3
    compile_model(model, keras.optimizers.SGD(1e-12))
    model.set_weights([w + 1.0 for w in model.get_weights()])
    narrow = SICallback(include="dense_0/kernel", consolidate=None)
    logs = fit(model, (x, y), narrow, epochs=1).history
    np.testing.assert_allclose(
        logs["loss"][0] - logs["si_penalty"][0],
        task_loss_of_now(model, x, y),
        rtol=1e-5,
    )
    assert logs["si_penalty"][0] > 1e-3


def test_a_choice_of_variables_can_change_between_fits():
    model = compile_model(make_model())
    tasks = make_tasks(2)
    si = SICallback()
    fit(model, tasks[0], si)
    before = si.get_importance()
    narrow = SICallback(include="dense_0/kernel")
    narrow.set_model(model)
    (path,) = narrow.get_importance()
    np.testing.assert_array_equal(narrow.get_importance()[path], before[path])
    tracked = [
        v.path
        for v in model.trainable_variables
        if isinstance(v.regularizer, SIRegularizer)
    ]
    assert tracked == [path]


def test_two_models_do_not_touch_each_other():
    models = [compile_model(make_model()) for _ in range(2)]
    callbacks = [SICallback() for _ in models]
    tasks = make_tasks(2)
    for model, si, task in zip(models, callbacks, tasks, strict=True):
        fit(model, task, si)
    first = flat(callbacks[0].get_importance())
    fit(models[1], tasks[0], callbacks[1])
    np.testing.assert_array_equal(first, flat(callbacks[0].get_importance()))
    assert not np.array_equal(first, flat(callbacks[1].get_importance()))


def test_detach_gives_everything_back():
    model = compile_model(make_model(regularizer="l2"))
    regularizers = [v.regularizer for v in model.trainable_variables]
    optimizer = model.optimizer
    si = SICallback()
    fit(model, make_tasks(1)[0], si)
    si.detach()
    assert model.optimizer is optimizer
    assert [v.regularizer for v in model.trainable_variables] == regularizers
    assert "train_step" not in vars(model)
    config = model.get_compile_config()["optimizer"]
    assert config["class_name"] == "Adam"
    assert "si_penalty" not in fit(model, make_tasks(1)[0]).history
    with pytest.raises(ValueError, match="not attached"):
        si.get_importance()


@only_on("tensorflow", "jax", reason="torch traces nothing")
@pytest.mark.parametrize("jit_compile", ["auto", True])
def test_the_number_of_traces_does_not_grow_with_the_tasks(jit_compile):
    traces = 0

    class Counting(keras.layers.Layer):
        def call(self, x):
            nonlocal traces
            traces += 1
            return x

    model = compile_model(
        keras.Sequential(
            [keras.Input((SIZES[0],)), Counting(), keras.layers.Dense(3)]
        ),
        jit_compile=jit_compile,
    )
    si = SICallback()
    tasks = make_tasks(6)
    counts = []
    for task in tasks:
        si.strength += 0.1
        fit(model, task, si)
        updates = model.optimizer._compiled_updates.values()
        counts.append(
            (traces, [u.experimental_get_tracing_count() for u in updates])
        )
    assert counts[1:] == [counts[1]] * 5
    if keras.backend.backend() == "tensorflow":
        assert counts[-1][1] == [1]  # the update that is compiled by itself


# Losses and logs.


def penalty_of_now(model, si):
    """The penalty of `model`, from what `si` gives to read."""
    importance, reference = si.get_importance(), si.get_reference()
    return si.strength * sum(
        np.sum(
            np.float64(importance[v.path])
            * (np.float64(v.numpy()) - reference[v.path]) ** 2
        )
        for v in model.trainable_variables
    )


# JAX takes SI's variables for constants of what `evaluate` traces.
TASK_ALONE = keras.backend.backend() == "jax"


def task_loss_of_now(model, x, y):
    return float(ops.convert_to_numpy(model.loss(y, model(x))))


def test_model_losses_hold_the_penalty():
    model = compile_model(make_model())
    si = SICallback(strength=2.0)
    fit(model, make_tasks(1)[0], si)
    si.consolidate()
    model.set_weights([w + 0.5 for w in model.get_weights()])
    np.testing.assert_allclose(
        float(sum(model.losses)), penalty_of_now(model, si), rtol=1e-5
    )


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_evaluate_holds_the_penalty_of_now(run_eagerly):
    """Also where the test function was traced before."""
    model = compile_model(make_model(), run_eagerly=run_eagerly)
    *tasks, (x, y) = make_tasks()
    si = SICallback(strength=2.0)
    test = {"batch_size": 8, "verbose": 0}
    model.evaluate(x, y, **test)
    for task in tasks:
        fit(model, task, si)
        si.consolidate()
        model.set_weights([w + 0.1 for w in model.get_weights()])
        expected = task_loss_of_now(model, x, y)
        penalty = penalty_of_now(model, si)
        assert penalty > 1e-3
        if not TASK_ALONE or run_eagerly:
            expected += penalty
        for loss in (
            model.evaluate(x, y, **test),
            model.test_on_batch(x, y),
        ):
            np.testing.assert_allclose(loss, expected, rtol=1e-5)
    si.detach()
    expected = task_loss_of_now(model, x, y)
    np.testing.assert_allclose(model.evaluate(x, y, **test), expected, 1e-5)


def test_the_validation_loss_holds_the_penalty():
    model = compile_model(make_model())
    *tasks, (x, y) = make_tasks()
    si = SICallback(strength=20.0, consolidate=None)
    for task in tasks:
        logs = fit(model, task, si, validation_data=(x, y)).history
        penalty = penalty_of_now(model, si)
        expected = task_loss_of_now(model, x, y)
        if not TASK_ALONE:
            expected += penalty
        np.testing.assert_allclose(logs["val_loss"][-1], expected, rtol=1e-5)
        si.consolidate()
    assert penalty > 1e-3


@pytest.mark.filterwarnings("ignore:.*no step of theirs was heard")
def test_the_first_steps_loss_knows_weights_that_were_set_by_hand():
    model = compile_model(make_model(), keras.optimizers.SGD(0.0))
    si = SICallback(strength=2.0)
    task = make_tasks(1)[0]
    fit(model, task, si, epochs=1)
    si.consolidate()
    model.optimizer.state.importances[0].assign(
        np.ones_like(model.get_weights()[0])
    )
    weights = model.get_weights()
    weights[0] = weights[0] + 0.5
    model.set_weights(weights)
    history = fit(model, task, SICallback(2.0, consolidate=None), epochs=1)
    expected = 2.0 * weights[0].size * 0.25
    np.testing.assert_allclose(history.history["si_penalty"], expected, 1e-5)


@pytest.mark.filterwarnings("ignore:.*no step of theirs was heard")
def test_loss_minus_penalty_is_the_tasks_loss():
    model = compile_model(make_model(), keras.optimizers.SGD(1e-12))
    si = SICallback(strength=1.0)
    first, second = make_tasks(2)
    fit(model, first, si)
    model.optimizer.state.importances[0].assign(
        np.ones_like(model.get_weights()[0])
    )
    model.set_weights([w + 0.1 for w in model.get_weights()])
    logs = fit(model, second, si, epochs=1).history
    x, y = second
    task_loss = task_loss_of_now(model, x, y)
    np.testing.assert_allclose(
        logs["loss"][0] - logs["si_penalty"][0], task_loss, rtol=1e-5
    )


# What is not finite.


class PoisonGradient(keras.layers.Layer):
    """Identity whose gradient is `value` where it is switched on."""

    def __init__(self, value):
        super().__init__()
        self.value = value
        self.on = self.add_weight(initializer="zeros", trainable=False)

    def call(self, x):
        poison = ops.where(self.on > 0, self.value, 0.0)

        @ops.custom_gradient
        def identity(x):
            def gradient(*args, upstream=None):  # torch names it
                if upstream is None:
                    (upstream,) = args
                return upstream + poison

            return ops.copy(x), gradient

        return identity(x)


def poisoned(value, optimizer):
    layer = PoisonGradient(value)
    model = compile_model(
        keras.Sequential(
            [keras.Input((SIZES[0],)), keras.layers.Dense(3), layer]
        ),
        optimizer,
    )
    return model, layer


def test_nan_gradients_are_said_and_never_consolidated():
    model, layer = poisoned(np.nan, keras.optimizers.SGD(0.1))
    good, bad = make_tasks(2)
    si = SICallback()
    fit(model, good, si)
    importance, reference = si.get_importance(), si.get_reference()
    weights = model.get_weights()
    layer.on.assign(1.0)
    with pytest.warns(UserWarning, match="NaN or infinite values in the weig"):
        fit(model, bad, si, epochs=1)
    with (
        pytest.raises(ValueError, match="Cannot consolidate.*kernel"),
        pytest.warns(UserWarning, match="nothing will be consolidated"),
    ):
        si.consolidate()
    model.set_weights(weights)
    for before, after in (
        (importance, si.get_importance()),
        (reference, si.get_reference()),
    ):
        for path in before:
            np.testing.assert_array_equal(before[path], after[path])
    si.consolidate()
    assert np.isfinite(model.train_on_batch(*good))


def test_infinite_gradients_that_an_optimizer_survives_are_said():
    model, layer = poisoned(np.inf, keras.optimizers.SGD(0.1, clipvalue=0.5))
    layer.on.assign(1.0)
    si = SICallback(consolidate=None)
    x, y = make_tasks(1)[0]
    with pytest.warns(UserWarning, match="reached the path integral.*3 in"):
        fit(model, (np.abs(x), y), si, epochs=1)
    assert np.isfinite(flat(si.get_path_integral())).all()


def test_nothing_that_is_not_finite_is_consolidated_within_an_epoch():
    model, layer = poisoned(np.inf, keras.optimizers.SGD(0.1, clipvalue=0.5))
    layer.on.assign(1.0)
    si = SICallback(consolidate=2)
    x, y = make_tasks(1)[0]
    with pytest.warns(UserWarning, match="reached the path integral.*3 in"):
        fit(model, (np.abs(x), y), si, epochs=1)
    assert np.isfinite(flat(si.get_path_integral())).all()
    assert np.isfinite(flat(si.get_importance())).all()
    assert np.isfinite(flat(si.get_reference())).all()


def test_weights_that_are_not_finite_are_not_consolidated_within_an_epoch():
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    si = SICallback(consolidate=2)
    x, y = make_tasks(1)[0]
    x[-1] = np.nan
    with pytest.warns(UserWarning, match="in the weights"):
        fit(model, (x, y), si, epochs=2)
    assert not np.isfinite(
        np.concatenate([w.ravel() for w in model.get_weights()])
    ).all()
    assert np.isfinite(flat(si.get_importance())).all()
    assert np.isfinite(flat(si.get_reference())).all()


def test_another_number_of_steps_takes_effect():
    """On a model whose update was compiled with the first one."""
    model = compile_model(make_model())
    first, second = make_tasks(2)
    fit(model, first, SICallback(consolidate=100))
    si = SICallback(consolidate=2)
    fit(model, second, si)
    assert flat(si.get_importance()).max() > 0


@only_on("tensorflow", reason="GradientTape is its own")
def test_the_penalty_in_a_loop_of_the_users_own_counts_once():
    import tensorflow as tf

    x, y = make_tasks(1)[0]
    ends = []
    for own_loop in (False, True):
        keras.utils.set_random_seed(11)
        model = compile_model(make_model(), keras.optimizers.SGD(0.1))
        si = SICallback(strength=5.0, consolidate=None)
        fit(model, (x, y), si)
        si.consolidate()
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
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# What it refuses.


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"include": [b"x"]}, "`include`.*b'x'"),
        ({"strength": -0.1}, r"`strength`.*at least 0.*-0\.1"),
        ({"strength": float("nan")}, "`strength`.*finite.*nan"),
        ({"strength": float("inf")}, "`strength`.*finite.*inf"),
        ({"strength": "much"}, "`strength`.*'much'"),
        ({"strength": True}, "`strength`.*True"),
        ({"damping": 0}, "`damping`.*above 0.*0"),
        ({"damping": -1.0}, r"`damping`.*-1\.0"),
        ({"damping": float("nan")}, "`damping`.*nan"),
        ({"damping": None}, "`damping`.*None"),
        ({"consolidate": "batch_end"}, "`consolidate`.*'batch_end'"),
        ({"consolidate": 0}, "`consolidate`.*0"),
        ({"consolidate": 1}, "`consolidate`.*at least 2.*1.*gradient"),
        ({"consolidate": True}, "`consolidate`.*True"),
        ({"strength": 10**400}, "`strength`.*finite"),
        ({"consolidate": np.array([1, 2])}, "`consolidate`.*array"),
        ({"consolidate": 2.5}, r"`consolidate`.*2\.5"),
        ({"include": "("}, r"`include`.*regular expression.*'\('"),
        ({"exclude": 3}, "`exclude`.*3"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SICallback(**kwargs)


def test_bad_strength_later():
    si = SICallback()
    with pytest.raises(ValueError, match="`strength`"):
        si.strength = -1.0
    assert si.strength == 0.1


@pytest.mark.parametrize(
    "call", ["get_importance", "get_reference", "consolidate", "detach"]
)
def test_before_the_first_fit(call):
    with pytest.raises(ValueError, match="not attached.*model.fit"):
        getattr(SICallback(), call)()


@HAS_MULTI_OPTIMIZER
def test_a_multi_optimizer_that_accumulates_is_refused():
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
        )
    )
    model = compile_model(make_model(), optimizer)
    with pytest.raises(ValueError, match="MultiOptimizer.*accumulates"):
        fit(model, make_tasks(1)[0], SICallback())


def test_any_integer_counts_steps():
    model = compile_model(make_model())
    si = SICallback(consolidate=np.int64(2))
    fit(model, make_tasks(1)[0], si)
    assert model.optimizer.consolidate_every == 2


def test_two_callbacks_in_one_fit_are_refused():
    model = compile_model(make_model())
    task = make_tasks(1)[0]
    with pytest.raises(ValueError, match="Two SICallbacks"):
        fit(model, task, SICallback(), SICallback())
    fit(model, task, SICallback())


def test_an_uncompiled_model_is_refused():
    with pytest.raises(ValueError, match="was compiled with an optimizer"):
        SICallback().set_model(make_model())


def test_a_model_without_trainable_weights_is_refused():
    model = compile_model(make_model())
    model.trainable = False
    compile_model(model)
    with pytest.raises(ValueError, match="has no trainable variables"):
        SICallback().set_model(model)


@only_on("tensorflow", "torch", reason="JAX's steps take other arguments")
def test_a_train_step_with_another_optimizer_is_said():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            return {"loss": keras.ops.sum(data[0][:1])}

    (x, y), *_ = make_tasks(1)
    model = Own()
    compile_model(model, run_eagerly=True)
    model(x[:1])
    with pytest.warns(UserWarning, match="no optimizer step was heard"):
        fit(model, (x, y), SICallback(consolidate=None), epochs=1)


# What the review of state and boundaries found.


def test_a_checkpoint_of_the_last_epoch_does_not_undo_a_tasks_end(tmp_path):
    model = compile_model(make_model())
    first, second = make_tasks(2)
    si = SICallback(strength=1.0)
    path = tmp_path / "best.weights.h5"
    save = keras.callbacks.ModelCheckpoint(
        path, monitor="loss", save_weights_only=True, save_best_only=True
    )
    fit(model, first, si, save)
    model.load_weights(path)
    penalty = fit(model, second, si, save).history["si_penalty"]
    assert penalty[0] > 0
    assert flat(si.get_importance()).max() > 1e-3


def test_a_due_consolidation_happens_before_train_on_batch():
    model = compile_model(make_model())
    first, second = make_tasks(2)
    si = SICallback()
    fit(model, first, si)
    weights = model.get_weights()
    si.set_model(model)
    model.train_on_batch(*second)
    importance = [
        ops.convert_to_numpy(v) for v in model.optimizer.state.importances
    ]
    assert max(i.max() for i in importance) > 1e-3
    for reference, before in zip(si.get_reference().values(), weights):
        np.testing.assert_array_equal(reference, before)


def test_detach_after_a_new_compile_keeps_the_new_optimizer():
    model = compile_model(make_model())
    si = SICallback()
    fit(model, make_tasks(1)[0], si)
    compile_model(model, keras.optimizers.SGD(0.1))
    si.detach()
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert all(v.regularizer is None for v in model.trainable_variables)


@only_on("tensorflow", reason="the others build before callbacks begin")
def test_a_refusal_leaves_an_unbuilt_model_trainable():
    model = compile_model(make_model(built=False))
    task = make_tasks(1)[0]
    with pytest.raises(ValueError, match="no variable to track"):
        fit(model, task, SICallback(include="nope"))
    assert "si_penalty" not in fit(model, task).history


def test_no_epochs_on_an_unbuilt_model():
    model = compile_model(make_model(built=False))
    fit(model, make_tasks(1)[0], SICallback(), epochs=0)


def test_every_n_steps_counts_steps_and_not_micro_batches():
    model = compile_model(
        make_model(),
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    )
    si = SICallback(consolidate=2)
    si.set_model(model)
    x, y = make_tasks(1)[0]
    for micro_batch in range(1, 5):
        model.train_on_batch(x, y)
        consolidated = flat(si.get_importance()).max() > 0
        assert consolidated == (micro_batch == 4)
    assert int(model.optimizer.state.steps.numpy().max()) == 0


@HAS_MULTI_OPTIMIZER
def test_a_callable_multi_optimizer_that_accumulates_is_refused():
    def make(variable):
        return keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)

    model = compile_model(make_model(), keras.optimizers.MultiOptimizer(make))
    with pytest.raises(ValueError, match="MultiOptimizer.*accumulates"):
        fit(model, make_tasks(1)[0], SICallback())


def test_a_shared_trunk_stays_with_the_model_that_tracks_it():
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
