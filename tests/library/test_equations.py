"""The arithmetic, in literal numbers worked out by hand."""

import numpy as np
import pytest
from keras import ops

from keras_si import equations


def numbers(x):
    return ops.convert_to_numpy(x).tolist()


def test_accumulate_is_minus_gradient_times_step():
    result = equations.accumulate(
        path_integral=ops.array([1.0, 1.0, 1.0]),
        gradient=ops.array([2.0, -4.0, 0.5]),
        before=ops.array([0.0, 1.0, 3.0]),
        after=ops.array([-0.5, 1.25, 3.5]),
    )
    # 1 - 2*(-0.5);  1 - (-4)*0.25;  1 - 0.5*0.5
    assert numbers(result) == [2.0, 2.0, 0.75]


def test_accumulate_leaves_out_weights_that_are_not_finite():
    """But it shows a bad gradient where the weight stayed finite."""
    result = equations.accumulate(
        path_integral=ops.array([1.0, 1.0, 1.0, 1.0]),
        gradient=ops.array([np.nan, np.inf, 2.0, np.inf]),
        before=ops.array([0.0, 0.0, 0.0, 0.0]),
        after=ops.array([np.nan, -np.inf, -1.0, 1.0]),
    )
    assert numbers(result) == [1.0, 1.0, 3.0, -np.inf]


def test_consolidate_rectifies_the_running_sum_not_the_new_term():
    result = equations.consolidate(
        importance=ops.array([1.0, 0.5, 2.0]),
        path_integral=ops.array([3.0, -1.0, -1.0]),
        weights=ops.array([2.0, 1.0, 0.5]),
        reference=ops.array([1.0, 1.0, -0.5]),
        damping=0.5,
    )
    # 1 + 3/(1+.5);  relu(.5 - 1/.5) = 0;  2 - 1/(1+.5)
    np.testing.assert_allclose(numbers(result), [3.0, 0.0, 4 / 3], rtol=1e-6)


def test_penalty_has_no_half_and_its_gradient_the_factor_two():
    weights, importance, reference = ops.array(
        [[3.0, 0.0, 1.0], [2.0, 1.0, 5.0], [1.0, 3.0, 1.0]]
    )
    arrays = weights, importance, reference
    # 0.25 * (2*4 + 1*9 + 5*0);  2 * 0.25 * (2*2, 1*-3, 5*0)
    assert float(equations.penalty(*arrays, strength=0.25)) == 4.25
    gradient = equations.penalty_gradient(*arrays, strength=0.25)
    assert numbers(gradient) == [2.0, -1.5, 0.0]


@pytest.mark.parametrize(
    "shape", [(), (7,), (3, 5), (4, 2), (9, 3), (3, 3, 2, 5)]
)
def test_penalty_sums_every_element(shape):
    rng = np.random.default_rng(0)
    weights, importance, reference = rng.random((3, *shape)).astype("float32")
    expected = 2.0 * np.sum(importance * (weights - reference) ** 2)
    result = equations.penalty(
        ops.array(weights), ops.array(importance), ops.array(reference), 2.0
    )
    np.testing.assert_allclose(float(result), expected, rtol=1e-6)


def test_penalty_keeps_its_digits_over_a_million_terms():
    ones = ops.ones((1000, 1001))
    result = equations.penalty(0.1 * ones, ones, ops.zeros_like(ones), 1.0)
    np.testing.assert_allclose(float(result), 10010.0, rtol=1e-6)
