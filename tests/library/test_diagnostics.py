"""What users are told: of numbers that are not finite, and of no effect."""

import keras
import numpy as np
import pytest
from helpers import (
    CROSS_ENTROPY,
    SIZES,
    assert_equal,
    begin,
    fit,
    flat,
    freeze,
    interrupt,
    learned,
    make_model,
    make_tasks,
    only_on,
    reloaded,
    sgd,
    unfreeze,
)
from helpers import compile_eagerly as compile_model
from keras import ops

from keras_si import SICallback

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


def poisoned(value, optimizer, **kwargs):
    layer = PoisonGradient(value)
    layers = [keras.Input((SIZES[0],)), keras.layers.Dense(3), layer]
    return compile_model(keras.Sequential(layers), optimizer, **kwargs), layer


@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end"])
def test_nan_gradients_are_said_and_never_consolidated(consolidate):
    model, layer = poisoned(np.nan, sgd())
    good, bad = make_tasks(2)
    si = SICallback(consolidate=consolidate)
    fit(model, good, si)
    weights = model.get_weights()
    importance, reference = si.get_importance(), si.get_reference()
    layer.on.assign(1.0)
    with pytest.warns(UserWarning, match="NaN or infinite values in the weig"):
        fit(model, bad, si)
    with (
        pytest.raises(ValueError, match="Cannot consolidate.*kernel"),
        pytest.warns(UserWarning, match="nothing will be consolidated"),
    ):
        si.consolidate()
    model.set_weights(weights)
    assert_equal(si.get_importance(), importance)
    assert_equal(si.get_reference(), reference)
    layer.on.assign(0.0)
    si.consolidate()
    assert np.isfinite(model.train_on_batch(*good))


def assert_all_is_finite(si):
    for read in (si.get_importance, si.get_path_integral, si.get_reference):
        assert np.isfinite(flat(read())).all()


@pytest.mark.parametrize("consolidate", [None, 2])
def test_infinite_gradients_that_an_optimizer_survives_are_dropped(consolidate):
    """Compiled: within a step SI cannot stop."""
    model, layer = poisoned(np.inf, sgd(clipvalue=0.5), run_eagerly=False)
    layer.on.assign(1.0)
    si = SICallback(consolidate=consolidate)
    x, y = make_tasks(1)[0]
    with pytest.warns(UserWarning, match="reached the path integral.*3 in"):
        fit(model, (np.abs(x), y), si, epochs=1)
    assert_all_is_finite(si)


def with_a_nan(task):
    x, y = task
    x = x.copy()
    x[-1] = np.nan
    return x, y


def test_weights_that_are_not_finite_are_not_consolidated_within_an_epoch():
    model = compile_model(make_model(), sgd(), run_eagerly=False)
    si = SICallback(consolidate=2)
    with pytest.warns(UserWarning, match="in the weights"):
        fit(model, with_a_nan(make_tasks(1)[0]), si, epochs=2)
    assert not all(np.isfinite(w).all() for w in model.get_weights())
    assert_all_is_finite(si)


def test_fit_that_terminates_on_nan_ends_no_task():
    model, si, _, task = learned(sgd())
    importance, reference = si.get_importance(), si.get_reference()
    weights = model.get_weights()
    stop = keras.callbacks.TerminateOnNaN()
    with pytest.warns(UserWarning, match="NaN or infinite values in the weig"):
        fit(model, with_a_nan(task), stop, si)
    for _ in range(2):
        assert_equal(si.get_importance(), importance)
        assert_equal(si.get_reference(), reference)
        model.set_weights(weights)
    with pytest.warns(UserWarning, match="its loss was not finite"):
        fit(model, task, si)
    assert (flat(si.get_importance()) != flat(importance)).any()


def test_fit_whose_loss_alone_is_not_finite_ends_no_task():
    model, si, task, _ = begin()
    model.compile(
        "sgd", lambda y, z: CROSS_ENTROPY(y, z) + np.inf, run_eagerly=True
    )
    with pytest.warns(UserWarning, match="the loss was not finite when this"):
        fit(model, task, si, epochs=1)
    assert flat(si.get_importance()).max() == 0
    assert flat(si.get_path_integral()).any()


