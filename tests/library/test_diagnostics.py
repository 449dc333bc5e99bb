"""What users are told: of numbers that are not finite, and of no effect."""

import keras
import numpy as np
import pytest
from helpers import (
    SIZES,
    CutPower,
    PowerCut,
    assert_equal,
    fit,
    flat,
    make_model,
    make_tasks,
    only_on,
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
    model = compile_model(
        keras.Sequential(
            [keras.Input((SIZES[0],)), keras.layers.Dense(3), layer]
        ),
        optimizer,
        **kwargs,
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
    assert_equal(si.get_importance(), importance)
    assert_equal(si.get_reference(), reference)
    layer.on.assign(0.0)
    si.consolidate()
    assert np.isfinite(model.train_on_batch(*good))


def test_epoch_that_breaks_the_weights_ends_no_task_and_fit_continues():
    model, layer = poisoned(np.nan, keras.optimizers.SGD(0.1))
    good, bad = make_tasks(2)
    si = SICallback(consolidate="epoch_end")
    fit(model, good, si)
    importance = si.get_importance()
    layer.on.assign(1.0)
    with pytest.warns(UserWarning, match="NaN or infinite values in the weig"):
        fit(model, bad, si, epochs=2)
    assert_equal(si.get_importance(), importance)


@pytest.mark.parametrize("consolidate", [None, 2])
def test_infinite_gradients_that_an_optimizer_survives_are_dropped(consolidate):
    """Compiled: within a step SI cannot stop."""
    model, layer = poisoned(
        np.inf, keras.optimizers.SGD(0.1, clipvalue=0.5), run_eagerly=False
    )
    layer.on.assign(1.0)
    si = SICallback(consolidate=consolidate)
    x, y = make_tasks(1)[0]
    with pytest.warns(UserWarning, match="reached the path integral.*3 in"):
        fit(model, (np.abs(x), y), si, epochs=1)
    assert np.isfinite(flat(si.get_path_integral())).all()
    assert np.isfinite(flat(si.get_importance())).all()
    assert np.isfinite(flat(si.get_reference())).all()


def test_weights_that_are_not_finite_are_not_consolidated_within_an_epoch():
    model = compile_model(
        make_model(), keras.optimizers.SGD(0.1), run_eagerly=False
    )
    si = SICallback(consolidate=2)
    x, y = make_tasks(1)[0]
    x[-1] = np.nan
    with pytest.warns(UserWarning, match="in the weights"):
        fit(model, (x, y), si, epochs=2)
    assert not all(np.isfinite(w).all() for w in model.get_weights())
    assert np.isfinite(flat(si.get_importance())).all()
    assert np.isfinite(flat(si.get_reference())).all()


@pytest.mark.parametrize("first", [True, False])
def test_fit_that_terminates_on_nan_ends_no_task(first):
    good, (x, y) = make_tasks(2)
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    si = SICallback()
    fit(model, good, si)
    importance, reference = si.get_importance(), si.get_reference()
    weights = model.get_weights()
    bad = x.copy()
    bad[-1] = np.nan
    stop = keras.callbacks.TerminateOnNaN()
    with pytest.warns(UserWarning, match="NaN or infinite values in the weig"):
        fit(model, (bad, y), *([si, stop] if first else [stop, si]))
    for _ in range(2):
        assert_equal(si.get_importance(), importance)
        assert_equal(si.get_reference(), reference)
        model.set_weights(weights)
    with pytest.warns(UserWarning, match="its loss was not finite"):
        fit(model, (x, y), si)
    assert (flat(si.get_importance()) != flat(importance)).any()


def test_fit_whose_loss_alone_is_not_finite_ends_no_task():
    def infinite(y, z):
        cross_entropy = keras.losses.sparse_categorical_crossentropy
        return cross_entropy(y, z, from_logits=True) + np.inf

    model, si = make_model(), SICallback()
    model.compile("sgd", infinite, run_eagerly=True)
    with pytest.warns(UserWarning, match="the loss was not finite when this"):
        fit(model, make_tasks(1)[0], si, epochs=1)
    assert flat(si.get_importance()).max() == 0
    assert flat(si.get_path_integral()).any()


def test_strength_too_large_for_the_rate_is_named():
    model = compile_model(make_model(), keras.optimizers.SGD(0.5))
    si = SICallback(strength=1e9)
    first, second = make_tasks(2)
    fit(model, first, si)
    with pytest.warns(UserWarning, match="`strength` may be too large"):
        fit(model, second, si, epochs=4)


# Steps that are too few, or not heard.


@pytest.mark.parametrize("consolidate", ["train_end", "epoch_end", None])
def test_task_of_one_step_is_warned_of_once(consolidate):
    model = compile_model(make_model())
    x, y = make_tasks(1)[0]
    si = SICallback(consolidate=consolidate)

    def learn():
        model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[si])
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
    model = compile_model(make_model(), keras.optimizers.SGD(0.1))
    x, y = make_tasks(1)[0]
    fit(model, (1e6 * x, y), SICallback(consolidate=None), epochs=1)


def test_epoch_without_a_batch_is_not_said_to_have_no_step():
    model, si = compile_model(make_model()), SICallback()
    callbacks = keras.callbacks.CallbackList([si], model=model)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0)
    callbacks.on_train_end()
    fit(model, make_tasks(1)[0], si)
    assert flat(si.get_importance()).max() > 0


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("tasks_before", [0, 1])
def test_variables_that_another_optimizer_moves_are_named(tasks_before):
    """Two optimizers, as in a GAN; SI hears the first."""
    model, si = compile_model(make_model()), SICallback()
    si.set_model(model)
    for task in make_tasks(tasks_before):
        fit(model, task, si)
    variables = model.trainable_variables
    other = keras.optimizers.SGD(0.1)
    other.build(variables[:2])
    for _ in range(2):
        gradients = [0.1 * v.value for v in variables]
        model.optimizer.apply([None, None, *gradients[2:]], variables)
        other.apply(gradients[:2], variables[:2])
    with pytest.warns(UserWarning, match="0/kernel', '[^']*0/bias'. moved"):
        si.consolidate()


