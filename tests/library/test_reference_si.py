"""Tests of the NumPy oracle: finite differences and hand-computed numbers."""

import numpy as np
import pytest
from reference_si import (
    SGD,
    Adam,
    Lion,
    Network,
    ReferenceSI,
    RMSprop,
    fit,
    random_weights,
)


class Scripted:
    """Task loss = mean(x) * sum(w): its gradient is mean(x), whatever w."""

    def loss_and_gradients(self, weights, x, y, sample_weight=None):
        slope = np.mean(x)
        loss = slope * sum(np.sum(w) for w in weights)
        return loss, [np.full_like(w, slope) for w in weights]


class Parabola:
    """Task loss = sum((w - y)**2), gradient 2 * (w - y)."""

    def loss_and_gradients(self, weights, x, y, sample_weight=None):
        loss = sum(np.sum((w - y) ** 2) for w in weights)
        return loss, [2.0 * (w - y) for w in weights]


def scripted(optimizer, weights=(0.0,), strength=0.0, damping=1.0, **options):
    """ReferenceSI whose every step(gradient) has the given task gradient."""
    arrays = [np.array([w]) for w in weights]
    return ReferenceSI(
        Scripted(), arrays, optimizer, strength, damping, **options
    )


def run(si, *slopes):
    """A train step for each of the task gradients `slopes`."""
    for slope in slopes:
        si.train_step(np.array([slope]), None)


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def close(arrays, expected):
    np.testing.assert_allclose(flat(arrays), expected, rtol=1e-12, atol=1e-12)


def finite_differences(function, weights, h=1e-6):
    """Central differences of function(), which must read `weights` itself."""
    gradients = [np.zeros_like(w) for w in weights]
    for w, g in zip(weights, gradients, strict=True):
        for index in np.ndindex(w.shape):
            value = w[index]
            w[index] = value + h
            above = function()
            w[index] = value - h
            below = function()
            w[index] = value
            g[index] = (above - below) / (2.0 * h)
    return gradients


