"""results.json, the tables and the figures, against numbers by hand."""

import json
import os
import xml.etree.ElementTree

import numpy as np
import pytest
import rich.console
from keras_si_cli import report, results
from keras_si_cli.errors import RunError
from matplotlib.image import imread

NAN = np.nan


def make_results(*runs):
    config = {"dataset": "mnist", "tasks": 2}
    return results.Results("pmnist", {"keras_si": "1"}, "CPU", config, [*runs])


@pytest.fixture
def two_methods():
    return make_results(
        results.Run("si", 0, np.array([[0.9, NAN], [0.8, 0.9]]), 3.0, 1.0),
        results.Run("si", 1, np.array([[0.8, NAN], [0.7, 0.8]]), 3.0, 1.0),
        results.Run("naive", 0, np.array([[0.9, NAN], [0.5, 0.9]]), 2.0, 1.0),
    )


def shown(table, width=80):
    console = rich.console.Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_json_is_the_schema(two_methods, tmp_path):
    two_methods.runs = two_methods.runs[:1]
    two_methods.write(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    run = written["runs"][0]
    numbers = {
        name: run.pop(name)
        for name in (
            "average_accuracy",
            "final_average_accuracy",
            "backward_transfer",
            "forgetting",
        )
    }
    assert written == {
        "schema": 1,
        "benchmark": "pmnist",
        "versions": {"keras_si": "1"},
        "device": "CPU",
        "config": {"dataset": "mnist", "tasks": 2},
        "runs": [
            {
                "method": "si",
                "seed": 0,
                "accuracy": [[0.9, None], [0.8, 0.9]],
                "seconds": {"train": 3.0, "evaluate": 1.0},
            }
        ],
        "summary": {
            "si": {
                "final_average_accuracy": {
                    "mean": pytest.approx(0.85),
                    "std": 0.0,
                    "n": 1,
                }
            }
        },
    }
    assert numbers["average_accuracy"] == pytest.approx([0.9, 0.85])
    assert numbers["final_average_accuracy"] == pytest.approx(0.85)
    assert numbers["backward_transfer"] == pytest.approx(-0.1)
    assert numbers["forgetting"] == pytest.approx(0.1)


def test_the_summary_is_over_seeds(two_methods):
    # si: 0.85 and 0.75; mean 0.8, sample deviation 0.05 * sqrt(2).
    spread = two_methods.spread("si", "final_average_accuracy")
    assert spread["mean"] == pytest.approx(0.8)
    assert spread["std"] == pytest.approx(0.0707106781)
    assert spread["n"] == 2


def test_a_run_on_its_way_has_nulls_and_does_not_count(tmp_path):
    run = results.Run.empty("si", 0, 3)
    run.accuracy[0, 0] = 0.9
    make_results(run).write(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["runs"][0]["average_accuracy"] == [0.9, None, None]
    assert written["runs"][0]["final_average_accuracy"] is None
    assert written["runs"][0]["forgetting"] is None
    assert written["summary"]["si"]["final_average_accuracy"] == {
        "mean": None,
        "std": None,
        "n": 0,
    }
    assert results.read(tmp_path).runs[0].tasks_done == 1


def test_a_single_task_has_null_transfer(tmp_path):
    make_results(results.Run("si", 0, np.array([[0.5]]))).write(tmp_path)
    run = json.loads((tmp_path / "results.json").read_text())["runs"][0]
    assert run["final_average_accuracy"] == 0.5
    assert run["backward_transfer"] is None
    assert run["forgetting"] is None


def test_reading_back_gives_what_was_written(two_methods, tmp_path):
    two_methods.write(tmp_path)
    for path in (tmp_path, tmp_path / "results.json"):
        back = results.read(path)
        assert back.to_dict().keys() == two_methods.to_dict().keys()
        assert back.methods == ["si", "naive"]
        for one, other in zip(back.runs, two_methods.runs, strict=True):
            np.testing.assert_array_equal(one.accuracy, other.accuracy)
            assert one.train_seconds == other.train_seconds


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{", "is damaged"),
        ("[]", "not a results file"),
        ('{"schema": "1"}', "not a results file"),
        ('{"schema": 2}', "schema 2, this keras-si reads 1; update"),
        ('{"schema": 1}', "it has no 'benchmark'"),
        ('{"schema": 1, "benchmark": "pmnist", "versions": 3}', "damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text, expected, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(RunError, match=expected) as caught:
        results.read(tmp_path)
    assert str(tmp_path / "results.json") in str(caught.value)


@pytest.mark.parametrize(
    "accuracy", [[[1, 2]], [[None, 1], [1, 1]], 3, [["a"]]]
)
def test_a_damaged_matrix_is_refused(accuracy, two_methods, tmp_path):
    record = two_methods.to_dict()
    record["runs"] = [{**record["runs"][0], "accuracy": accuracy}]
    results.write_json(tmp_path / "results.json", record)
    with pytest.raises(RunError, match="damaged"):
        results.read(tmp_path)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(RunError, match="keras-si run"):
        results.read(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        results.write_json(path, {"new": 1})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.write_json(path, {"old": 1})
    seen = []
    replace = os.replace

    def spy(source, target):
        # All is written by now, and the target is still the old one.
        seen.append((json.loads(path.read_text()), os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    results.write_json(path, {"new": 1})
    assert seen == [({"old": 1}, len('{\n "new": 1\n}\n'))]
    assert json.loads(path.read_text()) == {"new": 1}


def test_the_table_of_a_run(two_methods):
    lines = shown(report.accuracy_table(two_methods)).splitlines()
    words = [line.split() for line in lines if "%" in line]
    # si after task 1: 90 and 80; after task 2: 85 and 75.
    assert words == [
        ["1", "85.00", "±", "7.07", "%", "90.00", "%"],
        ["2", "80.00", "±", "7.07", "%", "70.00", "%"],
    ]
    assert max(map(len, lines)) <= 80


def test_the_table_of_a_run_that_has_just_begun():
    table = report.accuracy_table(make_results(results.Run.empty("si", 0, 2)))
    assert shown(table).count(" - ") == 2


def test_the_table_that_compares_runs(two_methods):
    other = make_results(results.Run.empty("naive", 0, 2))
    lines = shown(
        report.comparison_table([("one", two_methods), ("two", other)])
    ).splitlines()
    text = [" ".join(line.split()) for line in lines]
    # si: BWT is -10 with both seeds; naive: 50 - 90.
    assert "one si 80.00 ± 7.07 % -10.00 ± 0.00 % 10.00 ± 0.00 % 2" in text
    assert "one naive 70.00 % -40.00 % 40.00 % 1" in text
    assert "two naive - - - 0" in text
    assert max(map(len, lines)) <= 80


def test_the_figures_open_and_show_each_method(two_methods, tmp_path):
    report.write_figures(two_methods, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        "average_accuracy.png",
        "average_accuracy.svg",
    ]
    image = imread(tmp_path / "average_accuracy.png")
    assert image.shape[:2] == (672, 1120)
    assert image[..., :3].std() > 0.01  # Not an empty page.
    svg = xml.etree.ElementTree.parse(tmp_path / "average_accuracy.svg")
    comments = (tmp_path / "average_accuracy.svg").read_text()
    assert svg.getroot().tag.endswith("svg")
    for text in ("Synaptic Intelligence", "plain training", "permuted MNIST"):
        assert text in comments


def test_the_same_results_give_the_same_figure(two_methods, tmp_path):
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    report.write_figure([("", two_methods)], one)
    report.write_figure([("", two_methods)], other)
    assert one.read_bytes() == other.read_bytes()


def test_the_figure_draws_means_and_a_band(two_methods, monkeypatch, tmp_path):
    drawn = []
    original = report._draw

    def spy(axes, name, mean, std, many):
        drawn.append((name, mean.tolist(), std.tolist(), many))
        original(axes, name, mean, std, many)

    monkeypatch.setattr(report, "_draw", spy)
    report.write_figure([("a", two_methods)], tmp_path / "f.png")
    assert [name for name, *_ in drawn] == [
        "a: Synaptic Intelligence",
        "a: plain training",
    ]
    assert drawn[0][1] == pytest.approx([0.85, 0.8])
    assert drawn[0][2] == pytest.approx([0.0707106781] * 2)
    assert drawn[0][3] and not drawn[1][3]


def test_figures_are_removed_and_nothing_else(two_methods, tmp_path):
    report.write_figures(two_methods, tmp_path)
    (tmp_path / "notes.png").write_text("mine")
    report.remove_figures(tmp_path)
    assert os.listdir(tmp_path) == ["notes.png"]
