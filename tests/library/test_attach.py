"""What SI is attached to: models, data, variables, layers; and what not."""

import contextlib
import functools
import threading

import keras
import numpy as np
import pytest
from helpers import (
    CROSS_ENTROPY,
    HAS_MULTI_OPTIMIZER,
    SIZES,
    assert_equal,
    begin,
    fit,
    flat,
    freeze,
    learned,
    make_model,
    make_tasks,
    only_on,
    reloaded,
    sgd,
    towers,
    unfreeze,
)
from helpers import compile_eagerly as compile_model
from helpers import compile_model as compile_traced

from keras_si import SICallback


def short(path):
    return "/".join(path.split("/")[-2:])


# Every kind of model and data.


class OfTwoParts(keras.Model):
    """Takes a dict of them."""

    def __init__(self):
        super().__init__()
        self.out = keras.layers.Dense(SIZES[-1])

    def call(self, x):
        return self.out(keras.ops.concatenate([x["a"], x["b"]], axis=1))


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


def dicts(x, y):
    return {"a": x[:, :2], "b": x[:, 2:]}, y


def unbuilt():
    return make_model(built=False)


@pytest.mark.parametrize(
    ("make", "as_data"),
    [
        (unbuilt, Batches),
        (OfTwoParts, dicts),
        pytest.param(unbuilt, tf_data, marks=only_on("tensorflow")),
        pytest.param(unbuilt, torch_loader, marks=only_on("torch")),
    ],
)
def test_fit_builds_a_model_and_tracks_all_its_variables(make, as_data):
    model = compile_traced(make())
    si = SICallback(strength=1.0)
    for task in make_tasks(2):
        data = as_data(*task)
        data = data if isinstance(data, tuple) else (data,)
        logs = fit(model, data, si, batch_size=None).history
    assert logs["si_penalty"][-1] > 0
    importance = si.get_importance()
    assert set(importance) == {v.path for v in model.trainable_variables}
    assert all(value.max() > 0 for value in importance.values())


def test_unbuilt_model_trains_as_a_built_one():
    histories = []
    for built in (True, False):
        keras.utils.set_random_seed(5)
        model = compile_traced(make_model(built=built))
        si = SICallback(strength=1.0, consolidate="epoch_end")
        logs = fit(model, make_tasks(1)[0], si, epochs=3).history
        histories.append((logs["loss"], logs["si_penalty"]))
    np.testing.assert_allclose(*histories, rtol=1e-6)
    assert logs["si_penalty"][1] > 0


@only_on("tensorflow", reason="the others build before callbacks begin")
def test_unbuilt_model_is_trainable_after_a_refusal_and_after_no_epoch():
    model = compile_model(make_model(built=False))
    task = make_tasks(1)[0]
    fit(model, task, SICallback(), epochs=0)
    with pytest.raises(ValueError, match="no variable to track"):
        fit(model, task, SICallback(include="nope"))
    assert "si_penalty" not in fit(model, task).history


@only_on("tensorflow", reason="the other backends have no unknown rank")
def test_data_of_unknown_rank_is_trained_on():
    import tensorflow as tf

    class Net(keras.Sequential):
        def call(self, x):
            return super().call(tf.ensure_shape(x, [None, SIZES[0]]))

    x, y = make_tasks(1)[0]
    model = compile_traced(Net([keras.layers.Dense(SIZES[-1])]))
    model(x[:2])
    data = tf_data(x, y).map(
        lambda x, y: (tf.numpy_function(lambda a: a, [x], tf.float32), y)
    )
    si = SICallback()
    fit(model, [data], si, batch_size=None)
    assert flat(si.get_importance()).max() > 0


