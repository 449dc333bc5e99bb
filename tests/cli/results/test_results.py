"""results.json, the tables and the figures, against numbers by hand."""

import io
import json
import os
import xml.etree.ElementTree

import numpy as np
import pytest
import rich.console
import rich.text
from click.testing import CliRunner
from keras_si_cli import errors, files, main
from keras_si_cli.errors import RunError
from keras_si_cli.methods import METHODS
from keras_si_cli.results import figures, reading, results, tables
from keras_si_cli.training import progress, run_folder, start
from matplotlib.image import imread

NAN = np.nan


def make_results(*runs):
    config = {"dataset": "mnist", "tasks": 2}
    return results.Results("pmnist", {"keras_si": "1"}, "CPU", config, [*runs])


@pytest.fixture(autouse=True)
def _no_start(monkeypatch):
    # TensorFlow is there already.
    monkeypatch.setattr(start, "import_quietly", lambda: None)


@pytest.fixture
def two_methods():
    return make_results(
        results.Trial("si", 0, np.array([[0.9, NAN], [0.8, 0.9]]), 3.0, 1.0),
        results.Trial("si", 1, np.array([[0.8, NAN], [0.7, 0.8]]), 3.0, 1.0),
        results.Trial("naive", 0, np.array([[0.9, NAN], [0.5, 0.9]]), 2.0, 1.0),
    )


def shown(table, width=80):
    console = rich.console.Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def of_one(mean):
    """What is said of one seed; a mean of `None` is not measured."""
    mean = None if mean is None else pytest.approx(mean)
    return {"mean": mean, "std": 0.0, "standard_error": None, "n": 1}