def test_steps_by_the_handle_of_the_old_optimizer_are_warned_of():
    handle = keras.optimizers.SGD(0.1)
    model, si = compile_model(make_model(), handle), SICallback()
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
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), [loss, loss])
    x, y = make_tasks(1)[0]
    si = SICallback()
    for weights in ((1.0, 1.0), (1.0, 0.0)):
        shares = [np.full(len(x), weight) for weight in weights]
        fit(model, (x, [y, y]), si, epochs=1, sample_weight=shares)


def test_a_new_callback_for_each_task_repeats_no_warning():
    model = compile_model(
        keras.Sequential(
            [
                keras.Input((SIZES[0],)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(SIZES[-1]),
            ]
        )
    )
    first, second = make_tasks(2)
    with pytest.warns(UserWarning, match="moving statistics"):
        fit(model, first, SICallback())
    fit(model, second, SICallback())
    compile_model(model)
    fit(model, first, SICallback())


# Fits that do not end.


@pytest.mark.parametrize("fresh", [False, True], ids=["same", "new"])
def test_fit_after_an_interrupted_one_says_once_that_it_continues(fresh):
    model, si = compile_model(make_model()), SICallback()
    first, second = make_tasks(2)
    with pytest.raises(PowerCut):
        fit(model, first, si, CutPower())
    assert flat(si.get_importance()).max() == 0
    if fresh:
        si = SICallback()
    with pytest.warns(UserWarning, match="continues that task.*consolidate"):
        fit(model, second, si)
    fit(model, first, si)


def test_fit_after_an_interrupted_one_that_was_ended_by_hand_says_nothing():
    model, si = compile_model(make_model()), SICallback()
    first, second = make_tasks(2)
    with pytest.raises(PowerCut):
        fit(model, first, si, CutPower())
    si.consolidate()
    assert flat(si.get_importance()).max() > 0
    fit(model, second, si)


def test_interruption_that_is_past_is_not_said_when_a_layer_is_unfrozen():
    model, si = compile_model(make_model()), SICallback()
    first, second = make_tasks(2)
    with pytest.raises(PowerCut):
        fit(model, first, si, CutPower())
    model.layers[-1].trainable = False
    compile_model(model)
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, first, si)
    model.layers[-1].trainable = True
    compile_model(model)
    fit(model, second, si)


