"""What SI is attached to: models, data, variables, layers; and what not."""

import contextlib
import threading

import keras
import numpy as np
import pytest
from helpers import (
    HAS_MULTI_OPTIMIZER,
    SIZES,
    assert_equal,
    fit,
    flat,
    make_model,
    make_tasks,
    only_on,
)
from helpers import compile_eagerly as compile_model
from helpers import compile_model as compile_traced

from keras_si import SICallback


def short(path):
    return "/".join(path.split("/")[-2:])


# Every kind of model and data.


class Subclassed(keras.Model):
    """Takes an array, or a dict of its two parts."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.out = keras.layers.Dense(SIZES[-1])

    def call(self, x):
        if isinstance(x, dict):
            x = keras.ops.concatenate([x["a"], x["b"]], axis=1)
        return self.out(self.hidden(x))


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


def arrays(x, y):
    return x, y


def dicts(x, y):
    return {"a": x[:, :2], "b": x[:, 2:]}, y


def unbuilt():
    return make_model(built=False)


@pytest.mark.parametrize(
    ("make", "as_data"),
    [
        (unbuilt, arrays),
        (unbuilt, Batches),
        (Subclassed, dicts),
        pytest.param(unbuilt, tf_data, marks=only_on("tensorflow")),
        pytest.param(unbuilt, torch_loader, marks=only_on("torch")),
    ],
)
def test_fit_builds_a_model_and_tracks_all_its_variables(make, as_data):
    model = compile_traced(make())
    si = SICallback(strength=1.0)
    for task in make_tasks(2):
        data = as_data(*task)
        x, *y = data if isinstance(data, tuple) else (data,)
        logs = model.fit(
            x, *y, epochs=2, shuffle=False, callbacks=[si], verbose=0
        ).history
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
        history = fit(model, make_tasks(1)[0], si, epochs=3).history
        histories.append((history["loss"], history["si_penalty"]))
    np.testing.assert_allclose(*histories, rtol=1e-6)
    assert histories[1][1][1] > 0


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

    class Net(Subclassed):
        def call(self, x):
            return super().call(tf.ensure_shape(x, [None, SIZES[0]]))

    x, y = make_tasks(1)[0]
    model = Net()
    model(x[:2])
    compile_traced(model)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    data = data.map(
        lambda x, y: (tf.numpy_function(lambda a: a, [x], tf.float32), y)
    )
    si = SICallback()
    model.fit(data, shuffle=False, verbose=0, callbacks=[si])
    assert flat(si.get_importance()).max() > 0


@pytest.mark.parametrize("regularizer", [None, "l2"])
@only_on("tensorflow", "torch", reason="JAX has no float64 by default")
def test_weights_of_float64_under_floatx_float32_have_state_of_float64(
    regularizer,
):
    model = keras.Sequential(
        [
            keras.Input((SIZES[0],)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.Dense(
                3, dtype="float64", kernel_regularizer=regularizer
            ),
        ]
    )
    compile_traced(model, keras.optimizers.SGD(0.1))
    si = SICallback(strength=5.0)
    for task in make_tasks(2):
        logs = fit(model, task, si).history
        model.evaluate(*task, verbose=0)
    assert logs["si_penalty"][-1] > 0
    dtypes = [array.dtype.name for array in si.get_importance().values()]
    assert dtypes == ["float32"] * 2 + ["float64"] * 2


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

    model = compile_traced(
        keras.Sequential(
            [keras.Input((SIZES[0],)), Counting(), keras.layers.Dense(3)]
        ),
        jit_compile=jit_compile,
    )
    si = SICallback()
    counts = []
    for task in make_tasks(4):
        si.strength += 0.1
        fit(model, task, si)
        updates = model.optimizer._compiled_updates.values()
        counts.append(
            (traces, [u.experimental_get_tracing_count() for u in updates])
        )
    assert counts[1:] == [counts[1]] * 3
    if keras.backend.backend() == "tensorflow":
        assert counts[-1][1] == [1]  # the update that is compiled by itself


# Several models.


class FitAnother(keras.callbacks.Callback):
    """In the middle of an epoch, fits another model."""

    def __init__(self, model, task, si):
        super().__init__()
        self._other = model, task, si

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            fit(*self._other)


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
    tasks, others = make_tasks(2), make_tasks(4, seed=9)
    model, si = new_model(), SICallback()
    other, other_si = new_model(), SICallback()
    for index, task in enumerate(tasks):
        # Twice each, as there are two epochs.
        fit(model, task, si, FitAnother(other, others[index], other_si))
    assert_equal(knowledge(model), alone(tasks))
    assert_equal(knowledge(other), alone([others[i] for i in (0, 0, 1, 1)]))


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
    si = SICallback(include=include, exclude=exclude)
    si.set_model(compile_model(make_model()))
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


def towers():
    """Returns a model in which two layers have one path."""

    def tower(name):
        inputs = keras.Input((SIZES[0],))
        outputs = keras.layers.Dense(4, activation="relu", name="dense")(inputs)
        return keras.Model(inputs, outputs, name=name)

    inputs = keras.Input((SIZES[0],))
    both = keras.layers.Concatenate()(
        [tower("left")(inputs), tower("right")(inputs)]
    )
    return compile_model(
        keras.Model(inputs, keras.layers.Dense(3, name="head")(both))
    )


NAMES = [
    *("dense/kernel", "dense/bias", "dense/kernel#2", "dense/bias#2"),
    *("head/kernel", "head/bias"),
]


def test_two_variables_with_one_path_have_two_entries():
    model = towers()
    si = SICallback()
    fit(model, make_tasks(1)[0], si)
    for read in (si.get_importance, si.get_path_integral, si.get_reference):
        assert list(read()) == NAMES
    kernels = [v for v in model.trainable_variables if v.path == NAMES[0]]
    for name, kernel in zip(("dense/kernel", "dense/kernel#2"), kernels):
        np.testing.assert_array_equal(si.get_reference()[name], kernel.numpy())


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("^dense/kernel", ["dense/bias", "dense/bias#2", *NAMES[4:]]),
        ("^dense/kernel#2$", [*NAMES[:2], "dense/bias#2", *NAMES[4:]]),
        ("kernel$", ["dense/bias", "dense/bias#2", "head/bias"]),
    ],
)
def test_pattern_means_both_of_one_path_or_one_by_its_suffix(exclude, left):
    si = SICallback(exclude=exclude)
    si.set_model(towers())
    assert list(si.get_importance()) == left


@pytest.mark.parametrize("loaded", [False, True], ids=["same", "loaded"])
def test_layer_of_another_model_does_not_get_what_a_frozen_one_knows(
    loaded, tmp_path
):
    first, _ = make_tasks(2)
    model = compile_model(make_model())
    fit(model, first, SICallback())
    model.layers[-1].trainable = False
    compile_model(model)
    SICallback().set_model(model)
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    layers = [*model.layers[:-1], keras.layers.Dense(SIZES[-1])]
    other = compile_model(keras.Sequential([keras.Input((SIZES[0],)), *layers]))
    si = SICallback()
    si.set_model(other)
    *_, kernel, bias = si.get_importance().values()
    assert kernel.max() == bias.max() == 0
    *_, kernel, bias = si.get_reference().values()
    np.testing.assert_array_equal(kernel, other.get_weights()[-2])


def test_importance_in_a_file_of_a_frozen_layer_that_has_moved_is_missed_aloud(
    tmp_path,
):
    model = compile_model(make_model())
    fit(model, make_tasks(1)[0], SICallback())
    model.layers[0].trainable = False
    compile_model(model)
    SICallback().set_model(model)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    model.layers[0].trainable = True
    in_front = keras.layers.Dense(SIZES[0], name="in_front")
    layers = [keras.Input((SIZES[0],)), in_front, *model.layers]
    longer = compile_model(keras.Sequential(layers))
    with pytest.warns(UserWarning, match="dense_0/kernel', .* is not used"):
        SICallback().set_model(longer)


def test_file_replaces_what_is_known_of_a_layer_that_is_frozen_here(tmp_path):
    tasks = make_tasks(2)
    known = []
    for task in tasks:
        model = compile_model(make_model())
        si = SICallback()
        fit(model, task, si)
        model.layers[0].trainable = False
        compile_model(model)
        si.set_model(model)
        if task is tasks[0]:
            model.save_weights(tmp_path / "model.weights.h5")
        else:
            model.load_weights(tmp_path / "model.weights.h5")
        model.layers[0].trainable = True
        compile_model(model)
        si.set_model(model)
        known.append(flat(si.get_importance()))
    np.testing.assert_array_equal(*known)


# Out again.


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


def test_callback_whose_model_another_one_detached_says_so():
    model, si = compile_model(make_model()), SICallback()
    fit(model, make_tasks(1)[0], si)
    other = SICallback()
    other.set_model(model)
    si.get_importance()  # Both have the model's state.
    other.detach()
    with pytest.raises(ValueError, match="no longer attached: another one"):
        si.get_importance()
    with pytest.raises(ValueError, match="no longer attached"):
        si.strength = 3.0


def test_detach_after_a_new_compile_keeps_the_new_optimizer():
    model = compile_model(make_model())
    si = SICallback()
    si.set_model(model)
    compile_model(model, keras.optimizers.SGD(0.1))
    si.detach()
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert all(v.regularizer is None for v in model.trainable_variables)


def test_detach_takes_si_from_frozen_layers_too():
    first, second = make_tasks(2)
    model = compile_model(make_model())
    si = SICallback()
    fit(model, first, si)
    model.layers[0].trainable = False
    compile_model(model)
    fit(model, second, si)
    si.detach()
    assert [v.regularizer for v in model.weights] == [None] * 6
    model.layers[0].trainable = True
    compile_model(model)
    si.set_model(model)
    assert flat(si.get_importance()).max() == 0


# Refusals.


def frozen():
    model = make_model()
    model.trainable = False
    return compile_model(model)


class OfAnotherKeras:
    optimizer = "adam"


@pytest.mark.parametrize(
    ("make", "include", "message"),
    [
        (make_model, None, "was compiled with an optimizer"),
        (frozen, None, "has no trainable variables"),
        (OfAnotherKeras, None, "of Keras 3.*test_attach.OfAnotherKeras"),
        (
            lambda: compile_model(make_model()),
            "no such name",
            "no variable to track.*dense_0/kernel",
        ),
    ],
    ids=["not compiled", "frozen", "not of Keras 3", "nothing included"],
)
def test_model_that_si_cannot_train_is_refused(make, include, message):
    with pytest.raises(ValueError, match=message):
        SICallback(include=include).set_model(make())


def accumulating(*_):
    return keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)


@HAS_MULTI_OPTIMIZER
@pytest.mark.parametrize("by_variable", [False, True])
def test_multi_optimizer_that_accumulates_is_refused(by_variable):
    optimizer = keras.optimizers.MultiOptimizer(
        accumulating
        if by_variable
        else keras.optimizers.OptimizerMap(accumulating())
    )
    model = compile_model(make_model(), optimizer)
    with pytest.raises(ValueError, match="MultiOptimizer.*accumulates"):
        SICallback().set_model(model)


def test_two_callbacks_in_one_fit_are_refused_and_one_then_trains():
    model = compile_model(make_model())
    task = make_tasks(1)[0]
    with pytest.raises(ValueError, match="Two SICallbacks"):
        fit(model, task, SICallback(), SICallback())
    fit(model, task, SICallback())
