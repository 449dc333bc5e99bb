"""Runs side by side: figures, measures, and what makes them comparable."""

import json
import os
import pathlib
import re

import numpy as np
import pytest
from click.testing import CliRunner
from keras_si_cli import files, main
from keras_si_cli.errors import RunError
from keras_si_cli.results import compare, figures, reading, results
from keras_si_cli.training import start

NAN = np.nan


@pytest.fixture(autouse=True)
def _no_start(monkeypatch, tmp_path):
    monkeypatch.setattr(start, "import_quietly", lambda: None)
    monkeypatch.chdir(tmp_path)


def make_results(*runs, benchmark="smnist", **config):
    config = {"dataset": "mnist", "scenario": "task", "epochs": 10, **config}
    return results.Results(benchmark, {"keras_si": "1"}, "CPU", config, [*runs])


def make_run(seed=0, shift=0.0, method="si"):
    return results.Trial(
        method,
        seed,
        np.array([[0.9, 0.4], [0.8, 0.9]]) - shift,
        untrained=np.array([NAN, 0.3]),
    )


def report(*args):
    return CliRunner().invoke(main.main, ["report", *args])


def test_forward_transfer_by_hand(tmp_path):
    """0.4 before it was learned, 0.3 by the untrained net."""
    made = make_results(make_run(), make_run(seed=1, shift=0.1))
    assert made.trials[0].forward_transfer == pytest.approx(0.1)
    # 0.1 and 0.0: mean 0.05, deviation 0.1 / sqrt 2, error 0.1 / 2.
    spread = made.spread("si", "forward_transfer")
    assert spread["mean"] == pytest.approx(0.05)
    assert spread["std"] == pytest.approx(0.1 / np.sqrt(2))
    assert spread["standard_error"] == pytest.approx(0.05)
    made.save(tmp_path)
    back = reading.read(tmp_path)
    np.testing.assert_array_equal(back.trials[0].untrained, [NAN, 0.3])
    result = report(".")
    # Average accuracy 85 and 75; BWT -10 with both.
    row = next(line for line in result.stdout.splitlines() if " si " in line)
    assert " ".join(row.split()) == (
        "si 80.00 ± 5.00 -10.00 ± 0.00 5.00 ± 5.00 10.00 ± 0.00 2"
    )
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "± is one standard error of the mean" in result.stdout


def test_a_file_of_before_forward_transfer_can_be_read(tmp_path):
    record = make_results(make_run()).to_dict()
    del record["trials"][0]["untrained_accuracy"]
    files.write_json(tmp_path / "results.json", record)
    assert np.isnan(reading.read(tmp_path).trials[0].untrained).all()


@pytest.mark.parametrize(
    "untrained, problem",
    [
        ([0.1], "holds 1 number, for 2 tasks"),
        ([0.1, 2], "an accuracy is 2"),
        (None, "its accuracies are None, not a list"),
    ],
)
def test_damaged_accuracies_of_the_untrained_net(untrained, problem, tmp_path):
    record = make_results(make_run()).to_dict()
    record["trials"][0]["untrained_accuracy"] = untrained
    files.write_json(tmp_path / "results.json", record)
    with pytest.raises(RunError, match=problem):
        reading.read(tmp_path)


def test_importance_by_hand(tmp_path):
    """Mean and maximum of 1, 2, 3 and 6; what is infinite is left out."""
    run = make_run()
    run.record_importance(0, {"a/kernel": np.array([[1, 2], [3, 6]], "f4")})
    run.record_importance(1, {"a/kernel": np.array([np.inf, 1], "f4")})
    expected = {"a/kernel": {"mean": [3.0, None], "max": [6.0, None]}}
    made = make_results(run)
    made.save(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())["trials"][0]
    assert written["importance"] == expected
    back = reading.read(tmp_path).trials[0]
    assert files.as_json(back.to_dict())["importance"] == expected
    # Not of every method, and not in files of before.
    assert "importance" not in make_run().to_dict()