def task(loss, n=12, seed=0):
    """Inputs of size 4 with three classes or three real targets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    if loss == "cross_entropy":
        return x, rng.integers(3, size=n)
    return x, rng.normal(size=(n, 3))


# --- The network ------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_backprop_is_the_gradient(activation, loss, l2, weighted):
    network = Network(activation, loss, l2, l1=l2 / 4)
    weights = random_weights([4, 5, 6, 3], seed=1)
    x, y = task(loss)
    sample_weight = np.linspace(0.0, 2.5, len(x)) if weighted else None

    def value():
        return network.loss_and_gradients(weights, x, y, sample_weight)[0]

    _, gradients = network.loss_and_gradients(weights, x, y, sample_weight)
    numeric = finite_differences(value, weights)
    assert [g.shape for g in gradients] == [w.shape for w in weights]
    np.testing.assert_allclose(
        flat(gradients), flat(numeric), rtol=1e-6, atol=1e-8
    )


def test_relu_network_by_hand():
    # x @ k0 + b0 = [1, -1 + 2 - 1] = [1, 0]: the second unit sits at ReLU's
    # kink, where its slope is 0.  Output 1 * 2 + 0 * 3 + 0.5 = 2.5, error 1.5.
    weights = [
        np.array([[1.0, -1.0], [0.0, 1.0]]),
        np.array([0.0, -1.0]),
        np.array([[2.0], [3.0]]),
        np.array([0.5]),
    ]
    x, y = np.array([[1.0, 2.0]]), np.array([1.0])
    loss, gradients = Network("relu", "mse").loss_and_gradients(weights, x, y)
    assert loss == pytest.approx(2.25)
    close(gradients[0:1], [6.0, 0.0, 12.0, 0.0])
    close(gradients[1:2], [6.0, 0.0])
    close(gradients[2:3], [3.0, 0.0])
    close(gradients[3:4], [3.0])

    # L2 on the kernels only: 0.1 * (1 + 1 + 0 + 1 + 4 + 9) = 1.6.
    network = Network("relu", "mse", l2=0.1)
    loss, gradients = network.loss_and_gradients(weights, x, y)
    assert loss == pytest.approx(3.85)
    close(gradients[0:1], [6.2, -0.2, 12.0, 0.2])
    close(gradients[1:2], [6.0, 0.0])
    close(gradients[2:3], [3.4, 0.6])
    close(gradients[3:4], [3.0])

    # L1 likewise: 0.1 * (1 + 1 + 0 + 1 + 2 + 3) = 0.8.
    network = Network("relu", "mse", l1=0.1)
    loss, gradients = network.loss_and_gradients(weights, x, y)
    assert loss == pytest.approx(3.05)
    close(gradients[0:1], [6.1, -0.1, 12.0, 0.1])
    close(gradients[2:3], [3.1, 0.1])


def test_cross_entropy_by_hand():
    # Logits (0, ln 3): probabilities 1/4 and 3/4.
    weights = [np.zeros((1, 2)), np.array([0.0, np.log(3.0)])]
    x, y = np.zeros((2, 1)), np.array([0, 1])
    network = Network("relu", "cross_entropy")
    loss, gradients = network.loss_and_gradients(weights, x, y)
    assert loss == pytest.approx((np.log(4.0) + np.log(4.0 / 3.0)) / 2.0)
    close(gradients[1:], [-0.25, 0.25])

    # Weighted: 1 * ln 4 over the batch of 2, not over the sum of the weights.
    loss, gradients = network.loss_and_gradients(weights, x, y, [1.0, 0.0])
    assert loss == pytest.approx(np.log(4.0) / 2.0)
    close(gradients[1:], [-0.375, 0.375])


def test_cross_entropy_of_huge_logits_is_finite():
    weights = [np.zeros((1, 2)), np.array([0.0, 2000.0])]
    network = Network("relu", "cross_entropy")
    loss, gradients = network.loss_and_gradients(weights, [[0.0]], [0])
    assert loss == 2000.0
    close(gradients[1:], [-1.0, 1.0])


def test_squared_error_is_a_mean_over_batch_and_units():
    # Outputs (1, 2) for both samples; errors (1, 2) and (-2, 0).
    weights = [np.zeros((1, 2)), np.array([1.0, 2.0])]
    x, y = np.zeros((2, 1)), np.array([[0.0, 0.0], [3.0, 2.0]])
    network = Network("relu", "mse")
    loss, gradients = network.loss_and_gradients(weights, x, y)
    assert loss == pytest.approx((1.0 + 4.0 + 4.0 + 0.0) / 4.0)
    close(gradients[1:], [-0.5, 1.0])

    # Weighted: (3 * 2.5 + 1 * 2) / 2.
    loss, gradients = network.loss_and_gradients(weights, x, y, [3.0, 1.0])
    assert loss == pytest.approx(4.75)
    close(gradients[1:], [0.5, 3.0])


def test_random_weights():
    first, again = random_weights([4, 5, 3], 7), random_weights([4, 5, 3], 7)
    assert [w.shape for w in first] == [(4, 5), (5,), (5, 3), (3,)]
    np.testing.assert_array_equal(flat(first), flat(again))


# --- The optimizers ---------------------------------------------------------


def test_sgd():
    si = scripted(SGD(0.1))
    run(si, 2.0, -1.0)
    close(si.weights, [-0.1])


def test_sgd_momentum():
    # m = -0.1, then 0.5 * -0.1 - 0.2 = -0.25.
    si = scripted(SGD(0.1, momentum=0.5))
    run(si, 1.0, 2.0)
    close(si.optimizer.momentums, [-0.25])
    close(si.weights, [-0.35])


def test_sgd_nesterov():
    # Steps 0.5 * -0.1 - 0.1 = -0.15 and 0.5 * -0.25 - 0.2 = -0.325.
    si = scripted(SGD(0.1, momentum=0.5, nesterov=True))
    run(si, 1.0, 2.0)
    close(si.optimizer.momentums, [-0.25])
    close(si.weights, [-0.475])


def test_adam():
    # t=1, g=2: m = 1, v = 1, alpha = sqrt(0.25) / 0.5 = 1, step -1.
    # t=2, g=4: m = 2.5, v = 1 + 0.25 * 15 = 4.75, alpha = sqrt(0.4375) / 0.75.
    si = scripted(Adam(1.0, beta_1=0.5, beta_2=0.75, epsilon=0.0))
    run(si, 2.0)
    close(si.weights, [-1.0])
    run(si, 4.0)
    close(si.optimizer.momentums, [2.5])
    close(si.optimizer.velocities, [4.75])
    assert si.weights[0][0] == pytest.approx(-2.0116283, abs=1e-7)


def test_adam_epsilon_is_outside_the_root():
    # v = 0.25 * 16 = 4, m = 2, alpha = 1: step -2 / (sqrt(4) + 6).
    si = scripted(Adam(1.0, beta_1=0.5, beta_2=0.75, epsilon=6.0))
    run(si, 4.0)
    close(si.weights, [-0.25])


def test_rmsprop_epsilon_is_inside_the_root():
    # v = 0.25 * 4 = 1, step -0.1 * 2 / sqrt(1 + 3) = -0.1.
    # v = 0.75 + 0.25 * 17 = 5, step -0.1 * sqrt(17) / sqrt(5 + 3).
    si = scripted(RMSprop(0.1, rho=0.75, epsilon=3.0))
    run(si, 2.0)
    close(si.weights, [-0.1])
    run(si, 17.0**0.5)
    close(si.optimizer.velocities, [5.0])
    close(si.weights, [-0.1 - 0.1 * (17.0 / 8.0) ** 0.5])


def test_rmsprop_momentum():
    # Both increments 0.1; m = 0.1, then 0.5 * 0.1 + 0.1 = 0.15.
    optimizer = RMSprop(0.1, rho=0.0, momentum=0.5, epsilon=0.0)
    si = scripted(optimizer)
    run(si, 2.0, 3.0)
    close(si.weights, [-0.25])


def test_lion():
    # g=2: step -0.1, m = 0.75 * 2 = 1.5.  g=-1: the sign is that of
    # 0.5 * 1.5 - 0.5 = 0.25, step -0.1, then m = 0.25 * 1.5 - 0.75 = -0.375.
    si = scripted(Lion(0.1, beta_1=0.5, beta_2=0.25))
    run(si, 2.0, -1.0)
    close(si.optimizer.momentums, [-0.375])
    close(si.weights, [-0.2])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [3.0, -4.0, 0.0, 0.3, 0.4]),
        ({"clipnorm": 1.0}, [0.6, -0.8, 0.0, 0.3, 0.4]),
        ({"clipvalue": 3.5}, [3.0, -3.5, 0.0, 0.3, 0.4]),
        ({"global_clipnorm": 50.0}, [3.0, -4.0, 0.0, 0.3, 0.4]),
    ],
)
def test_clipping(options, expected):
    gradients = [np.array([3.0, -4.0]), np.zeros(1), np.array([0.3, 0.4])]
    weights = [np.zeros_like(g) for g in gradients]
    new_weights = SGD(1.0, **options).step(weights, gradients)
    close(new_weights, -np.array(expected))


def test_global_clipnorm_is_over_all_variables():
    # Common norm 5: everything shrinks by 2/5.
    gradients = [np.array([3.0]), np.array([[4.0]]), np.zeros(2)]
    weights = [np.zeros_like(g) for g in gradients]
    new_weights = SGD(1.0, global_clipnorm=2.0).step(weights, gradients)
    close(new_weights, [-1.2, -1.6, 0.0, 0.0])


def test_weight_decay_schedule_and_projection():
    weights, gradients = [np.array([2.0]), np.array([0.5])], [np.ones(1)] * 2
    # First rate 0.1: decay 2 - 2 * 0.5 * 0.1 = 1.9 and 0.475, then - 0.1.
    optimizer = SGD(lambda i: 0.1 * (i + 1), weight_decay=0.5)
    weights = optimizer.step(weights, gradients)
    close(weights, [1.8, 0.375])
    # Second rate 0.2: 1.8 - 1.8 * 0.5 * 0.2 - 0.2, 0.375 * 0.9 - 0.2.
    close(optimizer.step(weights, gradients), [1.42, 0.1375])

    def at_least_one(w):
        return np.maximum(w, 1.0)

    weights = [np.array([2.0]), np.array([0.5])]
    optimizer = SGD(1.5, project=at_least_one)
    close(optimizer.step(weights, gradients), [1.0, 1.0])
    optimizer = SGD(1.5, project=[at_least_one, None])
    close(optimizer.step(weights, gradients), [1.0, -1.0])
    close(weights, [2.0, 0.5])  # What was passed in is untouched.


# --- Path integral, importance, penalty -------------------------------------


def test_two_tasks_on_one_weight_by_hand():
    """SGD, rate 1/4, on (w - y)**2 from w = 0; c = 1/4, xi = 1/16."""
    si = ReferenceSI(Parabola(), [np.zeros(1)], SGD(0.25), 0.25, 0.0625)

    # Task 1, y = 1.  Step 1: g = 2 * (0 - 1) = -2, w = 0 + 0.25 * 2 = 0.5,
    # omega = -(-2) * 0.5 = 1.  Omega is still 0, so is the penalty.
    assert si.train_step(None, 1.0) == {"task_loss": 1.0, "penalty": 0.0}
    close(si.weights, [0.5])
    close(si.path_integral, [1.0])
    # Step 2: g = 2 * (0.5 - 1) = -1, w = 0.75, omega = 1 + 1 * 0.25.
    assert si.train_step(None, 1.0) == {"task_loss": 0.25, "penalty": 0.0}
    close(si.weights, [0.75])
    close(si.path_integral, [1.25])
    close(si.reference, [0.0])

    # Omega = 1.25 / ((0.75 - 0)**2 + 0.0625) = 1.25 / 0.625 = 2.
    si.consolidate()
    close(si.importance, [2.0])
    close(si.path_integral, [0.0])
    close(si.reference, [0.75])

    # Task 2, y = 0.  Step 1: loss 0.75**2, penalty 0 at theta~; g = 1.5,
    # w = 0.75 - 0.25 * 1.5 = 0.375, omega = 1.5 * 0.375.
    assert si.train_step(None, 0.0) == {"task_loss": 0.5625, "penalty": 0.0}
    close(si.weights, [0.375])
    close(si.path_integral, [0.5625])
    # Step 2: loss 0.375**2 = 0.140625, penalty 0.25 * 2 * 0.375**2 =
    # 0.0703125.  g = 0.75; penalty gradient 2 * 0.25 * 2 * -0.375 = -0.375;
    # w = 0.375 - 0.25 * (0.75 - 0.375) = 0.28125, a step of -0.09375;
    # omega = 0.5625 + 0.75 * 0.09375: the task's gradient alone.
    logs = si.train_step(None, 0.0)
    assert logs == {"task_loss": 0.140625, "penalty": 0.0703125}
    close(si.weights, [0.28125])
    close(si.path_integral, [0.6328125])

    # Omega = 2 + 0.6328125 / ((0.28125 - 0.75)**2 + 0.0625), the divisor
    # being 0.2197265625 + 0.0625 = 0.2822265625.
    si.consolidate()
    assert si.importance[0][0] == pytest.approx(4.2422145, abs=1e-7)
    close(si.reference, [0.28125])
    assert si.penalty() == 0.0


def test_path_integral_sees_the_real_step():
    # Momentum: steps -1 and 0.5 * -1 + 0.25 = -0.25, the second one against
    # its own gradient: omega = 1 * 1 + (-0.25) * 0.25.
    si = scripted(SGD(1.0, momentum=0.5))
    run(si, 1.0, -0.25)
    close(si.weights, [-1.25])
    close(si.path_integral, [0.9375])

    # Clipping: g = 4 counts in full, the step is that of the clipped 1.
    si = scripted(SGD(0.1, clipvalue=1.0))
    run(si, 4.0)
    close(si.weights, [-0.1])
    close(si.path_integral, [0.4])

    # Decoupled weight decay: 2 - 2 * 0.5 * 0.1 - 0.1 * 3, a step of -0.4.
    si = scripted(SGD(0.1, weight_decay=0.5), weights=[2.0])
    run(si, 3.0)
    close(si.weights, [1.6])
    close(si.path_integral, [1.2])

    # Constraint: 0.05 - 0.1 is cut to 0, a step of -0.05.
    si = scripted(
        SGD(0.1, project=lambda w: np.maximum(w, 0.0)), weights=[0.05]
    )
    run(si, 1.0)
    close(si.weights, [0.0])
    close(si.path_integral, [0.05])


def test_clipping_acts_on_the_total_gradient():
    # Penalty gradient 2 * 0.5 * 3 * (2 - 0) = 6, total 5, clipped to 4.
    si = scripted(SGD(0.25, clipvalue=4.0), weights=[2.0], strength=0.5)
    si.importance, si.reference = [np.array([3.0])], [np.zeros(1)]
    run(si, -1.0)
    close(si.weights, [1.0])
    close(si.path_integral, [-1.0])  # -(-1) * (1 - 2)


def test_l2_belongs_to_the_task():
    # Output 2 = target: the task gradient is that of 0.25 * k**2 alone, 1.
    # Rate 0.5: the kernel steps by -0.5, the bias not at all.
    network = Network("relu", "mse", l2=0.25)
    weights = [np.array([[2.0]]), np.zeros(1)]
    si = ReferenceSI(network, weights, SGD(0.5), 1.0, 0.1)
    logs = si.train_step(np.ones((1, 1)), np.array([2.0]))
    assert logs == {"task_loss": 1.0, "penalty": 0.0}
    close(si.weights, [1.5, 0.0])
    close(si.path_integral, [0.5, 0.0])


def set_task(si, path_integral):
    """As after a task that moved every weight by 0.5."""
    si.path_integral = [np.array(path_integral)]
    si.weights = [si.reference[0] + 0.5]


def test_importance_is_rectified_as_a_running_sum():
    # xi = 0.25 and drift 0.5: omega is divided by 0.25 + 0.25 = 0.5.
    si = ReferenceSI(Scripted(), [np.zeros(4)], SGD(), 1.0, 0.25)
    set_task(si, [1.0, 1.0, -1.0, 0.0])
    si.consolidate()
    close(si.importance, [2.0, 2.0, 0.0, 0.0])  # -2 is cut to 0

    # A negative task takes from what is there (not relu of its own term,
    # which would leave the first at 2), down to 0 and no further; and what
    # was cut before is not owed now (the third is 1, not 1 - 2).
    set_task(si, [-0.5, -1.5, 0.5, 0.0])
    si.consolidate()
    close(si.importance, [1.0, 0.0, 1.0, 0.0])
    close(si.path_integral, [0.0, 0.0, 0.0, 0.0])
    close(si.reference, [1.0, 1.0, 1.0, 1.0])

    set_task(si, [0.5, 0.5, 0.5, 0.5])
    si.consolidate()
    close(si.importance, [2.0, 1.0, 2.0, 1.0])


def test_negative_path_integral_from_training():
    # Task 1: step -1, omega = 1, Omega = 1 / (1 + 1) = 0.5 (xi = 1).
    # Task 2: the momentum -1 halves to -0.5, plus 0.25, so w moves by -0.25
    # against g = -0.25: omega = -0.0625, Omega = 0.5 - 0.0625 / 1.0625.
    si = scripted(SGD(1.0, momentum=0.5))
    run(si, 1.0)
    si.consolidate()
    close(si.importance, [0.5])
    run(si, -0.25)
    close(si.path_integral, [-0.0625])
    si.consolidate()
    close(si.importance, [0.5 - 1.0 / 17.0])

    # The same second step as a first task: 0, not -1/17.
    si = scripted(SGD(1.0, momentum=0.5))
    run(si, 1.0)
    si.path_integral, si.reference = [np.zeros(1)], [np.array([-1.0])]
    run(si, -0.25)
    si.consolidate()
    close(si.importance, [0.0])


def test_penalty_by_hand():
    # 0.5 * (4 * 1**2 + 1 * (-3)**2 + 2 * 0.5**2) = 0.5 * 13.5, no other 1/2.
    weights = [np.array([1.0, -2.0]), np.array([[0.5]])]
    si = ReferenceSI(Scripted(), weights, SGD(), 0.5, 0.1)
    si.importance = [np.array([4.0, 1.0]), np.array([[2.0]])]
    si.reference = [np.array([0.0, 1.0]), np.array([[0.0]])]
    assert si.penalty() == 6.75
    close(si.penalty_gradients(), [4.0, -3.0, 1.0])


def test_penalty_gradient_is_the_gradient_of_the_penalty():
    si = ReferenceSI(
        Scripted(), random_weights([3, 4, 2], seed=2), SGD(), 0.7, 0.1
    )
    si.importance = [w**2 for w in random_weights([3, 4, 2], seed=3)]
    si.reference = random_weights([3, 4, 2], seed=4)
    numeric = finite_differences(si.penalty, si.weights)
    np.testing.assert_allclose(
        flat(si.penalty_gradients()), flat(numeric), rtol=1e-6, atol=1e-8
    )


def test_untracked_weights_are_trained_but_carry_no_state():
    si = scripted(
        SGD(0.1), weights=[1.0, 2.0], strength=1.0, tracked=[False, True]
    )
    run(si, 5.0)
    close(si.path_integral, [0.0, 2.5])
    si.consolidate()
    close(si.importance, [0.0, 2.0])  # 2.5 / (0.5**2 + 1)
    close(si.reference, [0.0, 1.5])
    run(si, 5.0)
    close(si.weights, [0.0, 1.0])
    assert si.penalty() == 0.5  # 2 * 0.5**2
    run(si, 5.0)  # Penalty gradient 2 * 2 * (1 - 1.5) = -2 on the second.
    close(si.weights, [-0.5, 0.7])


def test_weights_and_reference_are_copies():
    single, double = np.ones(1, np.float32), np.ones(1)
    si = ReferenceSI(Scripted(), [single, double], SGD(0.1), 1.0, 0.1)
    assert [w.dtype for w in si.weights] == [np.float64, np.float64]
    double[0] = 9.0
    close(si.weights, [1.0, 1.0])
    si.weights[0][0] = 5.0
    close(si.reference, [1.0, 1.0])


# --- Gradient accumulation --------------------------------------------------


def test_accumulation_by_hand():
    # Micro-batch gradients 1 and 3: mean 2, a step of -0.2, omega = 0.4.
    si = scripted(SGD(0.1), accumulation=2)
    run(si, 1.0)
    close(si.weights, [0.0])
    close(si.path_integral, [0.0])
    run(si, 3.0)
    close(si.weights, [-0.2])
    close(si.path_integral, [0.4])
    # The buffer starts empty again: mean of 0 and 2.
    run(si, 0.0, 2.0)
    close(si.weights, [-0.3])
    close(si.path_integral, [0.5])


def test_accumulation_means_the_total_gradient_then_clips():
    # Penalty gradient 2 * 0.5 * 3 * 2 = 6 on both micro-batches; totals 3 and
    # 9, mean 6, clipped to 5.  (Clipped one by one: (3 + 5) / 2 = 4.)
    # omega = -mean(-3, 3) * -1 = 0.
    options = {"weights": [2.0], "strength": 0.5, "accumulation": 2}
    si = scripted(SGD(0.2, clipvalue=5.0), **options)
    si.importance, si.reference = [np.array([3.0])], [np.zeros(1)]
    run(si, -3.0)
    assert si.penalty() == 6.0
    run(si, 3.0)
    close(si.weights, [1.0])
    close(si.path_integral, [0.0])


def test_accumulation_counts_steps_for_adam_and_batches_for_schedules():
    si = scripted(
        Adam(1.0, beta_1=0.5, beta_2=0.75, epsilon=0.0), accumulation=2
    )
    run(si, 1.0, 3.0, 4.0, 4.0)  # Means 2 and 4, as in test_adam.
    assert si.weights[0][0] == pytest.approx(-2.0116283, abs=1e-7)
    assert (si.optimizer.iterations, si.optimizer.batches) == (2, 4)

    # Batches number 1 and 3 take the steps: rates 0.1 and 0.3.
    si = scripted(SGD(lambda i: 0.1 * i), accumulation=2)
    run(si, 1.0, 1.0, 1.0, 1.0)
    close(si.weights, [-0.4])


def test_accumulation_of_halves_is_the_whole_batch():
    network = Network("tanh", "cross_entropy", l2=0.01)
    x, y = task("cross_entropy")
    weights = random_weights([4, 5, 3], seed=5)
    whole = ReferenceSI(network, weights, Adam(0.05), 1.0, 0.1)
    halves = ReferenceSI(network, weights, Adam(0.05), 1.0, 0.1, 2)
    for _ in range(2):
        fit(whole, x, y, batch_size=12, epochs=3)
        fit(halves, x, y, batch_size=6, epochs=3)
        close(halves.weights, flat(whole.weights))
        close(halves.path_integral, flat(whole.path_integral))
        whole.consolidate()
        halves.consolidate()


# --- The training loop, and the method as a whole ---------------------------


def test_fit_logs_by_hand():
    # Batches (1, 3) and (5).  Penalty 2 * w**2, its gradient 4 * w.
    si = scripted(SGD(0.1), weights=[1.0], strength=0.5)
    si.importance, si.reference = [np.array([4.0])], [np.zeros(1)]
    x = np.array([1.0, 3.0, 5.0])
    first, second = fit(si, x, x, batch_size=2, epochs=2)
    # Epoch 1, w = 1: task loss 2, penalty 2, then w -= 0.1 * (2 + 4);
    # w = 0.4: task loss 5 * 0.4, penalty 2 * 0.16, then w -= 0.1 * (5 + 1.6).
    assert first["si_penalty"] == pytest.approx((2 * 2.0 + 0.32) / 3)
    assert first["loss"] == pytest.approx((2 * 4.0 + 2.32) / 3)
    # Epoch 2, w = -0.26: task loss -0.52, w -= 0.1 * (2 - 1.04); w = -0.356:
    # task loss -1.78, w -= 0.1 * (5 - 1.424).
    penalties = 2 * 0.26**2, 2 * 0.356**2
    total = 2 * penalties[0] + penalties[1]
    assert second["si_penalty"] == pytest.approx(total / 3)
    assert second["loss"] == pytest.approx((2 * -0.52 - 1.78 + total) / 3)
    close(si.weights, [-0.7136])


def test_fit_passes_sample_weights():
    # Zero weight on the second sample: loss (2**2 * 3 + 0) / 2 = 6.
    weights = [np.zeros((1, 1)), np.zeros(1)]
    si = ReferenceSI(Network("relu", "mse"), weights, SGD(0.0), 1.0, 0.1)
    x, y = np.zeros((2, 1)), np.array([2.0, 9.0])
    history = fit(si, x, y, 2, 1, sample_weight=np.array([3.0, 0.0]))
    assert history == [{"loss": 6.0, "si_penalty": 0.0}]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_path_integral_sums_to_the_fall_of_the_task_loss(loss):
    """Small full-batch steps: sum of omega is the task loss's fall.

    That is so on a second task too, when the penalty bends the path.
    """
    network = Network("tanh", loss, l2=0.001)
    si = ReferenceSI(
        network, random_weights([4, 6, 3], seed=6), SGD(0.005), 0.3, 0.01
    )
    for seed in (0, 1):
        x, y = task(loss, seed=seed)
        start = network.loss_and_gradients(si.weights, x, y)[0]
        fit(si, x, y, batch_size=len(x), epochs=400)
        fall = start - network.loss_and_gradients(si.weights, x, y)[0]
        assert fall > 0.05
        total = sum(np.sum(omega) for omega in si.path_integral)
        assert total == pytest.approx(fall, rel=0.01)
        si.consolidate()