def test_the_json_is_the_schema(two_methods, tmp_path):
    two_methods.trials = two_methods.trials[:1]
    two_methods.save(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    run = written["trials"][0]
    numbers = {
        name: run.pop(name)
        for name in (
            "average_accuracy",
            "final_average_accuracy",
            "backward_transfer",
            "forward_transfer",
            "forgetting",
        )
    }
    summary = written["summary"].pop("si")
    assert written == {
        "schema": 2,
        "benchmark": "pmnist",
        "versions": {"keras_si": "1"},
        "device": "CPU",
        "config": {"dataset": "mnist", "tasks": 2},
        "trials": [
            {
                "method": "si",
                "seed": 0,
                "accuracy": [[0.9, None], [0.8, 0.9]],
                "untrained_accuracy": [None, None],
                "seconds": {"train": 3.0, "evaluate": 1.0},
            }
        ],
        "summary": {},
    }
    assert summary == {
        "final_average_accuracy": of_one(0.85),
        "backward_transfer": of_one(-0.1),
        "forward_transfer": {**of_one(None), "std": None, "n": 0},
        "forgetting": of_one(0.1),
    }
    assert numbers["average_accuracy"] == pytest.approx([0.9, 0.85])
    assert numbers["final_average_accuracy"] == pytest.approx(0.85)
    assert numbers["backward_transfer"] == pytest.approx(-0.1)
    assert numbers["forgetting"] == pytest.approx(0.1)
    assert numbers["forward_transfer"] is None


def test_the_summary_is_over_seeds(two_methods):
    # si: 0.85 and 0.75; mean 0.8, sample deviation 0.05 * sqrt(2).
    spread = two_methods.spread("si", "final_average_accuracy")
    assert spread["mean"] == pytest.approx(0.8)
    assert spread["std"] == pytest.approx(0.0707106781)
    assert spread["standard_error"] == pytest.approx(0.05)
    assert spread["n"] == 2


def test_a_run_on_its_way_has_nulls_and_does_not_count(tmp_path):
    run = results.Trial.empty("si", 0, 3)
    run.accuracy[0, 0] = 0.9
    make_results(run).save(tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["trials"][0]["average_accuracy"] == [0.9, None, None]
    assert written["trials"][0]["final_average_accuracy"] is None
    assert written["trials"][0]["forgetting"] is None
    assert written["summary"]["si"]["final_average_accuracy"] == {
        "mean": None,
        "std": None,
        "standard_error": None,
        "n": 0,
    }
    assert reading.read(tmp_path).trials[0].tasks_done == 1


def test_a_single_task_has_null_transfer(tmp_path):
    make_results(results.Trial("si", 0, np.array([[0.5]]))).save(tmp_path)
    run = json.loads((tmp_path / "results.json").read_text())["trials"][0]
    assert run["final_average_accuracy"] == 0.5
    assert run["backward_transfer"] is None
    assert run["forgetting"] is None


def test_reading_back_gives_what_was_written(two_methods, tmp_path):
    two_methods.save(tmp_path)
    for path in (tmp_path, tmp_path / "results.json"):
        back = reading.read(path)
        assert back.to_dict().keys() == two_methods.to_dict().keys()
        assert back.methods == ["si", "naive"]
        for one, other in zip(back.trials, two_methods.trials, strict=True):
            np.testing.assert_array_equal(one.accuracy, other.accuracy)
            assert one.train_seconds == other.train_seconds


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{", "is damaged"),
        ("[]", "is damaged: it holds no JSON object"),
        ('{"schema": "1"}', "not a results file"),
        ('{"schema": 3}', "schema 3, this keras-si reads 2; update"),
        ('{"schema": 2}', "it has no 'benchmark'"),
        ('{"schema": 2, "benchmark": "pmnist", "versions": 3}', "damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text, expected, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(RunError, match=expected) as caught:
        reading.read(tmp_path)
    assert str(tmp_path / "results.json") in str(caught.value)


def test_a_seed_counts_once(two_methods, tmp_path):
    record = two_methods.to_dict()
    record["trials"] *= 2
    files.write_json(tmp_path / "results.json", record)
    with pytest.raises(RunError, match="it has si with seed 0 twice"):
        reading.read(tmp_path)


def test_the_folder_of_a_search_names_what_can_be_read(two_methods, tmp_path):
    point = tmp_path / "points" / "si-strength=1.0.json"
    point.parent.mkdir()
    files.write_json(point, two_methods.to_dict())
    with pytest.raises(RunError, match="is a search; name results") as caught:
        reading.read(tmp_path)
    assert str(caught.value).endswith(str(point))
    assert len(reading.read(point).trials) == 3


def test_another_file_is_no_damaged_one(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Results")
    with pytest.raises(
        RunError, match="README.md is no results of a run; name"
    ):
        reading.read(path)
    assert path.read_text() == "# Results"


@pytest.mark.parametrize(
    "accuracy", [[[1, 2]], [[None, 1], [1, 1]], 3, [["a"]]]
)
def test_a_damaged_matrix_is_refused(accuracy, two_methods, tmp_path):
    record = two_methods.to_dict()
    record["trials"] = [{**record["trials"][0], "accuracy": accuracy}]
    files.write_json(tmp_path / "results.json", record)
    with pytest.raises(RunError, match="damaged"):
        reading.read(tmp_path)


def test_why_a_run_failed_is_kept(two_methods, tmp_path):
    two_methods.trials[0].failed = "the loss turned NaN in task 1, epoch 2"
    two_methods.save(tmp_path)
    back = reading.read(tmp_path).trials
    assert back[0].failed == "the loss turned NaN in task 1, epoch 2"
    assert back[1].failed is None


def changed(results_, **changes):
    """The results as JSON, with items of the first run replaced."""
    record = json.loads(json.dumps(results_.to_dict()).replace("NaN", "null"))
    record["trials"][0].update(changes)
    return record


def report_on(path):
    return CliRunner().invoke(main.main, ["report", os.fspath(path)])


def assert_damaged(tmp_path, problem):
    """The command says so in one line that names the file."""
    result = report_on(tmp_path)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(
        f"keras-si: error: {tmp_path / 'results.json'} is damaged: "
    )
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 400 + len(os.fspath(tmp_path))


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"accuracy": [[1.01]]}, "an accuracy is 1.01"),
        ({"accuracy": [[-0.1]]}, "an accuracy is -0.1"),
        ({"accuracy": [[True]]}, "an accuracy is True"),
        ({"accuracy": [["0.5"]]}, "an accuracy is '0.5'"),
        ({"accuracy": [[NAN]]}, "an accuracy is nan"),
        ({"accuracy": [[10**400]]}, "an accuracy is 1000"),
        ({"accuracy": []}, "not a square matrix"),
        ({"accuracy": [[0.5], [0.5, 0.5]]}, "not a square matrix"),
        ({"accuracy": {}}, "'accuracy' is {}, not a list"),
        ({"seed": float("inf")}, "'seed' is inf, not an integer"),
        ({"seed": 1.0}, "'seed' is 1.0, not an integer"),
        ({"seed": True}, "'seed' is True, not an integer"),
        ({"method": None}, "'method' is None, not a string"),
        ({"seconds": [1, 2]}, "'seconds' is [1, 2], not an object"),
        ({"seconds": {"train": 1.0}}, "seconds to 'evaluate' are None"),
        ({"seconds": {"train": 10**400}}, "seconds to 'train' are 1000"),
        ({"seconds": {"train": -1}}, "seconds to 'train' are -1"),
        ({"seconds": {"train": True}}, "seconds to 'train' are True"),
    ],
)
def test_a_damaged_run_is_refused(changes, problem, two_methods, tmp_path):
    record = changed(two_methods, **changes)
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert_damaged(tmp_path, problem)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"trials": {}}, "'trials' is {}, not a list"),
        ({"trials": [[]]}, "it has no 'seconds'"),
        ({"trials": [3]}, "it has no 'seconds'"),
        ({"trials": None}, "'trials' is None"),
        ({"benchmark": 3}, "'benchmark' is 3, not a string"),
        ({"versions": []}, "'versions' is [], not an object"),
        ({"device": False}, "'device' is False, not a string"),
        ({"started": 3}, "'started' is 3, not a string"),
        ({"started": "today"}, "'started' is 'today', expected a date"),
        # Of no zone, and of no day anywhere else.
        ({"started": "2025-01-31T12:00:00"}, "expected a date with a time and"),
        ({"started": "0001-01-01T00:00:00+23:00"}, "expected a date with"),
        ({"config": [["a", 1]]}, "'config' is [['a', 1]], not an object"),
        ({"config": {"dataset": []}}, "'dataset' is [], not a string"),
    ],
)
def test_a_damaged_record_is_refused(changes, problem, two_methods, tmp_path):
    record = {**changed(two_methods), **changes}
    (tmp_path / "results.json").write_text(json.dumps(record))
    assert_damaged(tmp_path, problem)


