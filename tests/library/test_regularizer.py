"""SIRegularizer alone, as a Keras regularizer."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_si import SIRegularizer


def make(**kwargs):
    return SIRegularizer(
        strength=0.5, importance=[2.0, 1.0], reference=[1.0, 1.0], **kwargs
    )


def test_penalty_is_added_to_the_one_of_the_regularizer_before():
    assert float(make()(ops.array([3.0, 0.0]))) == 4.5  # .5*(2*4 + 1*1)
    regularizer = make(previous=keras.regularizers.L2(0.25))
    assert float(regularizer(ops.array([2.0, 0.0]))) == 2.5  # .5*(2+1) + .25*4


def test_it_is_differentiable_when_used_alone():
    layer = keras.layers.Dense(
        1,
        use_bias=False,
        kernel_initializer=keras.initializers.Constant(3.0),
        kernel_regularizer=SIRegularizer(0.5, [[2.0]], [[1.0]]),
    )
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.SGD(0.1), lambda y, p: 0.0 * p)
    model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
    # gradient 2 * .5 * 2 * (3 - 1) = 4
    np.testing.assert_allclose(layer.kernel.numpy(), [[2.6]], rtol=1e-6)


def test_config_round_trip():
    regularizer = make(previous=keras.regularizers.L1(0.5))
    config = keras.saving.serialize_keras_object(regularizer)
    again = keras.saving.deserialize_keras_object(config)
    x = ops.array([3.0, -2.0])
    assert isinstance(again, SIRegularizer)
    assert float(again(x)) == float(regularizer(x)) == 11.0  # 8.5 + 2.5


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"one shape.*\(2,\) and \(3,\)"):
        SIRegularizer(1.0, [1.0, 2.0], [1.0, 2.0, 3.0])
    # They would be broadcast, and their penalty summed, without a word.
    regularizer = SIRegularizer(1.0, [[1.0]], [[0.0]])
    with pytest.raises(ValueError, match=r"shape \(1, 1\).*\(3, 4\)"):
        regularizer(keras.ops.ones((3, 4)))


@pytest.mark.parametrize(
    ("importance", "received"),
    [
        (
            [[0.0, -2.0], [1.0, -3.0]],
            r"2 values that are negative or not finite, e\.g\. -2\.0",
        ),
        (np.array([[0.0, 1.0], [np.nan, 2.0]]), r"1 values.*e\.g\. nan"),
        (ops.array([[np.inf, 1.0], [0.0, 2.0]]), r"1 values.*e\.g\. inf"),
    ],
)
def test_bad_importance_is_refused(importance, received):
    with pytest.raises(ValueError, match=f"`importance`.*{received}"):
        SIRegularizer(1.0, importance, np.zeros((2, 2)))


@pytest.mark.parametrize("strength", [-1.0, float("nan"), "much", None])
def test_bad_strength_is_refused(strength):
    with pytest.raises(ValueError, match="`strength`"):
        SIRegularizer(strength, [1.0], [1.0])