@only_on("tensorflow", "torch", reason="JAX has no float64 by default")
def test_weights_of_float64_under_floatx_float32_have_state_of_float64():
    wide = [
        keras.layers.Dense(3, dtype="float64", kernel_regularizer=regularizer)
        for regularizer in (None, "l2")
    ]
    layers = [keras.Input((SIZES[0],)), keras.layers.Dense(4), *wide]
    model = compile_traced(keras.Sequential(layers), sgd())
    si = SICallback(strength=5.0)
    for task in make_tasks(2):
        logs = fit(model, task, si).history
        model.evaluate(*task, verbose=0)
    assert logs["si_penalty"][-1] > 0
    dtypes = [array.dtype.name for array in si.get_importance().values()]
    assert dtypes == ["float32"] * 2 + ["float64"] * 4
    # c and xi keep their digits, too.
    assert model.optimizer.state.strength.dtype == "float64"


@only_on("tensorflow", "jax", reason="torch traces nothing")
@pytest.mark.parametrize(
    "jit_compile",
    ["auto", pytest.param(True, marks=only_on("tensorflow"))],
)
def test_number_of_traces_does_not_grow_with_the_tasks(jit_compile):
    traces = 0

    class Counting(keras.layers.Layer):
        def call(self, x):
            nonlocal traces
            traces += 1
            return x

    layers = [keras.Input((SIZES[0],)), Counting(), keras.layers.Dense(3)]
    model = compile_traced(keras.Sequential(layers), jit_compile=jit_compile)
    si = SICallback()
    counts = []
    for task in make_tasks(3):
        si.strength += 0.1
        fit(model, task, si)
        updates = model.optimizer._compiled_updates.values()
        counts.append(
            (traces, [u.experimental_get_tracing_count() for u in updates])
        )
    assert counts[1] == counts[2]
    if keras.backend.backend() == "tensorflow":
        assert counts[-1][1] == [1]  # the update that is compiled by itself


# Several models.


def new_model(compile_model=compile_model):
    keras.utils.set_random_seed(11)
    return compile_model(make_model())


def knowledge(model):
    return [np.array(v) for v in [*model.variables, *model.optimizer.variables]]


def alone(tasks, compile_model=compile_model):
    model, si = new_model(compile_model), SICallback()
    for task in tasks:
        fit(model, task, si)
    return knowledge(model)


def test_fit_within_the_fit_of_another_model_disturbs_neither():
    (first, second), others = make_tasks(2), make_tasks(1, seed=9)
    model, si = new_model(), SICallback()
    other, other_si = new_model(), SICallback()

    def fit_another(batch, logs):
        if batch == 1:
            fit(other, others[0], other_si)

    within = keras.callbacks.LambdaCallback(on_train_batch_end=fit_another)
    fit(model, first, si)
    fit(model, second, si, within)
    assert_equal(knowledge(model), alone([first, second]))
    assert_equal(knowledge(other), alone(others * 2))  # once in each epoch


@only_on("tensorflow", reason="Keras elsewhere keeps global state in a fit")
def test_fits_in_threads_disturb_none():
    tasks = [make_tasks(2, seed=seed) for seed in (1, 2)]
    models = [new_model(compile_traced) for _ in tasks]

    def train(model, tasks):
        si = SICallback()
        for task in tasks:
            fit(model, task, si)

    threads = [
        threading.Thread(target=train, args=pair) for pair in zip(models, tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model, own in zip(models, tasks):
        assert_equal(knowledge(model), alone(own, compile_traced))


# Which variables.


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("kernel", None, {f"dense_{i}/kernel" for i in range(3)}),
        (None, ["bias$", "dense_2"], {"dense_0/kernel", "dense_1/kernel"}),
        (lambda v: v.ndim == 1, "dense_1", {"dense_0/bias", "dense_2/bias"}),
    ],
)
def test_include_and_exclude_choose_the_variables(include, exclude, expected):
    model, si, *_ = begin(include=include, exclude=exclude)
    si.set_model(model)
    assert {short(path) for path in si.get_importance()} == expected