def test_strength_too_large_for_the_rate_is_named():
    model, si, _, second = learned(sgd(0.5), strength=1e9)
    with pytest.warns(UserWarning, match="`strength` may be too large"):
        fit(model, second, si, epochs=4)


# Steps that are too few, or not heard.


@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end", None])
def test_task_of_one_step_is_warned_of_once(consolidate):
    model, si, task, _ = begin(consolidate=consolidate)

    def learn():
        fit(model, task, si, epochs=1, batch_size=22)
        if consolidate is None:
            si.consolidate()
        elif consolidate == "epoch_end":
            si.get_importance()

    with pytest.warns(UserWarning, match="had one optimizer step"):
        learn()
    learn()


@only_on("tensorflow", "torch", reason="JAX's steps take other arguments")
def test_train_step_with_another_optimizer_is_said():
    class Own(keras.Sequential):
        def train_step(self, data):
            return {"loss": ops.sum(data[0][:1])}

    model = Own([keras.Input((SIZES[0],)), keras.layers.Dense(3)])
    compile_model(model)
    with pytest.warns(UserWarning, match="no optimizer step was heard"):
        fit(model, make_tasks(1)[0], SICallback(consolidate=None), epochs=1)


def test_epoch_whose_steps_a_loss_scale_skipped_is_not_said_to_have_none():
    keras.config.set_dtype_policy("mixed_float16")
    model, si, (x, y), _ = begin(sgd(), consolidate=None)
    fit(model, (1e6 * x, y), si, epochs=1)


@pytest.mark.parametrize("built", [True, False])
def test_epoch_without_a_batch_is_not_said_to_have_no_step(built):
    _, si, task, _ = begin()
    model = compile_model(make_model(built))
    callbacks = keras.callbacks.CallbackList([si], model=model)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0)
    callbacks.on_train_end()
    fit(model, task, si)
    assert flat(si.get_importance()).max() > 0


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("after_a_task", [False, True])
def test_variables_that_another_optimizer_moves_are_named(after_a_task):
    """Two optimizers, as in a GAN; SI hears the first."""
    model, si, task, _ = begin()
    si.set_model(model)
    if after_a_task:
        fit(model, task, si)
    variables = model.trainable_variables
    other = sgd()
    other.build(variables[:2])
    for _ in range(2):
        gradients = [0.1 * v.value for v in variables]
        model.optimizer.apply([None, None, *gradients[2:]], variables)
        other.apply(gradients[:2], variables[:2])
    with pytest.warns(UserWarning, match="0/kernel', '[^']*0/bias'. moved"):
        si.consolidate()


def test_steps_by_the_handle_of_the_old_optimizer_are_warned_of():
    model, si, *_ = begin(handle := sgd())
    si.set_model(model)
    variables = model.trainable_variables
    handle.apply([0.1 * v.value for v in variables], variables)
    with pytest.warns(UserWarning, match="use `model.optimizer`"):
        si.consolidate()


def test_head_whose_samples_count_nothing_is_no_other_optimizers():
    """Its gradient is 0, and Adam's momentum moves it."""
    inputs = keras.Input((SIZES[0],))
    heads = [keras.layers.Dense(3, name=name)(inputs) for name in ("a", "b")]
    model = keras.Model(inputs, heads)
    model.compile(keras.optimizers.Adam(1e-2), [CROSS_ENTROPY] * 2)
    x, y = make_tasks(1)[0]
    si = SICallback()
    for weights in ((1.0, 1.0), (1.0, 0.0)):
        shares = [np.full(len(x), weight) for weight in weights]
        fit(model, (x, [y, y]), si, epochs=1, sample_weight=shares)


# Fits that do not end.


def test_fit_after_an_interrupted_one_says_once_that_it_continues():
    model, si, first, second = begin()
    interrupt(model, first, si)
    assert flat(si.get_importance()).max() == 0
    with pytest.warns(UserWarning, match="continues that task.*consolidate"):
        fit(model, second, si)
    fit(model, first, si)