def test_json_that_is_nested_too_deeply_is_damaged(tmp_path):
    (tmp_path / "results.json").write_text("[" * 100_000)
    assert_damaged(tmp_path, "it is nested too deeply")


def test_bytes_that_are_no_text_are_damaged(tmp_path):
    (tmp_path / "results.json").write_bytes(b"\xff")
    assert_damaged(tmp_path, "can't decode byte 0xff")


@pytest.mark.parametrize("schema", ["true", "1.0", "0", "null", "[" * 900])
def test_only_a_whole_number_is_a_schema(schema, two_methods, tmp_path):
    schema += "]" * schema.count("[")
    text = json.dumps(changed(two_methods))
    (tmp_path / "results.json").write_text(
        text.replace('"schema": 2', f'"schema": {schema}')
    )
    result = report_on(tmp_path)
    assert result.exit_code == 1
    assert "results.json is damaged: it is not a results file" in result.stderr
    assert result.stderr.count("\n") == 1


def test_runs_with_different_numbers_of_tasks_are_damaged(
    two_methods, tmp_path
):
    two_methods.trials[1] = results.Trial("si", 1, np.array([[0.8]]))
    two_methods.save(tmp_path)
    assert_damaged(tmp_path, "different numbers of tasks, 1 and 2")


def test_folders_may_have_different_numbers_of_tasks(two_methods, tmp_path):
    short = make_results(results.Trial("si", 0, np.array([[0.8]])))
    labelled = [("long", two_methods), ("short", short)]
    assert " 80.00 " in shown(tables.comparison_table(labelled, 80))
    figures.write_figure(labelled, tmp_path / "both.svg")
    assert "short: Synaptic" in (tmp_path / "both.svg").read_text()


NAMES = ["a[b]", "[/nope]", "[red]x", ":smile:", "$\\nope$"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("run")
    folder = name.replace("/", "\N{DIVISION SLASH}")
    run = results.Trial(name, 0, np.array([[0.5]]))
    made = make_results(run)
    assert name in shown(tables.accuracy_table(made))
    made.save("run")
    os.rename("run", folder)
    result = CliRunner().invoke(
        main.main, ["report", folder, "--output", "figure.svg"]
    )
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if "50.00" in line)
    assert lines[place - 1] == folder
    assert lines[place].split()[0] == name
    assert f"{folder}: {name}" in (tmp_path / "figure.svg").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_a_run_shows_names_as_they_are(name, capsys):
    run = results.Trial(name, 0, np.array([[0.5]]))
    made = make_results(run)
    made.config["dataset"] = name
    run_folder.show(made, f"runs/{name}")
    lines = capsys.readouterr().out.splitlines()
    assert f"permuted MNIST ({name}): average" in lines[1]
    assert lines[-1] == f"results and figures: runs/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_the_live_display_shows_names_as_they_are(name):
    file = io.StringIO()
    console = rich.console.Console(file=file, force_terminal=True, width=120)
    with progress.LiveProgress(console) as live:
        live.loading(name)
        live.task_started(name, 0, 0)
        live.task_ended(results.Trial(name, 0, np.array([[0.5]])), 0, 1.0)
    text = rich.text.Text.from_ansi(file.getvalue()).plain
    assert f"{name} task 1/1" in text
    assert f"{name:<7} seed 0  task" in text


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(RunError, match="keras-si run"):
        reading.read(tmp_path)