@pytest.mark.parametrize(
    "importance, problem",
    [
        ([], "its 'importance' is [], not an object"),
        ({"a": 3}, "it has no 'mean'"),
        ({"a": {"mean": [1, 2]}}, "it has no 'max'"),
        ({"a": {"mean": [1, 2], "max": 3}}, "its 'max' is 3, not a list"),
        ({"a": {"mean": [1], "max": [1]}}, "holds 1 number, for 2 tasks"),
        ({"a": {"mean": [1, -1]}}, "an importance is -1, expected a finite"),
        ({"a": {"mean": [1, True]}}, "an importance is True"),
        ({"a": {"mean": [1, "2"]}}, "an importance is '2'"),
        ({"a": {"mean": [1, 10**400]}}, "an importance is 1000"),
    ],
)
def test_damaged_importance_is_refused(importance, problem, tmp_path):
    record = make_results(make_run()).to_dict()
    record["trials"][0]["importance"] = importance
    files.write_json(tmp_path / "results.json", record)
    with pytest.raises(RunError, match=re.escape(problem)):
        reading.read(tmp_path)


def test_a_seed_on_its_way_is_left_out_of_the_curve():
    mean, error, many = results.curve([[0.9, 0.8], [0.7, NAN]])
    np.testing.assert_allclose(mean, [0.8, 0.8])
    # The deviation of 0.9 and 0.7 is 0.2 / sqrt 2; the error 0.1.
    np.testing.assert_allclose(error, [0.1, 0.0])
    assert many
    assert not results.curve([[0.9, NAN]])[2]


def test_the_figure_of_the_tasks_begins_where_each_is_learned(monkeypatch):
    drawn = []
    original = figures._draw

    def spy(axes, name, look, mean, error, many):
        drawn.append((axes.get_subplotspec().num1, name, mean.tolist()))
        original(axes, name, look, mean, error, many)

    monkeypatch.setattr(figures, "_draw", spy)
    made = make_results(make_run(), make_run(method="new"))
    figures.write_task_figure(made, "tasks.svg")
    assert [place[:2] for place in drawn] == [
        (0, "Synaptic Intelligence"),
        (0, "new"),
        (1, "Synaptic Intelligence"),
        (1, "new"),
    ]
    assert drawn[0][2] == pytest.approx([0.9, 0.8])
    # 0.4 was measured, but before task 2 was learned.
    assert drawn[2][2] == pytest.approx([NAN, 0.9], nan_ok=True)
    text = pathlib.Path("tasks.svg").read_text()
    for expected in ("task 1", "task 2", "split MNIST, task scenario"):
        assert f"<!-- {expected} -->" in text


@pytest.mark.parametrize("tasks, shape", [(1, 1), (6, 3), (7, 4), (10, 5)])
def test_the_figure_of_the_tasks_takes_any_number(tasks, shape, monkeypatch):
    columns = []
    original = figures.Figure.subplots

    def spy(self, *args, **kwargs):
        columns.append(args[1])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(figures.Figure, "subplots", spy)
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    run = results.Trial("si", 0, np.full((tasks, tasks), 0.5))
    figures.write_task_figure(make_results(run), "tasks.png")
    assert columns == [shape]


def test_runs_of_one_protocol_differ_in_nothing():
    one = make_results(make_run(), strength=1.0, seed=0, preset="paper")
    other = make_results(make_run(), strength=9.0, seed=7, preset="quick")
    labelled = [("a", one), ("b", other)]
    assert compare.differences(labelled) == []
    # Settings are another thing.
    assert compare.different_settings(labelled) == [
        ("strength", {"1.0": ["a"], "9.0": ["b"]})
    ]


@pytest.mark.parametrize(
    "name, one, other",
    [
        ("scenario", "task", "class"),
        ("dataset", "mnist", "fashion_mnist"),
        ("padding", 0, 2),
        ("tasks", 2, 3),
        ("epochs", 1, 2),
        ("steps", None, 20),
        ("batch_size", 64, 128),
        ("hidden", (10, 10), (10, 20)),
        ("learning_rate", 0.1, 0.2),
        ("reset_optimizer", False, True),
        ("output_weights", "glorot", "zeros"),
        ("precision", "float32", "mixed_bfloat16"),
    ],
)
def test_every_option_of_the_protocol_is_told(name, one, other):
    labelled = [
        (label, make_results(make_run(), **{name: value}))
        for label, value in (("a", one), ("b", other))
    ]
    ((told, values),) = compare.differences(labelled)
    assert told == name.replace("_", " ")
    assert sorted(values.values()) == [["a"], ["b"]]


