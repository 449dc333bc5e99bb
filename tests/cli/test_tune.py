"""The search: its grid, what it is judged on, its folder and its processes."""

import json
import math
import os
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import start as start_program
from keras_si_cli import (
    engines,
    files,
    grid,
    main,
    options,
    search_report,
    tune,
)
from keras_si_cli.errors import OptionError, RunError
from keras_si_cli.experiments import data
from keras_si_cli.results import results
from keras_si_cli.training import output, runner, start
from matplotlib.image import imread

GIVEN = {
    "seed": 0,
    "seeds": 1,
    "precision": "float32",
    "jit": "auto",
}


def points(*methods, strengths=(), dampings=(), **given):
    given = {**GIVEN, "methods": methods, **given}
    return grid.points("smnist", "paper", given, strengths, dampings)


def names(made):
    return [point.name for point in made]


def accuracy_of(config):
    """What a made-up search finds: best at strength 1, damping 0.01."""
    shortfall = abs(math.log10(config.strength))
    shortfall += abs(math.log10(config.damping) + 2) / 2
    return 0.9 - shortfall / 10


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Replaces the training; lists the configurations it was asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "import_quietly", lambda threads=None: None)
    calls = []

    def held_out(config, checksum=None):
        calls.append(config)
        runs = [
            results.Trial(
                config.methods[0], seed, np.array([[accuracy_of(config)]])
            )
            for seed in range(config.seeds)
        ]
        versions = {"data": "sha256:made-up"}
        return results.Results(
            "smnist", versions, "CPU", config.to_dict(), runs
        ).to_dict()

    monkeypatch.setattr(tune, "held_out", held_out)
    return calls


@pytest.fixture
def diverges(asked, monkeypatch):
    """Makes one seed diverge, for the configurations that a test names."""
    finished = tune.held_out

    def make(seed, is_one=lambda config: True):
        def held_out(config, checksum):
            record = finished(config)
            if is_one(config):
                run = results.Trial.empty("si", seed, 1)
                run.failed = "it diverged"
                record["trials"][seed] = run.to_dict()
            return record

        monkeypatch.setattr(tune, "held_out", held_out)

    return make


def invoke(*args):
    return CliRunner().invoke(main.main, ["tune", "smnist", *args])


def test_the_grid_is_every_strength_with_every_damping():
    made = points("si", strengths=(0.1, 1.0), dampings=(0.01, 0.1))
    assert names(made) == [
        "si strength 0.1 damping 0.01",
        "si strength 0.1 damping 0.1",
        "si strength 1 damping 0.01",
        "si strength 1 damping 0.1",
    ]
    for point, config in made.items():
        assert (config.strength, config.damping) == (
            point.strength,
            point.damping,
        )
        assert config.methods == ("si",)
    assert (
        next(iter(made)).command == "--method si --strength 0.1 --damping 0.01"
    )
    assert next(iter(made)).file == "si-strength=0.1-damping=0.01.json"


def test_what_is_not_given_is_the_presets_own_and_only_what_is_used():
    made = points("si", "l2", "naive", strengths=(3.0, 9.0))
    assert names(made) == [
        *("si strength 3 damping 0.001", "si strength 9 damping 0.001"),
        *("l2 strength 3", "l2 strength 9", "naive"),
    ]


def test_the_edge_of_the_grid():
    made = points("si", strengths=(1, 2, 3), dampings=(0.1,))
    low, middle, high = made
    assert grid.at_the_edge(low, made) == ["strength 1 is the smallest tried"]
    assert grid.at_the_edge(middle, made) == []
    assert grid.at_the_edge(high, made) == ["strength 3 is the largest tried"]