def test_the_table_of_a_run(two_methods):
    lines = shown(tables.accuracy_table(two_methods)).splitlines()
    # si after task 1: 90 and 80; after task 2: 85 and 75.
    assert [line.split() for line in lines[2:]] == [
        ["1", "85.00", "±", "5.00", "90.00"],
        ["2", "80.00", "±", "5.00", "70.00"],
    ]


@pytest.fixture
def widest():
    """All methods, with the longest numbers that there are in practice."""
    return make_results(
        *(
            results.Trial(
                name,
                seed,
                np.array([[1.0, 0.0], [0.8 - 0.3 * seed, 1.0]]),
                untrained=np.array([NAN, 0.6 - 0.3 * seed]),
            )
            for name in METHODS
            for seed in range(2)
        )
    )


def test_no_number_is_cut_in_80_columns(widest):
    """A mean of 100 and 82.5, -20 and -50, -60 and -30; errors of 7.5, 15."""
    assert len(METHODS) == 5
    lines = shown(tables.accuracy_table(widest)).splitlines()
    assert lines[0].split() == ["task", *METHODS]
    assert lines[2].split() == ["1", *5 * "100.00 ± 0.00".split()]
    assert lines[3].split() == ["2", *5 * "82.50 ± 7.50".split()]
    label = "a-folder-with-a-name-that-is-longer-than-any-column"
    other = shown(tables.comparison_table([(label, widest)], 80)).splitlines()
    assert other[4] == label
    numbers = "82.50 ± 7.50 -35.00 ± 15.00 -45.00 ± 15.00 35.00 ± 15.00 2"
    assert [line.split() for line in other[5:]] == [
        [name, *numbers.split()] for name in METHODS
    ]
    assert max(map(len, lines + other)) <= 80


def test_with_less_room_a_number_is_broken_and_not_cut(widest):
    labelled = [("a", widest), ("b", widest)]
    for table in (
        tables.accuracy_table(widest),
        tables.comparison_table(labelled, 50),
    ):
        text = shown(table, width=50)
        assert max(map(len, text.splitlines())) <= 50
        assert text.count("±") >= 10 and "…" not in text
    assert text.count("seeds") == 2


def test_the_table_of_a_run_that_has_just_begun():
    table = tables.accuracy_table(make_results(results.Trial.empty("si", 0, 2)))
    assert [line.split()[-1] for line in shown(table).splitlines()[2:]] == [
        *"--"
    ]


def test_the_table_that_compares_runs(two_methods):
    other = make_results(results.Trial.empty("naive", 0, 2))
    lines = shown(
        tables.comparison_table([("one", two_methods), ("two", other)], 80)
    ).splitlines()
    # si: BWT is -10 with both seeds; naive: 50 - 90.
    assert [" ".join(line.split()) for line in lines[4:]] == [
        "one",
        "si 80.00 ± 5.00 -10.00 ± 0.00 - 10.00 ± 0.00 2",
        "naive 70.00 -40.00 - 40.00 1",
        "two",
        "naive - - - - 0",
    ]
    # Columns are the same in both.
    assert len({len(line) for line in (lines[2], *lines[5:7], lines[8])}) == 1


def test_the_figures_open_and_show_each_method(two_methods, tmp_path):
    figures.write_figures(two_methods, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        "accuracy_per_task.png",
        "accuracy_per_task.svg",
        "average_accuracy.png",
        "average_accuracy.svg",
    ]
    image = imread(tmp_path / "average_accuracy.png")
    assert image.shape[:2] == (707, 1120)
    assert image[..., :3].std() > 0.01  # Not an empty page.
    svg = xml.etree.ElementTree.parse(tmp_path / "average_accuracy.svg")
    comments = (tmp_path / "average_accuracy.svg").read_text()
    assert svg.getroot().tag.endswith("svg")
    for text in ("Synaptic Intelligence", "plain training", "permuted MNIST"):
        assert text in comments


