"""Trials and results: numbers by hand, results.json, what is refused."""

import json
import os
import pathlib

import numpy as np
import pytest
from cli_helpers import invoke
from keras_si_cli import files
from keras_si_cli.results import results
from keras_si_cli.results.results import Results, Trial
from result_helpers import NAN, make_results, make_trial


def of_one(mean):
    """The spread of one seed; a mean of `None` is not measured."""
    n, std = (0, None) if mean is None else (1, 0.0)
    mean = mean and pytest.approx(mean)
    return {"mean": mean, "std": std, "standard_error": None, "n": n}


def test_results_json_has_the_schema(tmp_path):
    accuracy = np.array([[0.9, NAN], [0.8, 0.9]])
    unknown = np.array([NAN, NAN])
    made = make_results(Trial("si", 3, accuracy, unknown, 12.5, 3.0))
    made.save(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    spreads = map(of_one, (0.85, -0.1, None, 0.1))
    assert written == {
        "schema": 2,
        "benchmark": "smnist",
        "versions": {"keras_si": "1"},
        "device": "CPU",
        "config": made.config,
        "started": "2025-01-31T23:59:59+00:00",
        "command": "keras-si run smnist",
        "resumed_with": [],
        "trials": [
            {
                "method": "si",
                "seed": 3,
                "accuracy": [[0.9, None], [0.8, 0.9]],
                "untrained_accuracy": [None, None],
                "average_accuracy": [0.9, pytest.approx(0.85)],
                "final_average_accuracy": pytest.approx(0.85),
                "backward_transfer": pytest.approx(-0.1),
                "forward_transfer": None,
                "forgetting": pytest.approx(0.1),
                "seconds": {"train": 12.5, "evaluate": 3.0},
            }
        ],
        "summary": {"si": dict(zip(results.MEASURES, spreads))},
    }


def test_forward_transfer_is_accuracy_before_a_task_less_the_untrained():
    # 0.4 before task 2 was learned, 0.3 by the untrained net.
    trial = make_trial()
    assert trial.measures["forward_transfer"] == pytest.approx(0.1)
    trial.untrained[1] = NAN
    assert np.isnan(trial.measures["forward_transfer"])


def test_spread_of_two_seeds_has_sample_deviation_and_standard_error():
    # Finals of 0.85 and 0.75: deviation 0.1 / sqrt 2, error 0.1 / 2.
    unfinished = Trial.empty("si", 2, 2)
    unfinished.accuracy[0, 0] = 0.1
    assert unfinished.tasks_done == 1 and not unfinished.is_over
    assert unfinished.average_accuracy == [0.1, pytest.approx(NAN, nan_ok=True)]
    assert np.isnan(unfinished.measures["forgetting"])
    trials = (make_trial(), make_trial(seed=1, shift=0.1), unfinished)
    spread = make_results(*trials).spread("si", "final_average_accuracy")
    assert spread["mean"] == pytest.approx(0.8)
    assert spread["std"] == pytest.approx(0.0707106781)
    assert spread["standard_error"] == pytest.approx(0.05)
    assert spread["n"] == 2


def test_curve_leaves_out_a_seed_where_it_has_not_come_to():
    mean, error, many = results.curve([[0.9, 0.8], [0.7, NAN]])
    np.testing.assert_allclose(mean, [0.8, 0.8])
    # The deviation of 0.9 and 0.7 is 0.2 / sqrt 2; the error 0.1.
    np.testing.assert_allclose(error, [0.1, 0.0])
    assert many
    assert not results.curve([[0.9, NAN]])[2]


def test_importance_has_mean_and_maximum_and_no_infinity():
    trial = make_trial()
    # In float32 the sum would be the first one alone.
    large = np.array([[2**24, 1], [1, 1]], "f4")
    trial.record_importance({"a/kernel": large})
    trial.record_importance({"a/kernel": np.array([np.inf, 1], "f4")})
    assert files.as_json(trial.to_dict())["importance"] == {
        "a/kernel": {"mean": [2**22 + 0.75, None], "max": [2**24, None]}
    }
    assert "importance" not in make_trial().to_dict()


@pytest.mark.parametrize("where", ("", "results.json"))
def test_load_returns_what_was_saved(where, tmp_path):
    trial = make_trial(failed="the loss turned NaN in task 1, epoch 2")
    trial.record_importance({"a": np.array([1.0, 3.0])})
    made = make_results(trial, make_trial("naive"), Trial.empty("naive", 1, 2))
    made.resumed_with = [{"versions": {"keras_si": "2"}, "device": "GPU"}]
    made.save(tmp_path)
    back = Results.load(tmp_path / where)
    assert files.as_json(back.to_dict()) == files.as_json(made.to_dict())
    np.testing.assert_array_equal(back.trials[1].untrained, [NAN, 0.3])
    assert back.trials[0].is_over and not back.trials[2].is_over


def damaged(versions=None, **changes):
    record = make_results(make_trial(), versions=versions).to_dict()
    record["trials"][0].update(changes)
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"{", "is damaged: Expecting property name"),
        (b"{}", "results.json is damaged: it has schema None, expected 2; "),
        (b'{"schema": 3}', "schema 3, expected 2"),
        (b'{"schema": 2}', "KeyError('config')"),
        (damaged(accuracy=[[90, 50], [50, 50]]), "no (2, 2) fractions of 1"),
        (damaged(accuracy=[[0.9]]), "no (2, 2) fractions of 1"),
        (damaged(untrained_accuracy=None), "no (2,) fractions of 1"),
        (damaged(versions=3), "3 is no dict"),
        (damaged(seconds=3), "name a folder that `keras-si run` has written"),
        (None, "results.json: Is a directory; name a folder"),
    ],
)
def test_report_names_a_file_that_is_no_results_file(content, problem):
    path = pathlib.Path("results.json")
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    result = invoke("report", ".", "--html", "page.html")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Error: {path}" in result.stderr and problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir() == ["results.json"]