def test_interruption_with_a_frozen_layer_is_said_when_it_is_unfrozen():
    model, si = compile_model(make_model()), SICallback()
    first, second = make_tasks(2)
    fit(model, first, si)
    model.layers[-1].trainable = False
    compile_model(model)
    with pytest.raises(PowerCut):
        fit(model, second, si, CutPower())
    model.layers[-1].trainable = True
    compile_model(model)
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, second, si)


def test_interruption_after_a_backup_without_steps_is_said(tmp_path):
    model, si = compile_model(make_model()), SICallback()
    first, second = make_tasks(2)
    fit(model, first, si)
    path = tmp_path / "backup.weights.h5"
    model.save_weights(path)
    restore = keras.callbacks.LambdaCallback(
        on_train_begin=lambda _: model.load_weights(path)
    )
    with pytest.raises(PowerCut):
        fit(model, second, si, restore, CutPower())
    with pytest.warns(UserWarning, match="continues that task"):
        fit(model, second, si)


def test_fit_of_a_loaded_model_that_was_trained_on_a_batch_says_nothing(
    tmp_path,
):
    model, si = compile_model(make_model()), SICallback()
    first, second = make_tasks(2)
    fit(model, first, si)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    si = SICallback()
    si.set_model(model)
    model.train_on_batch(*second)
    fit(model, second, si)


def test_fit_within_a_fit_of_the_same_model_says_that_it_continues():
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


# Layers.


@pytest.mark.parametrize("loaded", [False, True], ids=["same", "loaded"])
def test_layer_that_joins_later_is_named_once(loaded, tmp_path):
    first, second = make_tasks(2)
    model = make_model()
    model.layers[0].trainable = False
    compile_model(model)
    si = SICallback()
    fit(model, first, si)
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    model.layers[0].trainable = True
    compile_model(model)
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
    first, second = make_tasks(2)
    model = compile_model(make_model())
    si = SICallback()
    fit(model, first, si)
    model.layers[1].enable_lora(2)
    compile_model(model)
    with pytest.warns(UserWarning, match="dense_1/kernel.*frozen under LoRA"):
        fit(model, second, si)


def normalized(layer):
    return compile_model(
        keras.Sequential(
            [keras.Input((SIZES[0],)), keras.layers.Dense(4), layer]
            + [keras.layers.Dense(3)]
        )
    )


@pytest.mark.parametrize("end", ["train_end", 2, "add_importance"])
def test_moving_statistics_are_warned_of_once(end):
    model = normalized(keras.layers.BatchNormalization(name="norm"))
    first, second = make_tasks(2)
    si = SICallback(consolidate=None if end == "add_importance" else end)

    def learn(task):
        fit(model, task, si)
        if end == "add_importance":
            si.add_importance(si.get_importance())

    with pytest.warns(UserWarning, match="moving statistics.*norm.*Freeze"):
        learn(first)
    learn(second)


def test_frozen_statistics_and_other_normalizations_are_not_warned_of():
    frozen = keras.layers.BatchNormalization()
    frozen.trainable = False
    for layer in (frozen, keras.layers.LayerNormalization()):
        fit(normalized(layer), make_tasks(1)[0], SICallback())
