"""The NumPy oracle: hand-computed numbers.

Its nets and optimizers have Keras for an independent witness, in
test_parity.py. What a wrong oracle could share with a wrong keras_si is here.
"""

import functools

import numpy as np
import pytest
from reference_si import SGD, Network, ReferenceSI

RELU = functools.partial(np.maximum, 0.0)


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


def close(arrays, expected):
    actual = np.concatenate([np.ravel(a) for a in arrays])
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_two_tasks_on_one_weight():
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


@pytest.mark.parametrize(
    ("optimizer", "weight", "gradients", "after", "omega"),
    [
        # Steps -1 and 0.5 * -1 + 0.25 = -0.25, the second one against its
        # own gradient: omega = 1 * 1 + (-0.25) * 0.25.
        (SGD(1.0, momentum=0.5), 0.0, [1.0, -0.25], -1.25, 0.9375),
        # g = 4 counts in full, the step is that of the clipped 1.
        (SGD(0.1, clipvalue=1.0), 0.0, [4.0], -0.1, 0.4),
        # Decoupled decay: 2 - 2 * 0.5 * 0.1 - 0.1 * 3, a step of -0.4.
        (SGD(0.1, weight_decay=0.5), 2.0, [3.0], 1.6, 1.2),
        # 0.05 - 0.1 is cut to 0, a step of -0.05.
        (SGD(0.1, project=[RELU]), 0.05, [1.0], 0.0, 0.05),
    ],
    ids=["momentum", "clipping", "weight decay", "constraint"],
)
def test_path_integral_sees_the_real_step_and_the_whole_gradient(
    optimizer, weight, gradients, after, omega
):
    si = scripted(optimizer, weights=[weight])
    run(si, *gradients)
    close(si.weights, [after])
    close(si.path_integral, [omega])


def test_l2_belongs_to_the_task():
    # Inputs of 0: the kernel's gradient is that of 0.25 * k**2 alone, 1. The
    # probabilities are 1/2, the bias's gradient is (-1/2, 1/2).
    weights = [np.array([[2.0, 2.0]]), np.zeros(2)]
    si = ReferenceSI(Network(l2=0.25), weights, SGD(0.5), 1.0, 0.1)
    logs = si.train_step(np.zeros((1, 1)), np.array([0]))
    assert logs["task_loss"] == pytest.approx(np.log(2.0) + 2.0)
    close(si.weights, [1.5, 1.5, 0.25, -0.25])
    close(si.path_integral, [0.5, 0.5, 0.125, 0.125])


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


def test_accumulation_means_the_total_gradient_then_clips():
    # Penalty gradient 2 * 0.5 * 3 * 2 = 6 on both micro-batches; totals 4 and
    # 10, mean 7, clipped to 5.  (Clipped one by one: (4 + 5) / 2.)
    options = {"weights": [2.0], "strength": 0.5, "accumulation": 2}
    si = scripted(SGD(0.2, clipvalue=5.0), **options)
    si.importance, si.reference = [np.array([3.0])], [np.zeros(1)]
    run(si, -2.0)
    close(si.weights, [2.0])
    close(si.path_integral, [0.0])
    run(si, 4.0)
    close(si.weights, [1.0])
    close(si.path_integral, [1.0])  # -mean(-2, 4) * (1 - 2)
    # The buffer starts empty again: penalty gradient 3, totals 4 and 3.
    run(si, 1.0, 0.0)
    close(si.weights, [0.3])
    close(si.path_integral, [1.35])
