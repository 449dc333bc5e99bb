"""What SI is attached to: layers, paths, optimizers, copies."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest
import reference_si as oracle
from helpers import (
    SIZES,
    assert_matches_oracle,
    fit,
    flat,
    make_model,
    make_oracle,
    make_tasks,
    only_on,
)
from helpers import compile_eagerly as compile_model
from keras import ops

from keras_si import SICallback
from keras_si.optimizer import SIOptimizer

LORA = pytest.mark.filterwarnings("ignore:Keras merges LoRA")


# Settings of the user's optimizer.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clipnorm", 1e-3),
        ("clipvalue", 1e-4),
        ("global_clipnorm", 1e-3),
        ("weight_decay", 5.0),
        ("beta_1", 0.0),
        ("epsilon", 1.0),
    ],
)
def test_a_setting_of_the_optimizer_has_effect_under_si(name, value):
    ends = []
    for callbacks in ([], [SICallback(strength=0.0)]):
        keras.utils.set_random_seed(3)
        model = compile_model(make_model())
        first, second = make_tasks(2)
        fit(model, first, *callbacks)
        setattr(model.optimizer, name, value)
        assert getattr(model.optimizer, name) == value
        fit(model, second, *callbacks)
        ends.append(model.get_weights())
    for plain, with_si in zip(*ends, strict=True):
        np.testing.assert_array_equal(plain, with_si)


@only_on("tensorflow", reason="its update is compiled by itself")
@pytest.mark.parametrize("through", ["wrapper", "handle"])
def test_a_setting_has_effect_on_an_update_that_was_compiled(through):
    handle = keras.optimizers.SGD(0.1)
    model = compile_model(make_model(), handle, run_eagerly=False)
    task = make_tasks(1)[0]
    fit(model, task, SICallback())
    optimizer = model.optimizer if through == "wrapper" else handle
    optimizer.clipvalue = 1e-12
    model.make_train_function(force=True)
    before = model.get_weights()
    fit(model, task, SICallback())
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_what_the_optimizer_lacks_is_an_attribute_error():
    model = compile_model(make_model())
    SICallback().set_model(model)
    with pytest.raises(AttributeError, match="momentum_of_mine"):
        model.optimizer.momentum_of_mine  # noqa: B018
    assert not hasattr(model.optimizer, "_momentum")


def test_reset_optimizer_keeps_what_si_knows():
    """The next task then trains as with a new optimizer of the same rate."""
    first, second = make_tasks(2)
    ends = []
    for reset in (True, False):
        keras.utils.set_random_seed(3)
        model = compile_model(make_model(), keras.optimizers.Adam(1e-2))
        si = SICallback(strength=5.0)
        fit(model, first, si)
        model.optimizer.learning_rate = 2e-2
        importance = flat(si.get_importance())
        if reset:
            si.reset_optimizer()
            np.testing.assert_array_equal(importance, flat(si.get_importance()))
        else:
            compile_model(model, keras.optimizers.Adam(2e-2))
        assert int(ops.convert_to_numpy(model.optimizer.iterations)) in (0, 6)
        logs = fit(model, second, si).history
        ends.append((model.get_weights(), logs["si_penalty"]))
    for a, b in zip(*(weights for weights, _ in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-4)


@pytest.mark.parametrize("then", ["fit", "get_importance", "set_model"])
def test_state_that_was_zeroed_with_the_moments_is_refused(then):
    model = compile_model(make_model())
    task = make_tasks(1)[0]
    si = SICallback()
    fit(model, task, si)
    rate = float(ops.convert_to_numpy(model.optimizer.learning_rate))
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    model.optimizer.learning_rate = rate
    with pytest.raises(ValueError, match="erased.*reset_optimizer"):
        if then == "fit":
            fit(model, task, si)
        elif then == "set_model":
            SICallback().set_model(model)
        else:
            si.get_importance()


def test_state_that_was_zeroed_is_not_lost_in_a_compile_or_a_file(tmp_path):
    model = compile_model(make_model())
    si = SICallback()
    fit(model, make_tasks(1)[0], si)
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    with pytest.raises(ValueError, match="erased"):
        model.save(tmp_path / "model.keras")
    compile_model(model)
    with pytest.raises(ValueError, match="erased"):
        si.set_model(model)


def test_a_setting_that_is_written_before_the_model_is_built_is_kept():
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    SICallback().set_model(model)
    other = type(model.optimizer).from_config(model.optimizer.get_config())
    other.clipnorm = 0.5
    other.build(model.trainable_variables)
    assert other.clipnorm == other.inner_optimizer.clipnorm == 0.5
    assert other.use_ema is False


# Copies of an SI optimizer, and of a model that has one.


def from_config(optimizer):
    return type(optimizer).from_config(optimizer.get_config())


def serialized(optimizer):
    return keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))


@pytest.mark.parametrize(
    "make",
    [
        from_config,
        serialized,
        pytest.param(
            copy.deepcopy,
            marks=pytest.mark.filterwarnings("ignore:.*(restored|Skipping)"),
        ),
    ],
)
@pytest.mark.parametrize("built", [True, False])
def test_a_copy_of_the_optimizer_is_as_a_new_compile(make, built):
    first, second = make_tasks(2)
    model = compile_model(make_model(built=built), keras.optimizers.SGD(0.1))
    si = SICallback(0.7, 0.05)
    fit(model, first, si)
    importance = flat(si.get_importance())
    compile_model(model, make(model.optimizer))
    fit(model, second, si)
    inner = model.optimizer.inner_optimizer
    assert isinstance(inner, keras.optimizers.SGD)
    assert not isinstance(inner, SIOptimizer)
    assert (flat(si.get_importance()) >= 0).all()
    assert (flat(si.get_importance()) != importance).any()
    assert flat(si.get_importance()).sum() > 0.9 * importance.sum()


def clone(model):
    return keras.models.clone_model(model)


def by_config(model):
    other = type(model).from_config(model.get_config())
    other.build((None, SIZES[0]))
    other.compile_from_config(model.get_compile_config())
    return other


@pytest.mark.parametrize("consolidate", ["train_end", 2])
@pytest.mark.parametrize("make", [clone, by_config])
def test_a_clone_trains_as_without_si_until_a_callback_is_passed(
    make, consolidate
):
    first, second = make_tasks(2)
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    fit(model, first, SICallback(strength=50.0, consolidate=consolidate))
    cloned = make(model)
    assert cloned.optimizer is not None
    plain = compile_model(make_model(), keras.optimizers.SGD(0.1))
    plain.set_weights(cloned.get_weights())
    for each in (cloned, plain):
        logs = fit(each, first).history
    assert set(logs) == {"loss"}
    for a, b in zip(cloned.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    # And it is a first task that the callback then meets.
    reference = make_oracle(cloned, oracle.SGD(0.1), 0.7, 0.05)
    si = SICallback(0.7, 0.05)
    for x, y in (first, second):
        fit(cloned, (x, y), si)
        oracle.fit(reference, np.float64(x), y, 8, 2)
        reference.consolidate()
    assert_matches_oracle(cloned, si, reference)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "make",
    [copy.deepcopy, lambda si: pickle.loads(pickle.dumps(si))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_of_a_callback_has_the_settings_and_no_model(make, used):
    si = SICallback(2.0, 0.3, "epoch_end", include="kernel", exclude=["_2"])
    model = compile_model(make_model())
    task = make_tasks(1)[0]
    if used:
        fit(model, task, si)
        importance = flat(si.get_importance())
    other = make(si)
    assert (other.strength, other.damping) == (2.0, 0.3)
    with pytest.raises(ValueError, match="not attached"):
        other.get_importance()
    fit(compile_model(make_model()), task, other)
    names = [path.split("/")[-2] for path in other.get_importance()]
    assert names == ["dense_0", "dense_1"]
    if used:
        np.testing.assert_array_equal(importance, flat(si.get_importance()))


# Variables of one path.


def tower(name):
    inputs = keras.Input((SIZES[0],))
    outputs = keras.layers.Dense(4, activation="relu", name="dense")(inputs)
    return keras.Model(inputs, outputs, name=name)


def towers():
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
def test_a_pattern_means_both_of_one_path_or_one_by_its_suffix(exclude, left):
    model = towers()
    si = SICallback(exclude=exclude)
    si.set_model(model)
    assert list(si.get_importance()) == left


# Layers that are frozen, and that come back.


def test_frozen_layers_keep_their_importance_in_a_file(tmp_path):
    first, second = make_tasks(2)
    model = compile_model(make_model())
    si = SICallback(strength=1.0)
    fit(model, first, si)
    before = si.get_importance()
    model.layers[0].trainable = False
    compile_model(model)
    fit(model, second, si)
    assert len(si.get_importance()) == 4
    for step in range(2):  # saved, loaded, and once more, still frozen
        model.save(tmp_path / f"{step}.keras")
        model = keras.models.load_model(tmp_path / f"{step}.keras")
        compile_model(model)
        si = SICallback(strength=1.0)
        si.set_model(model)
    model.layers[0].trainable = True
    compile_model(model)
    si.set_model(model)
    after = si.get_importance()
    assert len(after) == 6
    for a, b in list(zip(before.values(), after.values()))[:2]:
        np.testing.assert_array_equal(a, b)
        assert a.max() > 1e-3
    np.testing.assert_array_equal(
        list(si.get_reference().values())[0], model.get_weights()[0]
    )


def test_a_layer_of_another_model_does_not_get_what_a_frozen_one_knows():
    first, second = make_tasks(2)
    model = compile_model(make_model())
    fit(model, first, SICallback())
    model.layers[-1].trainable = False
    compile_model(model)
    SICallback().set_model(model)
    layers = [*model.layers[:-1], keras.layers.Dense(SIZES[-1])]
    other = compile_model(keras.Sequential([keras.Input((SIZES[0],)), *layers]))
    si = SICallback()
    si.set_model(other)
    *_, kernel, bias = si.get_importance().values()
    assert kernel.max() == bias.max() == 0
    *_, kernel, bias = si.get_reference().values()
    np.testing.assert_array_equal(kernel, other.get_weights()[-2])


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


def test_a_layer_that_joins_later_is_named_once():
    first, second = make_tasks(2)
    model = make_model()
    model.layers[0].trainable = False
    compile_model(model)
    si = SICallback()
    fit(model, first, si)
    model.layers[0].trainable = True
    compile_model(model)
    with pytest.warns(UserWarning, match="dense_0/kernel.*not protected"):
        fit(model, second, si)
    fit(model, first, si)


def test_a_layer_that_joins_a_loaded_model_is_named(tmp_path):
    first, second = make_tasks(2)
    model = make_model()
    model.layers[0].trainable = False
    compile_model(model)
    fit(model, first, SICallback())
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    model.layers[0].trainable = True
    compile_model(model)
    with pytest.warns(UserWarning, match="dense_0/kernel.*not protected"):
        fit(model, second, SICallback())


def test_a_head_that_is_new_is_no_newcomer():
    """A trunk with a head for each task: the second has nothing to keep."""
    trunk = keras.layers.Dense(4, name="trunk")
    inputs = keras.Input((SIZES[0],))
    for task, name in zip(make_tasks(2), ("one", "two")):
        outputs = keras.layers.Dense(3, name=name)(trunk(inputs))
        model = compile_model(keras.Model(inputs, outputs))
        fit(model, task, SICallback())


# LoRA and BatchNormalization.


def test_a_kernel_that_is_frozen_under_lora_is_named():
    first, second = make_tasks(2)
    model = compile_model(make_model())
    si = SICallback()
    fit(model, first, si)
    model.layers[1].enable_lora(2)
    compile_model(model)
    with pytest.warns(UserWarning, match="dense_1/kernel.*frozen under LoRA"):
        fit(model, second, si)


def test_a_saved_model_with_lora_pays_no_penalty_for_its_merging(tmp_path):
    first, second = make_tasks(2)
    model = make_model()
    model.layers[0].enable_lora(2)
    compile_model(model)
    si = SICallback(strength=5.0)
    fit(model, first, si)
    lora = [i for i, p in enumerate(si.get_importance()) if "lora_" in p]
    before = list(si.get_importance().values())
    assert len(lora) == 2 and max(before[i].max() for i in lora) > 1e-4
    with pytest.warns(UserWarning, match="merges LoRA.*lora_kernel_a"):
        model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = SICallback(strength=5.0)
    again.set_model(loaded)
    assert float(sum(loaded.losses)) == 0
    for index, importance in enumerate(again.get_importance().values()):
        if index in lora:
            assert importance.max() == 0
        else:
            np.testing.assert_array_equal(importance, before[index])
    fit(loaded, second, again)


def normalized(layer):
    return compile_model(
        keras.Sequential(
            [keras.Input((SIZES[0],)), keras.layers.Dense(4), layer]
            + [keras.layers.Dense(3)]
        )
    )


def test_moving_statistics_are_warned_of_once():
    model = normalized(keras.layers.BatchNormalization(name="norm"))
    si = SICallback()
    first, second = make_tasks(2)
    with pytest.warns(UserWarning, match="moving statistics.*norm.*Freeze"):
        fit(model, first, si)
    fit(model, second, si)


def test_moving_statistics_are_warned_of_in_a_stream():
    model = normalized(keras.layers.BatchNormalization(name="norm"))
    with pytest.warns(UserWarning, match="moving statistics.*norm.*Freeze"):
        fit(model, make_tasks(1)[0], SICallback(consolidate=2))


def test_a_head_whose_samples_count_nothing_is_no_other_optimizers():
    """Its gradient is 0, and Adam's momentum moves it."""
    inputs = keras.Input((SIZES[0],))
    heads = [keras.layers.Dense(3, name=name)(inputs) for name in ("a", "b")]
    model = keras.Model(inputs, heads)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), [loss, loss])
    x, y = make_tasks(1)[0]
    si = SICallback()
    for weights in ((1.0, 1.0), (1.0, 0.0)):
        shares = [np.full(len(x), weight) for weight in weights]
        model.fit(
            x,
            [y, y],
            batch_size=8,
            sample_weight=shares,
            verbose=0,
            callbacks=[si],
        )


