"""The output mask: exact probabilities, exact gradients, on every backend."""

import keras
import numpy as np
import pytest
from helpers import compile_model, reloaded, sgd
from keras import ops

from keras_si import OutputMask, SICallback

# softmax of (0, log 3) is (1/4, 3/4), whatever the other logits say.
LOGITS = np.array([[9.0, 0.0, np.log(3.0), -2.0]], "float32")


def make_mask(*outputs, units=4, **kwargs):
    mask = OutputMask(**kwargs)
    mask.build((None, units))
    mask.set_active(outputs)
    return mask


def softmax(mask, logits, **kwargs):
    return ops.convert_to_numpy(ops.softmax(mask(ops.array(logits), **kwargs)))


def test_the_softmax_is_that_of_the_active_outputs_alone():
    got = softmax(make_mask(1, 2), LOGITS)
    np.testing.assert_allclose(got, [[0.0, 0.25, 0.75, 0.0]], rtol=1e-6)
    assert got[0, 0] == 0 and got[0, 3] == 0  # Exactly.


@pytest.mark.parametrize(
    "dtype, lowest",
    [("float16", -2.9e4), ("bfloat16", -1e8), ("float32", -1e8)],
)
def test_the_others_get_exactly_nothing_in_any_precision(dtype, lowest):
    mask = make_mask(1, 2, dtype=dtype)
    # The active logits may be very small, the others as large as they go.
    got = mask(ops.cast([[6e4, lowest, lowest, 6e4]], dtype))
    got = ops.convert_to_numpy(ops.cast(ops.softmax(got), "float32"))
    np.testing.assert_array_equal(got, [[0.0, 0.5, 0.5, 0.0]])


def test_active_logits_pass_unchanged_and_all_are_active_at_first():
    mask = OutputMask()
    np.testing.assert_array_equal(ops.convert_to_numpy(mask(LOGITS)), LOGITS)
    assert mask.active == [0, 1, 2, 3]
    mask.set_active([3, 1])
    assert mask.active == [1, 3]
    got = ops.convert_to_numpy(mask(LOGITS))
    assert got[0, 1] == 0.0 and got[0, 3] == -2.0


def test_a_mask_for_each_example_comes_before_the_variable():
    active = np.array([[1, 0, 0, 1], [0, 1, 1, 0]], "bool")
    got = softmax(make_mask(0), np.zeros((2, 4), "float32"), active=active)
    np.testing.assert_array_equal(got, [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]])


def make_model(mask=None):
    dense = keras.layers.Dense(4, kernel_initializer="zeros")
    layers = [keras.Input((2,)), dense, mask or OutputMask()]
    return compile_model(keras.Sequential(layers), sgd(1.0))


def test_the_gradient_is_that_of_the_active_outputs_alone():
    """One step of SGD, by hand: the gradient is (softmax - one-hot) x."""
    model = make_model()
    model.layers[-1].set_active([1, 2])
    x = np.array([[1.0, 3.0]], "float32")
    si = SICallback(consolidate=None)
    model.fit(x, np.array([2]), verbose=0, callbacks=[si])
    kernel, bias, _ = model.get_weights()
    # softmax is (0, 1/2, 1/2, 0); minus one-hot: (0, 1/2, -1/2, 0).
    np.testing.assert_allclose(bias, [0, -0.5, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(
        kernel, [[0, -0.5, 0.5, 0], [0, -1.5, 1.5, 0]], rtol=1e-6
    )
    # So SI sees nothing to keep in the others.
    omega, _ = si.get_path_integral().values()
    for array in (bias, *kernel, *omega):
        assert (array[[0, 3]] == 0).all() and (array[[1, 2]] != 0).all()


def test_change_between_fits_takes_effect_without_a_new_trace():
    class Counting(OutputMask):
        calls = 0

        def call(self, inputs, active=None):
            Counting.calls += 1
            return super().call(inputs, active)

    model = make_model(Counting())
    x, y = np.ones((4, 2), "float32"), np.array([2, 3, 2, 3])
    mask = model.layers[-1]
    mask.set_active([2, 3])
    model.fit(x, y, verbose=0)
    traced, before = Counting.calls, model.get_weights()[1].copy()
    mask.set_active([0, 1, 2, 3])
    model.fit(x, y, verbose=0)
    if keras.backend.backend() != "torch":  # which calls it anew every step
        assert Counting.calls == traced
    # Outputs 0 and 1 stood still at first and have moved now.
    assert (before[:2] == 0).all()
    assert (model.get_weights()[1][:2] != 0).all()


def test_the_active_outputs_are_saved_with_the_model(tmp_path):
    model = make_model()
    model.layers[-1].set_active([1, 3])
    loaded = reloaded(model, tmp_path)
    assert loaded.layers[-1].active == [1, 3]
    x = np.ones((1, 2), "float32")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.parametrize(
    "outputs", [[], [4], [-1], [1.0], [True, False], ["a"], [[0, 1], [2, 3]]]
)
def test_outputs_that_there_are_not_are_refused(outputs):
    mask = make_mask(1, 2)
    with pytest.raises(ValueError, match="from 0 to 3. Received: "):
        mask.set_active(outputs)
    assert mask.active == [1, 2]


def test_before_it_is_built_it_says_what_to_do():
    with pytest.raises(ValueError, match="Build the model first"):
        OutputMask().set_active([0])