@pytest.mark.parametrize(
    "args, expected",
    [
        (["--strength", "1", "2", "--tasks", "3"], "-s 1 -s 2 --tasks 3"),
        (["--strength=1", "2", "-1"], "--strength=1 -s 2 -s -1"),
        (["--strength", "1", "--strength", "2"], "-s 1 -s 2"),
        (
            ["--strength", "1", "2", "--damping", "3", "4"],
            "-s 1 -s 2 -d 3 -d 4",
        ),
        (["--strength", "x"], "-s x"),
        (["--tasks", "3", "4"], "--tasks 3 4"),
    ],
)
def test_several_values_are_read_one_by_one(args, expected):
    command = options.SeveralValues("tune")
    expected = expected.replace("-s ", "--strength ").replace(
        "-d ", "--damping "
    )
    assert " ".join(command._one_by_one(args)) == expected


@pytest.mark.parametrize(
    "args, expected",
    [
        ("--jobs 0", "--jobs: received 0, expected 1 or more"),
        ("--strength 1 -1", "--strength: received -1.0, expected a finite"),
        ("--strength 1 nan", "--strength: received nan"),
        ("--damping 0", "--damping: received 0.0, expected a finite number ab"),
        ("--strength 1 x", "Got unexpected extra argument (x)"),
        (
            "--strength 1 2 1",
            "--strength: received 1.0, 2.0, 1.0, expected each value once",
        ),
        ("--method naive --strength 1", "--strength: means nothing to naive"),
        ("--method l2 --damping 1", "--damping: means nothing to l2"),
        ("--tasks 6", "--tasks: received 6, expected at most 5"),
        (
            "--output full",
            "--output: full is not empty and holds no search; name",
        ),
    ],
)
def test_a_wrong_option_is_named_in_one_line(
    asked, monkeypatch, args, expected
):
    is_installed = "RAY_ADDRESS" in expected
    monkeypatch.setitem(
        sys.modules, "ray", types.ModuleType("ray") if is_installed else None
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    os.mkdir("full")
    pathlib.Path("full/notes.txt").write_text("mine")
    result = invoke(*args.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert os.listdir() == ["full"]
    assert os.listdir("full") == ["notes.txt"]
    assert asked == []


GRID = ("--strength", "0.1", "1", "--damping", "0.01", "0.1")


def test_a_search_ends_with_the_best_a_table_and_a_heat_map(asked):
    result = invoke(*GRID, "--output", "search")
    assert result.exit_code == 0, result.stderr
    # Made up: 0.9 - 0.1, 0.05 less for damping 0.1.
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "4 settings to try"
    assert lines[1] == "1/4 si strength 0.1 damping 0.01 average 80.00 %"
    assert "si 0.1 0.01 80.00 %" in lines
    assert "si 0.1 0.1 75.00 %" in lines
    assert "si 1 0.01 90.00 % best" in lines
    assert "si 1 0.1 85.00 %" in lines
    best = lines.index("best: --method si --strength 1.0 --damping 0.01")
    assert lines[best + 1 : best + 3] == [
        "on the test set, in a new run:",
        # c = 1 is the preset's.
        "keras-si run smnist --preset quick --method si --damping 0.01",
    ]
    assert any("strength 1 is the largest tried" in line for line in lines)
    assert max(map(len, result.stdout.splitlines())) <= 80
    record = json.loads(pathlib.Path("search/search.json").read_text())
    assert record["best"] == [
        {"method": "si", "strength": 1.0, "damping": 0.01}
    ]
    assert [p["final_average_accuracy"]["mean"] for p in record["points"]] == (
        pytest.approx([0.8, 0.75, 0.9, 0.85])
    )
    assert "held out" in record["judged_on"]
    assert imread("search/heat_map.png")[..., :3].std() > 0.01
    figure = pathlib.Path("search/heat_map.svg").read_text()
    for text in ("80.00", "75.00", "90.00", "85.00", "strength c"):
        assert f"<!-- {text} -->" in figure
    for text in ("split MNIST, task scenario", "held-out training data"):
        assert text in figure


def test_what_is_finished_is_not_run_again(asked):
    assert invoke(*GRID, "--output", "search").exit_code == 0
    wider = ("--strength", "0.1", "1", "10", *GRID[3:], "--output", "search")
    result = invoke(*wider)
    assert result.exit_code == 0, result.stderr
    assert [(c.strength, c.damping) for c in asked[4:]] == [
        *((10.0, 0.01), (10.0, 0.1)),
    ]
    assert result.stdout.startswith(
        "6 settings to try, 4 of them done already\n"
    )
    assert "best: --method si --strength 1.0" in result.stdout
    # Nothing is left to do: the table is shown again.
    assert "90.00 %" in invoke(*wider).stdout
    assert len(asked) == 6


def test_more_values_are_set_beside_those_of_before(asked):
    """Made up: 0.8 at strength 10, which is not the best of all five."""
    assert invoke(*GRID, "--output", "search").exit_code == 0
    more = ("--strength", "10", "--damping", "0.01", "--output", "search")
    result = invoke(*more)
    assert result.exit_code == 0, result.stderr
    assert len(asked) == 5
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "1 setting to try"
    assert lines[1] == "1/1 si strength 10 damping 0.01 average 80.00 %"
    assert "si 1 0.01 90.00 % best" in lines
    assert "best: --method si --strength 1.0 --damping 0.01" in lines
    assert not any("strength 1 is the largest" in line for line in lines)
    record = files.read_json("search/search.json")
    assert [(p["strength"], p["damping"]) for p in record["points"]] == [
        *((0.1, 0.01), (0.1, 0.1), (1.0, 0.01), (1.0, 0.1), (10.0, 0.01)),
    ]
    assert record["best"][0]["strength"] == 1.0
    figure = pathlib.Path("search/heat_map.svg").read_text()
    assert figure.count("<!-- 80.00 -->") == 2


def test_each_method_has_a_best_setting_of_its_own(asked):
    """Of l2, whose damping is the preset's 0.001: 0.85 and 0.75."""
    methods = ("--method", "si", "--method", "l2")
    result = invoke(*methods, "--strength", "1", "10", "--output", "search")
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "si 1 0.001 85.00 % best" in lines
    assert "l2 1 - 85.00 % best" in lines
    assert "best: --method l2 --strength 1.0" in lines
    assert lines.count("on the test set, in a new run:") == 2
    assert (
        lines.count(
            "strength 1 is the smallest tried: there may be better ones beyond"
        )
        == 2
    )


def test_a_heat_map_has_strengths_across_and_dampings_upwards(asked):
    """The made-up accuracies are all different."""
    made = points("si", strengths=(10.0, 1.0), dampings=(0.1, 0.01, 0.001))
    search = tune.Search("search", made)
    os.mkdir("search")
    search.run()
    np.testing.assert_allclose(
        search_report.heat(search, "si"),
        [[0.85, 0.75], [0.9, 0.8], [0.85, 0.75]],
    )
    drawn = []
    figure = pathlib.Path("search/heat_map.svg")
    search_report.write_heat_map(search)
    # Text is drawn at its place: y grows downwards in SVG.
    for part in figure.read_text().split("<!-- ")[1:]:
        text, rest = part.split(" -->", 1)
        x, y = rest.split("translate(")[1].split(")")[0].split()[:2]
        drawn.append((text, float(x), float(y)))
    values = [at for at in drawn if at[0] in ("90.00", "80.00")]
    (best, x_best, y_best), (_, x_other, y_other) = sorted(values, reverse=True)
    assert x_best < x_other and y_best == y_other
    ticks = {text: y for text, x, y in drawn if x < x_best - 20}
    assert ticks["0.1"] < ticks["0.01"] < ticks["0.001"]
    assert abs(ticks["0.01"] - y_best) < 10


def test_an_interrupted_search_goes_on(asked, monkeypatch):
    finished = tune.held_out

    def interrupted(config, checksum):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return finished(config)

    monkeypatch.setattr(tune, "held_out", interrupted)
    result = invoke(*GRID, "--output", "search")
    assert result.exit_code == 130
    assert result.stderr == (
        "keras-si: error: interrupted; to go on: the same command with "
        "--output search\n"
    )
    monkeypatch.setattr(tune, "held_out", finished)
    assert invoke(*GRID, "--output", "search").exit_code == 0
    assert len(asked) == 4
    assert len({(c.strength, c.damping) for c in asked}) == 4


def test_a_search_killed_after_its_first_point_goes_on(asked, monkeypatch):
    """Whenever it is: a point is never without the record of its search."""
    written = []
    original = files.write_json

    def write(path, record):
        original(path, record)
        written.append(pathlib.Path(path).name)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_json", write)
    assert invoke(*GRID, "--output", "search").exit_code == 130
    assert written == ["search.json", "si-strength=0.1-damping=0.01.json"]
    monkeypatch.setattr(files, "write_json", original)
    # Nothing is left of this grid: the record is made whole all the same.
    one = ("--strength", "0.1", "--damping", "0.01", "--output", "search")
    assert invoke(*one).exit_code == 0
    (point,) = files.read_json("search/search.json")["points"]
    assert point["final_average_accuracy"]["mean"] == pytest.approx(0.8)
    result = invoke(*GRID, "--output", "search")
    assert result.exit_code == 0, result.stderr
    assert len(asked) == 4


def test_a_search_that_goes_on_is_as_quiet_as_a_new_one(asked):
    """In a process of its own, where TensorFlow has not started yet."""
    one = ("--strength", "1", "--damping", "0.01", "--output", "search")
    assert invoke(*one).exit_code == 0
    again = start_program("-m", "keras_si_cli", "tune", "smnist", *one)
    out, error = again.communicate(timeout=240)
    assert (again.returncode, error) == (0, "")
    assert out.startswith("1 setting to try, 1 of them done already\n")


def test_a_failure_before_the_first_point_leaves_nothing(asked, monkeypatch):
    def fail(config, checksum):
        raise OptionError("--dataset", "there is none")

    monkeypatch.setattr(tune, "held_out", fail)
    result = invoke(*GRID)
    assert result.exit_code == 2
    assert result.stderr == "keras-si: error: --dataset: there is none\n"
    assert os.listdir() == []


def test_a_search_with_another_protocol_is_not_gone_on_with(asked):
    assert invoke(*GRID, "--output", "search").exit_code == 0
    before = pathlib.Path("search/search.json").read_bytes()
    result = invoke(*GRID, "--output", "search", "--epochs", "7")
    assert result.exit_code == 2
    assert "--output: search holds a search with another protocol" in (
        result.stderr
    )
    assert "(epochs 2, now 7)" in result.stderr
    assert pathlib.Path("search/search.json").read_bytes() == before
    assert len(asked) == 4


@pytest.mark.parametrize(
    "option",
    [
        "--seeds 2",
        "--seed 3",
        "--precision mixed_bfloat16",
        "--scenario class",
        "--dataset fashion_mnist",
        "--hidden 9",
        "--batch-size 9",
        "--learning-rate 0.5",
        "--keep-optimizer",
        "--output-weights glorot",
        "--tasks 2",
    ],
)
def test_every_option_of_the_protocol_counts(asked, option):
    assert invoke("--strength", "1", "--output", "search").exit_code == 0
    result = invoke("--strength", "1", "--output", "search", *option.split())
    assert result.exit_code == 2
    assert "search holds a search with another protocol" in result.stderr
    assert len(asked) == 1


def test_other_data_are_refused(asked, monkeypatch):
    """Whether a process finds them, or the search sees them afterwards."""
    assert invoke(*GRID, "--output", "search").exit_code == 0
    more = ("--strength", "7", *GRID[3:], "--output", "search")
    before = sorted(os.listdir("search/points"))
    made_up = tune.held_out

    def other_data(config, checksum):
        record = made_up(config)
        record["versions"]["data"] = "sha256:other"
        return record

    monkeypatch.setattr(tune, "held_out", other_data)
    result = invoke(*more)
    assert result.exit_code == 2
    assert "--data-dir: the images or labels found are not" in result.stderr
    assert sorted(os.listdir("search/points")) == before


def test_a_damaged_point_is_named_and_run_again(asked):
    assert invoke(*GRID, "--output", "search").exit_code == 0
    folder = pathlib.Path("search/points")
    (folder / "si-strength=0.1-damping=0.01.json").write_text("{")
    other = folder / "si-strength=0.1-damping=0.1.json"
    record = files.read_json(other)
    record["config"]["strength"] = "much"
    files.write_json(other, record)
    result = invoke(*GRID, "--output", "search")
    assert result.exit_code == 0, result.stderr
    first, second = result.stderr.splitlines()
    assert first.startswith(
        "note: search/points/si-strength=0.1-damping=0.01.json is damaged"
    )
    assert first.endswith("it is left out")
    assert second == (
        "note: search/points/si-strength=0.1-damping=0.1.json is not the "
        "record of a point; it is left out"
    )
    assert len(asked) == 6
    assert result.stdout.startswith(
        "4 settings to try, 2 of them done already\n"
    )


def test_a_point_with_a_seed_that_failed_is_not_the_best(asked, diverges):
    """Its other seed alone would make it the best."""
    diverges(1, lambda config: config.strength == 1)
    result = invoke(*GRID, "--seeds", "2", "--output", "search")
    assert result.exit_code == 0, result.stderr
    assert "best: --method si --strength 0.1 --damping 0.01" in result.stdout


def test_a_search_without_a_finished_setting_is_a_failure(asked, diverges):
    diverges(0)
    result = invoke(*GRID, "--output", "search")
    assert result.exit_code == 1
    assert result.stdout.endswith("\nsearch: search\n")
    assert result.stderr.startswith(
        "keras-si: error: no setting was finished: each diverged"
    )
    assert sorted(os.listdir("search")) == ["points", "search.json"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"protocol": 3}'])
def test_a_damaged_search_is_refused(asked, text):
    os.mkdir("search")
    pathlib.Path("search/search.json").write_text(text)
    result = invoke("--output", "search")
    assert result.exit_code == 2
    assert "search.json is not the record of a search" in result.stderr
    assert asked == []


def test_a_point_that_diverged_is_finished_and_not_the_best(asked, diverges):
    diverges(0, lambda config: config.strength == 1)
    result = invoke(*GRID, "--output", "search")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("seed 0: it diverged") == 2
    assert "best: --method si --strength 0.1 --damping 0.01" in result.stdout
    figure = pathlib.Path("search/heat_map.svg").read_text()
    assert figure.count("<!-- failed -->") == 2
    assert invoke(*GRID, "--output", "search").exit_code == 0
    assert len(asked) == 4


def test_heat_maps_of_methods_with_fewer_settings(asked):
    made = points("si", "l2", "naive", strengths=(1.0, 10.0))
    search = tune.Search("search", made)
    os.mkdir("search")
    search.run()
    np.testing.assert_allclose(search_report.heat(search, "l2"), [[0.85, 0.75]])
    assert search_report._axes(search, "l2") == ([1.0, 10.0], [None])
    search_report.write_heat_map(search)
    assert sorted(os.listdir("search")) == [
        *("heat_map.png", "heat_map.svg", "points", "search.json"),
    ]


def test_the_test_set_is_not_looked_at(monkeypatch, tmp_path):
    """Of 13 training examples the last 2 are held out."""
    train = data.Split(
        np.arange(13, dtype="uint8").reshape(13, 1, 1, 1),
        np.arange(13, dtype="int32"),
    )
    secret = data.Split(
        np.full((5, 1, 1, 1), 99, "uint8"), np.zeros(5, "int32")
    )
    loaded = []

    def load(name, data_dir):
        loaded.append(name)
        return data.Data(name, 13, train, secret)

    given = []

    def run(config, folder=None, *, dataset):
        # Nothing is written.
        assert folder is None
        given.append((config, dataset))
        return results.Results("smnist", {}, "", config.to_dict(), [])

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(runner, "run", run)
    tune._held_out_data.cache_clear()
    (config,) = points("si").values()
    record = tune.held_out(config)
    ((used, dataset),) = given
    assert dataset.train.labels.tolist() == list(range(11))
    assert dataset.train.images.ravel().tolist() == list(range(11))
    assert dataset.test.labels.tolist() == [11, 12]
    assert dataset.test.images.ravel().tolist() == [11, 12]
    assert used.held_out and record["config"]["held_out"]
    tune.held_out(config)
    assert loaded == ["mnist"]  # Once for a process.
    tune._held_out_data.cache_clear()


def test_joined_datasets_are_held_out_each(monkeypatch):
    def load(name, data_dir):
        first = 0 if name == "one" else 50
        labels = np.arange(6, dtype="int32") + first
        split = data.Split(np.zeros((6, 1, 1, 1), "uint8"), labels)
        return data.Data(name, 100, split, split)

    monkeypatch.setattr(data, "load", load)
    both = data.load_all(["one", "two"], held_out=True)
    assert both.test.labels.tolist() == [5, 155]
    assert both.train.labels.tolist() == [
        *(0, 1, 2, 3, 4, 150, 151, 152, 153, 154)
    ]


# In place of starting TensorFlow with a number of threads; a process has it
# without importing this file.
NO_START = abs


def test_processes_run_several_at_once():
    got = dict(engines.processes(math.sqrt, [1.0, 4.0, 9.0], 2, NO_START))
    assert got == {0: 1.0, 1: 2.0, 2: 3.0}


def test_a_process_that_dies_is_told_in_one_line():
    with pytest.raises(RunError, match="go on with fewer --jobs"):
        list(engines.processes(os._exit, [1], 2, NO_START))


def test_an_error_travels_from_process_to_process():
    error = pickle.loads(pickle.dumps(OptionError("--tasks", "too many")))
    assert str(error) == "--tasks: too many"


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: set(range(8)), raising=False
    )
    assert [engines.cores_each(jobs) for jobs in (1, 2, 3, 99)] == [8, 4, 2, 1]


def test_processes_get_their_share_of_the_cores(monkeypatch):
    """`umask`, called in place of TensorFlow's start, tells what it got."""
    monkeypatch.setattr(engines, "cores_each", lambda jobs: 10 * jobs)
    assert list(engines.processes(os.umask, [0], 2, os.umask)) == [(0, 20)]


def test_the_default_folder_is_that_of_a_search():
    assert output.default_folder("tune-smnist").startswith(
        os.path.join("runs", "tune-smnist-")
    )


def test_a_search_takes_its_images_from_the_data_dir(monkeypatch, tmp_path):
    asked = []

    def load(name, data_dir):
        asked.append((name, data_dir))
        split = data.Split(
            np.zeros((6, 1, 1, 1), "uint8"), np.zeros(6, "int32")
        )
        return data.Data(name, 10, split, split)

    def run(config, **given):
        done = results.Trial(config.methods[0], 0, np.array([[0.5]]))
        return results.Results("smnist", {}, "", config.to_dict(), [done])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "import_quietly", lambda: None)
    monkeypatch.setattr(search_report, "write_heat_map", lambda search: None)
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(runner, "run", run)
    tune._held_out_data.cache_clear()
    os.mkdir("images")
    result = invoke("--dataset", "fashion_mnist", "--data-dir", "images")
    tune._held_out_data.cache_clear()
    assert result.exit_code == 0, result.output
    assert asked == [("fashion_mnist", "images")]