def test_scales_of_float8_are_not_tracked():
    """Their "gradient" overwrites them: they take no steps."""
    model = make_model()
    for layer in model.layers:
        layer.quantize("float8")
    si = SICallback()
    si.set_model(compile_model(model))
    assert len(model.trainable_variables) > 6
    assert {short(path) for path in si.get_importance()} == {
        f"dense_{i}/{name}" for i in range(3) for name in ("kernel", "bias")
    }


def test_variable_without_gradient_is_left_alone():
    """A second head, not in the loss, is not moved by its own penalty."""
    inputs = keras.Input((SIZES[0],))
    head = keras.layers.Dense(3, name="head")
    other = keras.layers.Dense(3, name="other")
    model = keras.Model(inputs, [head(inputs), other(inputs)])
    model.compile(sgd(), [CROSS_ENTROPY, None])
    before = other.kernel.numpy().copy()
    si = SICallback()
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() != "jax":  # there it is zero, not missing
            stack.enter_context(
                pytest.warns(UserWarning, match="Gradients do not exist")
            )
        fit(model, make_tasks(1)[0], si)
    np.testing.assert_array_equal(other.kernel.numpy(), before)
    assert si.get_importance()["other/kernel"].max() == 0
    assert si.get_importance()["head/kernel"].max() > 0


NAMES = [
    *("dense/kernel", "dense/bias", "dense/kernel#2", "dense/bias#2"),
    *("head/kernel", "head/bias"),
]


def test_two_variables_with_one_path_have_two_entries():
    model, si = towers(), SICallback()
    fit(model, make_tasks(1)[0], si)
    for read in (si.get_importance, si.get_path_integral, si.get_reference):
        assert list(read()) == NAMES
    kernels = [v for v in model.trainable_variables if v.path == NAMES[0]]
    for name, kernel in zip(("dense/kernel", "dense/kernel#2"), kernels):
        np.testing.assert_array_equal(si.get_reference()[name], kernel.numpy())


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("^dense/kernel#2$", [*NAMES[:2], "dense/bias#2", *NAMES[4:]]),
        ("kernel$", ["dense/bias", "dense/bias#2", "head/bias"]),
    ],
)
def test_pattern_means_both_of_one_path_or_one_by_its_suffix(exclude, left):
    si = SICallback(exclude=exclude)
    si.set_model(towers())
    assert list(si.get_importance()) == left


@pytest.mark.parametrize(
    ("loaded", "head"),
    [
        (False, {"units": 3}),
        (True, {"units": 3}),
        (True, {"units": 5, "name": "dense_2"}),  # as the frozen one's
    ],
    ids=["same", "loaded", "of one name"],
)
def test_layer_of_another_model_does_not_get_what_a_frozen_one_knows(
    loaded, head, tmp_path
):
    model, si, *_ = learned()
    si.set_model(freeze(model, -1))
    if loaded:
        model = reloaded(model, tmp_path)
    layers = [*model.layers[:-1], keras.layers.Dense(**head)]
    other = compile_model(keras.Sequential([keras.Input((SIZES[0],)), *layers]))
    si.set_model(other)
    *_, kernel, bias = si.get_importance().values()
    assert kernel.max() == bias.max() == 0
    *_, kernel, bias = si.get_reference().values()
    np.testing.assert_array_equal(kernel, other.get_weights()[-2])


def test_importance_in_a_file_of_a_frozen_layer_that_has_moved_is_missed_aloud(
    tmp_path,
):
    model, si, *_ = learned()
    si.set_model(freeze(model))
    model = reloaded(model, tmp_path)
    model.layers[0].trainable = True
    in_front = keras.layers.Dense(SIZES[0], name="in_front")
    layers = [keras.Input((SIZES[0],)), in_front, *model.layers]
    longer = compile_model(keras.Sequential(layers))
    with pytest.warns(UserWarning, match="dense_0/kernel', .* is not used"):
        SICallback().set_model(longer)