def test_the_same_results_give_the_same_figure(two_methods, tmp_path):
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    figures.write_figure([("", two_methods)], one)
    figures.write_figure([("", two_methods)], other)
    assert one.read_bytes() == other.read_bytes()


def test_the_figure_draws_means_and_a_band(two_methods, monkeypatch, tmp_path):
    drawn = []
    original = figures._draw

    def spy(axes, name, look, mean, std, many):
        drawn.append((name, mean.tolist(), std.tolist(), many))
        original(axes, name, look, mean, std, many)

    monkeypatch.setattr(figures, "_draw", spy)
    figures.write_figure([("a", two_methods)], tmp_path / "f.png")
    assert [name for name, *_ in drawn] == [
        "a: Synaptic Intelligence",
        "a: plain training",
    ]
    assert drawn[0][1] == pytest.approx([0.85, 0.8])
    assert drawn[0][2] == pytest.approx([0.05] * 2)
    assert drawn[0][3] and not drawn[1][3]


@pytest.mark.parametrize(
    ("lowest", "start"),
    (
        *((0.04, 0), (0.12, 0.1), (0.5, 0.5), (0.75, 0.7), (0.83, 0.8)),
        *((0.97, 0.9), (1.0, 0.9)),
    ),
)
@pytest.mark.parametrize("draw", ("average", "per task"))
def test_the_axis_says_where_its_marks_are(lowest, start, draw):
    accuracy = np.array([[lowest, NAN], [lowest, lowest]])
    made = make_results(results.Trial("si", 0, accuracy, 3.0, 1.0))
    if draw == "average":
        figure = figures.average_figure([("", made)])
    else:
        figure = figures.task_figure(made)
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    assert axis.get_view_interval() == pytest.approx([start, 1], abs=1e-6)
    marks = {
        mark: label.get_text()
        for mark, label in zip(
            axis.get_majorticklocs(), axis.get_majorticklabels()
        )
        if start - 1e-6 < mark < 1 + 1e-6
    }
    assert 3 <= len(marks) <= 11
    for mark, text in marks.items():
        assert float(text.removesuffix("%")) == pytest.approx(100 * mark)


@pytest.mark.parametrize("draw", ("average", "per task"))
def test_the_axis_starts_below_the_band(draw):
    # A mean of 0.94, and an error of 0.06: the band goes down to 0.88.
    runs = [
        results.Trial("si", seed, np.array([[accuracy]]), 3.0, 1.0)
        for seed, accuracy in enumerate((1.0, 0.88))
    ]
    made = make_results(*runs)
    if draw == "average":
        figure = figures.average_figure([("", made)])
    else:
        figure = figures.task_figure(made)
    interval = figure.axes[0].yaxis.get_view_interval()
    assert interval == pytest.approx([0.8, 1], abs=1e-6)


def test_a_method_looks_the_same_in_every_run(two_methods):
    alone = make_results(
        results.Trial("naive", 0, np.array([[0.9, NAN], [0.8, 0.9]]), 3.0, 1.0)
    )
    with figures.rc_context(figures.STYLE):
        for draw in (
            lambda made: figures.average_figure([("", made)]),
            figures.task_figure,
        ):
            _, beside = draw(two_methods).axes[0].lines
            (line,) = draw(alone).axes[0].lines
            for look in ("color", "marker", "linestyle"):
                found = [
                    getattr(each, f"get_{look}")() for each in (line, beside)
                ]
                assert found[0] == found[1]
        # Two runs in one figure: their lines must differ.
        pair = figures.average_figure([("a", alone), ("b", alone)])
    one, other = pair.axes[0].lines
    assert one.get_color() != other.get_color()


def test_figures_are_removed_and_nothing_else(two_methods, tmp_path):
    figures.write_figures(two_methods, tmp_path)
    (tmp_path / "notes.png").write_text("mine")
    figures.remove_figures(tmp_path)
    assert os.listdir(tmp_path) == ["notes.png"]


def test_one_is_not_several():
    assert errors.counted(1, "core") == "1 core"
    assert errors.counted(0, "core") == "0 cores"