def test_held_out_accuracy_is_not_that_of_the_test_set():
    run = make_results(make_run())
    point = make_results(make_run(), held_out=True)
    # They cannot have the same data.
    run.versions["data"], point.versions["data"] = "sha256:1", "sha256:2"
    assert compare.differences([("run", run), ("point", point)]) == [
        (
            "judged on",
            {
                "the test set": ["run"],
                "the last sixth of the training data, held out": ["point"],
            },
        )
    ]


def test_other_data_are_told():
    first, other, old = (make_results(make_run()) for _ in range(3))
    first.versions["data"] = "sha256:" + 32 * "1f"
    other.versions["data"] = "sha256:" + 32 * "2f"
    labelled = [("a", first), ("b", other), ("old", old)]
    assert compare.differences(labelled) == [
        ("data", {"sha256:1f1f1f1f1f1f": ["a"], "sha256:2f2f2f2f2f2f": ["b"]})
    ]
    # The first keras-si did not write them down; another dataset says it all.
    assert compare.differences([("a", first), ("old", old)]) == []
    other.config["dataset"] = "fashion_mnist"
    named = compare.differences([("a", first), ("b", other)])
    assert [name for name, _ in named] == ["dataset"]


def test_no_line_is_told_by_its_colour_alone():
    looks = list(figures.line_looks(["red", "blue"]))
    assert looks[0] == {"color": "red", "marker": "o", "linestyle": "-"}
    # The next red one.
    assert looks[2] == {"color": "red", "marker": "^", "linestyle": "-."}
    with figures.rc_context(figures.STYLE):
        axes = figures.Figure().add_subplot()
        drawn = [axes.plot([1, 2])[0] for _ in range(figures.NUM_LINES)]
    each = [(x.get_color(), x.get_marker(), x.get_linestyle()) for x in drawn]
    assert len({*each}) == figures.NUM_LINES


def test_settings_are_of_those_who_use_them():
    naive = make_results(make_run(method="naive"), strength=1.0, damping=1.0)
    l2 = make_results(make_run(method="l2"), strength=2.0, damping=2.0)
    si = make_results(make_run(), strength=2.0, damping=3.0)
    new = make_results(make_run(method="new"), strength=2.0, damping=4.0)
    labelled = [("naive", naive), ("l2", l2), ("si", si)]
    assert compare.different_settings(labelled) == []
    assert compare.different_settings([*labelled, ("new", new)]) == [
        ("damping", {"3.0": ["si"], "4.0": ["new"]})
    ]


def test_what_differs_is_said_in_table_and_figure():
    for folder, made in (
        ("a", make_results(make_run(), hidden=[9, 9])),
        ("b", make_results(make_run(), hidden=[9, 9], epochs=1)),
        ("c", make_results(make_run(), hidden=[9], scenario="class")),
        ("d", make_results(make_run(), hidden=[9, 9], damping=0.1)),
        ("e", make_results(make_run(), hidden=[9, 9])),
    ):
        os.mkdir(folder)
        made.save(folder)
    assert report("a", "a/").stdout == report("a").stdout
    assert "differ" not in report("a", "e").stdout
    result = report("a", "b", "c", "--output", "all.svg")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "protocols" in line)
    assert lines[start : start + 4] == [
        "The protocols differ: the numbers compare more than methods.",
        "  scenario: task in a, b; class in c",
        "  epochs: 10 in a, c; 1 in b",
        "  hidden: 9,9 in a, b; 9 in c",
    ]
    assert "settings" not in result.stdout
    assert report("a", "d").stdout.splitlines()[-2:] == [
        "The settings of the methods differ.",
        "  damping: - in a; 0.1 in d",
    ]
    figure = pathlib.Path("all.svg").read_text()
    assert "protocols differ: scenario, epochs, hidden" in figure


@pytest.mark.parametrize(
    "benchmark, config, expected",
    [
        ("smnist", {}, "split MNIST, task scenario"),
        ("pmnist", {}, "permuted MNIST"),
        (
            "scifar",
            {"dataset": "cifar10"},
            "split CIFAR (cifar10), task scenario",
        ),
        ("other", {}, "other"),
    ],
)
def test_titles_say_what_is_not_the_default(benchmark, config, expected):
    made = make_results(make_run(), benchmark=benchmark, **config)
    assert compare.title(made) == expected