def test_file_replaces_what_is_known_of_a_layer_that_is_frozen_here(tmp_path):
    path = tmp_path / "model.weights.h5"
    known = []
    for task in range(2):
        model, si, *tasks = begin()
        fit(model, tasks[task], si)
        si.set_model(freeze(model))
        model.load_weights(path) if task else model.save_weights(path)
        si.set_model(unfreeze(model))
        known.append(flat(si.get_importance()))
    np.testing.assert_array_equal(*known)


# Out again.


def test_detach_gives_everything_back():
    model = compile_model(make_model(regularizer="l2"))
    model.train_step = own_step = functools.partial(model.train_step)
    regularizers = [v.regularizer for v in model.trainable_variables]
    optimizer = model.optimizer
    si = SICallback()
    fit(model, make_tasks(1)[0], si)
    assert model.train_step is not own_step
    si.detach()
    assert model.optimizer is optimizer
    assert [v.regularizer for v in model.trainable_variables] == regularizers
    assert model.train_step is own_step
    config = model.get_compile_config()["optimizer"]
    assert config["class_name"] == "Adam"
    assert "si_penalty" not in fit(model, make_tasks(1)[0]).history
    with pytest.raises(ValueError, match="not attached"):
        si.get_importance()


def test_callback_whose_model_another_one_detached_says_so():
    model, si, *_ = begin()
    si.set_model(model)
    other = SICallback()
    other.set_model(model)
    si.get_importance()  # Both have the model's state.
    other.detach()
    with pytest.raises(ValueError, match="no longer attached: another one"):
        si.get_importance()
    with pytest.raises(ValueError, match="no longer attached"):
        si.strength = 3.0


def test_detach_after_a_new_compile_keeps_the_new_optimizer():
    model, si, *_ = begin()
    si.set_model(model)
    compile_model(model, optimizer := sgd())
    si.detach()
    assert model.optimizer is optimizer
    assert all(v.regularizer is None for v in model.trainable_variables)


def test_detach_takes_si_from_frozen_layers_too():
    model, si, *_ = learned()
    si.set_model(freeze(model))
    si.detach()
    assert [v.regularizer for v in model.weights] == [None] * 6
    assert "train_step" not in vars(model)
    si.set_model(unfreeze(model))
    assert flat(si.get_importance()).max() == 0


# Refusals.


def frozen():
    model = make_model()
    model.trainable = False
    return compile_model(model)


def built():
    return compile_model(make_model())


class OfAnotherKeras:
    optimizer = "adam"


@pytest.mark.parametrize(
    ("make", "include", "message"),
    [
        (make_model, None, "was compiled with an optimizer"),
        (frozen, None, "has no trainable variables"),
        (OfAnotherKeras, None, "of Keras 3.*test_attach.OfAnotherKeras"),
        (built, "no such name", "no variable to track.*dense_0/kernel"),
    ],
    ids=["not compiled", "frozen", "not of Keras 3", "nothing included"],
)
def test_model_that_si_cannot_train_is_refused(make, include, message):
    with pytest.raises(ValueError, match=message):
        SICallback(include=include).set_model(make())


def accumulating(*_):
    return sgd(gradient_accumulation_steps=2)


@HAS_MULTI_OPTIMIZER
@pytest.mark.parametrize("by_variable", [False, True])
def test_multi_optimizer_that_accumulates_is_refused(by_variable):
    by_path = keras.optimizers.OptimizerMap(accumulating())
    optimizer = keras.optimizers.MultiOptimizer(
        accumulating if by_variable else by_path
    )
    model = compile_model(make_model(), optimizer)
    with pytest.raises(ValueError, match="MultiOptimizer.*accumulates"):
        SICallback().set_model(model)


def test_two_callbacks_in_one_fit_are_refused_and_one_then_trains():
    model, si, task, _ = begin()
    with pytest.raises(ValueError, match="Two SICallbacks"):
        fit(model, task, si, SICallback())
    fit(model, task, si)