def test_frozen_statistics_and_other_normalizations_are_fine():
    frozen = keras.layers.BatchNormalization()
    frozen.trainable = False
    for layer in (frozen, keras.layers.LayerNormalization()):
        fit(normalized(layer), make_tasks(1)[0], SICallback())


# Types of weights and data.


@only_on("tensorflow", reason="the other backends have no unknown rank")
def test_data_of_unknown_rank():
    import tensorflow as tf

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(tf.ensure_shape(x, [None, SIZES[0]]))

    x, y = make_tasks(1)[0]
    model = Net()
    model(x[:2])
    compile_model(model)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    data = data.map(
        lambda x, y: (tf.numpy_function(lambda a: a, [x], tf.float32), y)
    )
    si = SICallback()
    model.fit(data, shuffle=False, verbose=0, callbacks=[si])
    assert flat(si.get_importance()).max() > 0


@pytest.mark.parametrize("regularizer", [None, "l2"])
@only_on("tensorflow", "torch", reason="JAX has no float64 by default")
def test_weights_of_float64_under_floatx_float32(regularizer):
    model = keras.Sequential(
        [
            keras.Input((SIZES[0],)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.Dense(
                3, dtype="float64", kernel_regularizer=regularizer
            ),
        ]
    )
    compile_model(model, keras.optimizers.SGD(0.1))
    si = SICallback(strength=5.0)
    for task in make_tasks(2):
        logs = fit(model, task, si).history
        model.evaluate(*task, verbose=0)
    assert logs["si_penalty"][-1] > 0
    assert [a.dtype.name for a in si.get_importance().values()] == [
        *["float32"] * 2,
        *["float64"] * 2,
    ]


def test_swapped_averages_are_not_the_reference_within_a_fit():
    """`SwapEMAWeights` shows averages between two epochs."""
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
    for plain, swapped in zip(*references, strict=True):
        np.testing.assert_allclose(plain, swapped, rtol=1e-5, atol=1e-7)


# What it says where nothing is wrong with `self.optimizer`.


def test_an_epoch_without_steps_that_a_loss_scale_skipped():
    keras.config.set_dtype_policy("mixed_float16")
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    x, y = make_tasks(1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, (1e6 * x, y), SICallback(consolidate=None), epochs=1)


def test_a_fit_within_a_fit_of_the_same_model():
    model = compile_model(make_model())
    first, second = make_tasks(2)

    class Rehearse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                fit(self.model, second, SICallback(), epochs=1)

    si = SICallback()
    with pytest.warns(UserWarning, match="`fit` before this one"):
        fit(model, first, si, Rehearse())
    assert flat(si.get_importance()).max() > 0


def test_another_kind_of_model_is_refused_by_its_name():
    class Model:
        optimizer = "adam"

    with pytest.raises(ValueError, match="model of Keras 3.*test_attach.Model"):
        SICallback().set_model(Model())


def test_a_strength_too_large_for_the_rate_is_named():
    model = compile_model(make_model(), keras.optimizers.SGD(0.5))
    si = SICallback(strength=1e9)
    first, second = make_tasks(2)
    fit(model, first, si)
    with pytest.warns(UserWarning, match="`strength` may be too large"):
        fit(model, second, si, epochs=4)
