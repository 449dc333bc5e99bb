"""The metrics against values computed by hand."""

import numpy as np
import pytest

from keras_si import metrics

NAN = np.nan
METRICS = [
    *(metrics.average_accuracy, metrics.backward_transfer, metrics.forgetting),
]

# Three tasks. By hand:
#   ACC after 0, 1, 2: 0.9; (0.5 + 0.8) / 2 = 0.65; (0.6 + 0.7 + 0.95) / 3
#   BWT: ((0.6 - 0.9) + (0.7 - 0.8)) / 2 = -0.2
#   F:   ((max(0.9, 0.5) - 0.6) + (0.8 - 0.7)) / 2 = 0.2
THREE = [[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.6, 0.7, 0.95]]


@pytest.mark.parametrize(
    "after, expected", [(None, 0.75), (0, 0.9), (1, 0.65), (2, 0.75)]
)
def test_average_accuracy_is_the_mean_of_a_row(after, expected):
    assert metrics.average_accuracy(THREE, after) == pytest.approx(expected)


def test_average_accuracy_ignores_the_tasks_not_met_yet():
    # 0.1 is what an untrained task scores; it is not part of ACC.
    full = [[0.9, 0.1, 0.1], [0.5, 0.8, 0.1], [0.6, 0.7, 0.95]]
    assert metrics.average_accuracy(full, after=1) == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("accuracy", "transfer", "forgetting"),
    [
        (THREE, -0.2, 0.2),
        # The best row of task 0 is that after task 1: (0.8 - 0.3 + 0.6 - 0.4)
        # / 2, while BWT takes the diagonal: (0.3 - 0.5 + 0.4 - 0.6) / 2.
        ([[0.5, NAN, NAN], [0.8, 0.6, NAN], [0.3, 0.4, 0.9]], -0.2, 0.35),
        # The last row is left out, and nothing clipped: 0.5 became 0.9.
        ([[0.5, NAN], [0.9, 0.7]], 0.4, -0.4),
    ],
)
def test_backward_transfer_and_forgetting(accuracy, transfer, forgetting):
    assert metrics.backward_transfer(accuracy) == pytest.approx(transfer)
    assert metrics.forgetting(accuracy) == pytest.approx(forgetting)


def test_forward_transfer():
    # ((0.2 - 0.1) + (0.4 - 0.1)) / 2
    accuracy = [[0.9, 0.2, 0.3], [0.5, 0.8, 0.4], [0.6, 0.7, 0.95]]
    baseline = [0.5, 0.1, 0.1]
    assert metrics.forward_transfer(accuracy, baseline) == pytest.approx(0.2)


def test_percent_in_percent_out():
    percent = np.array(THREE) * 100
    assert metrics.average_accuracy(percent) == pytest.approx(75)
    assert metrics.forgetting(percent) == pytest.approx(20)


def test_a_single_task_has_no_transfer():
    assert metrics.average_accuracy([[0.9]]) == 0.9
    assert np.isnan(metrics.backward_transfer([[0.9]]))
    assert np.isnan(metrics.forgetting([[0.9]]))
    assert np.isnan(metrics.forward_transfer([[0.9]], [0.1]))


def test_results_are_plain_floats_and_the_input_is_untouched():
    accuracy = np.array(THREE)
    before = accuracy.copy()
    for metric in METRICS:
        assert type(metric(accuracy)) is float
    np.testing.assert_array_equal(accuracy, before)


@pytest.mark.parametrize(
    "accuracy", [[0.1, 0.2], [[0.1, 0.2]], [], [[[0.1]]], 0.5]
)
def test_a_matrix_that_is_not_square_is_refused(accuracy):
    with pytest.raises(ValueError, match="must be a square matrix"):
        metrics.average_accuracy(accuracy)


@pytest.mark.parametrize("metric", METRICS)
def test_what_was_not_measured_is_not_averaged_over(metric):
    with pytest.raises(ValueError, match="not measured.*position"):
        metric([[0.9, NAN], [NAN, 0.8]])


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        (metrics.forgetting, ([[np.inf, NAN], [0.1, 0.2]],), "finite"),
        (metrics.forward_transfer, (THREE, [0.1] * 3), "upper diagonal"),
        (
            *(metrics.forward_transfer, (THREE, [0.1, 0.1])),
            r"shape \(3,\).*shape \(2,\)",
        ),
        (metrics.average_accuracy, (THREE, 3), "from 0 to 2"),
        (metrics.average_accuracy, (THREE, -1), "from 0 to 2"),
        (metrics.average_accuracy, (THREE, True), "index of a task"),
    ],
)
def test_bad_argument_is_refused(metric, arguments, message):
    with pytest.raises(ValueError, match=message):
        metric(*arguments)