def test_fit_after_an_interrupted_one_that_was_ended_by_hand_says_nothing():
    model, si, first, second = begin()
    interrupt(model, first, si)
    si.consolidate()
    assert flat(si.get_importance()).max() > 0
    fit(model, second, si)


def test_interruption_that_is_past_is_not_said_when_a_layer_is_unfrozen():
    model, si, first, second = begin()
    interrupt(model, first, si)
    freeze(model)
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, first, si)
    fit(unfreeze(model), second, si)


def test_interruption_with_a_frozen_layer_is_said_when_it_is_unfrozen():
    model, si, _, second = learned()
    interrupt(freeze(model), second, si)
    unfreeze(model)
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, second, si)


def test_interruption_after_a_backup_without_steps_is_said(tmp_path):
    model, si, _, second = learned()
    path = tmp_path / "backup.weights.h5"
    model.save_weights(path)
    restore = keras.callbacks.LambdaCallback(
        on_train_begin=lambda _: model.load_weights(path)
    )
    interrupt(model, second, si, restore)
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, second, si)


def test_fit_of_a_loaded_model_that_was_trained_on_a_batch_says_nothing(
    tmp_path,
):
    model, _, _, second = learned()
    model, si = reloaded(model, tmp_path), SICallback()
    si.set_model(model)
    model.train_on_batch(*second)
    fit(model, second, si)


def test_fit_within_a_fit_of_the_same_model_says_that_it_continues():
    model, si, first, second = begin()

    def rehearse(epoch, logs):
        if epoch == 0:
            fit(model, second, SICallback(), epochs=1)

    rehearsal = keras.callbacks.LambdaCallback(on_epoch_end=rehearse)
    with pytest.warns(UserWarning, match="`fit` before this one"):
        fit(model, first, si, rehearsal)
    assert flat(si.get_importance()).max() > 0


# Layers.


@pytest.mark.parametrize("loaded", [False, True], ids=["same", "loaded"])
def test_layer_that_joins_later_is_named_once(loaded, tmp_path):
    model, si, first, second = begin()
    fit(freeze(model), first, si)
    if loaded:
        model = reloaded(model, tmp_path)
    unfreeze(model)
    with pytest.warns(UserWarning, match="dense_0/kernel.*not protected"):
        fit(model, second, si)
    fit(model, first, si)


def test_new_head_is_no_layer_that_joins_later():
    """A trunk with a head for each task: the second has nothing to keep."""
    trunk = keras.layers.Dense(4, name="trunk")
    inputs = keras.Input((SIZES[0],))
    for task, name in zip(make_tasks(2), ("one", "two")):
        outputs = keras.layers.Dense(3, name=name)(trunk(inputs))
        fit(compile_model(keras.Model(inputs, outputs)), task, SICallback())


def test_kernel_that_is_frozen_under_lora_is_named():
    model, si, _, second = learned()
    model.layers[1].enable_lora(2)
    compile_model(model)
    with pytest.warns(UserWarning, match="dense_1/kernel.*frozen under LoRA"):
        fit(model, second, si)


def normalized(layer):
    layers = [keras.Input((SIZES[0],)), layer, keras.layers.Dense(3)]
    return compile_model(keras.Sequential(layers))


@pytest.mark.parametrize("end", ["train_end", 2, "add_importance"])
def test_moving_statistics_are_warned_of_once(end):
    model = normalized(keras.layers.BatchNormalization(name="norm"))
    first, second = make_tasks(2)
    settings = {"consolidate": None if end == "add_importance" else end}

    def learn(task):
        si = SICallback(**settings)  # a new one for each task
        fit(model, task, si)
        if end == "add_importance":
            si.add_importance(si.get_importance())

    with pytest.warns(UserWarning, match="moving statistics.*norm.*Freeze"):
        learn(first)
    learn(second)
    compile_model(model)
    learn(first)


def test_frozen_statistics_and_other_normalizations_are_not_warned_of():
    frozen = keras.layers.BatchNormalization()
    frozen.trainable = False
    for layer in (frozen, keras.layers.LayerNormalization()):
        fit(normalized(layer), make_tasks(1)[0], SICallback())
