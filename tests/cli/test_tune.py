"""The search: its grid, what is given up, and processes that share it."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import optuna
import pytest
import tune_program
from cli_helpers import invoke
from keras_si_cli import search as searches
from keras_si_cli import tune
from keras_si_cli.errors import RunError
from keras_si_cli.experiments import config, data
from keras_si_cli.results.results import Results
from keras_si_cli.training import runner, start
from matplotlib.image import imread

PROGRAM = pathlib.Path(tune_program.__file__)
SEARCH = ("--output", "search")
GRID = ("--strength", "0.1,1", "--damping", "0.01,0.1", *SEARCH)
SETTINGS = [(0.1, 0.01), (0.1, 0.1), (1, 0.01), (1, 0.1)]


@pytest.fixture
def tuned(cli, monkeypatch):
    """Calls `tune smnist` with made-up training; has its configurations."""
    trained = []

    def run(config, dataset, after_task):
        trained.append(config)
        return tune_program.run(config, dataset, after_task)

    monkeypatch.setattr(start, "import_quietly", lambda **_: None)
    monkeypatch.setattr(data, "load_all", tune_program.load_all)
    monkeypatch.setattr(runner, "run", run)

    def call(*arguments):
        arguments = ("tune", "smnist", *arguments)
        monkeypatch.setattr(sys, "argv", ["keras-si", *arguments])
        return cli(*arguments)

    call.trained = trained
    return call


def settings(tuned):
    return [(config.strength, config.damping) for config in tuned.trained]


def lines(result):
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def study_of():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = optuna.storages.journal.JournalFileBackend("search/search.log")
    storage = optuna.storages.JournalStorage(journal)
    return optuna.load_study(study_name="keras-si", storage=storage)


# What a search tries


def test_a_search_ends_with_a_table_the_best_setting_and_its_run(tuned):
    """In points: 90, less 0.5 for strength 0.1 and 0.25 for damping 0.1."""
    result = tuned(*GRID, "--tasks", "2", "--hidden", "9")
    assert (result.exit_code, result.stderr) == (0, "")
    assert settings(tuned) == SETTINGS
    printed = lines(result)
    for row in ("0.1 0.01 89.50", "0.1 0.1 89.25", "1 0.01 90.00 best"):
        assert row in printed
    assert printed[-2:] == [
        "keras-si run smnist --tasks 2 --hidden 9 --method si --strength 1.0 "
        "--damping 0.01",
        "search: search",
    ]
    assert max(len(line) for line in result.stdout.splitlines()[:-2]) <= 80
    # And leaves each result, a record and a figure.
    assert sorted(os.listdir("search")) == [
        *("search.json", "search.log", "search.png", "search.svg"),
        *("si-strength-0.1-damping-0.01", "si-strength-0.1-damping-0.1"),
        *("si-strength-1.0-damping-0.01", "si-strength-1.0-damping-0.1"),
    ]
    folder = pathlib.Path("search/si-strength-1.0-damping-0.1")
    assert os.listdir(folder) == ["results.json"]
    record = json.loads(pathlib.Path("search/search.json").read_text())
    assert record["best"] == [
        {"method": "si", "strength": 1.0, "damping": 0.01}
    ]
    means = [p["final_average_accuracy"]["mean"] for p in record["points"]]
    assert means == pytest.approx([0.895, 0.8925, 0.9, 0.8975])
    assert imread("search/search.png")[..., :3].std() > 0.01


def test_the_same_command_trains_nothing_again_and_more_values_are_added(tuned):
    tuned(*GRID)
    again = tuned(*GRID)
    assert len(tuned.trained) == 4
    assert "1 0.01 90.00 best" in lines(again)
    more = tuned("--strength", "1,10", *GRID[2:])
    assert settings(tuned)[4:] == [(10, 0.01), (10, 0.1)]
    assert "0.1 0.1 89.25" in lines(more)


def test_what_is_not_given_is_the_presets_and_seeds_count_by_their_mean(tuned):
    """The preset has strength 1, damping 0.001."""
    result = tuned("--damping", "0.001", "--seeds", "2", *SEARCH)
    assert "1 0.001 89.75 ± 0.20 best" in lines(result)
    tuned("--output", "l2", "--method", "l2", "--strength", "3,9")
    tuned("--output", "ewc", "--method", "ewc", "--strength", "1e5")
    replay = ("--method", "si-replay", "--memory", "20", "--strength", "7")
    result = tuned("--output", "replay", *replay)
    assert settings(tuned) == [(s, 0.001) for s in (1, 3, 9, 1e5, 7)]
    methods = [config.methods for config in tuned.trained]
    assert methods == [("si",), ("l2",), ("l2",), ("ewc",), ("si-replay",)]
    assert tuned.trained[-1].memory == 20
    assert lines(result)[-2] == (
        "keras-si run smnist --memory 20 --method si-replay --strength 7.0 "
        "--damping 0.001"
    )


def test_trials_are_searched_once_between_the_values_given(tuned):
    command = ("--strength", "0.1,10", "--trials", "3", *SEARCH)
    assert tuned(*command).exit_code == 0
    assert settings(tuned)[:2] == [(0.1, 0.001), (10, 0.001)]
    searched = [config.strength for config in tuned.trained[2:]]
    assert len({*searched}) == 3
    assert all(0.1 < strength < 10 for strength in searched)
    tuned(*command)
    assert len(tuned.trained) == 5


def make_search(storage, folder, **values):
    given = {"methods": ("si",), "seed": 0, "seeds": 1}
    preset = config.resolve("smnist", "quick", given)
    values = {"strength": (), "damping": (), **values}
    return searches.Search(preset, values, 0, storage, folder)


def test_without_a_strength_the_search_is_around_the_presets():
    search = make_search("search.log", pathlib.Path(), damping=(0.1, 0.3))
    assert search.limits == {"strength": (0.01, 100), "damping": (0.1, 0.3)}


def test_a_real_training_reports_after_each_task(few, eager):
    """The only test that trains."""
    small = "--tasks 2 --steps 3 --hidden 4 --output search".split()
    result = invoke("tune", "pmnist", "--strength", "1", *small)
    assert result.exit_code == 0, result.stderr
    (trial,) = study_of().trials
    results = Results.load("search/si-strength-1.0-damping-0.1")
    (run,) = results.trials
    held_out = data.load_all(("few",), None, held_out=True)
    assert results.versions["data"] == held_out.checksum
    assert results.config["held_out"] is True
    assert [*trial.intermediate_values.values()] == run.average_accuracy
    assert trial.value == run.average_accuracy[-1]


# What is given up


@pytest.mark.parametrize(
    "mean, step, expected",
    [
        (0.84, 1, True),  # Behind 0.86 and 0.86.
        (0.855, 1, False),  # Behind by less than a point.
        (0.84, 2, False),  # Behind the end, ahead after the same task.
        (0.88, 0, False),  # Behind after the same task, ahead of the end.
        (0.80, 2, True),
    ],
)
def test_a_setting_is_hopeless_behind_the_best_ones_same_task_and_end(
    mean, step, expected
):
    study = optuna.create_study(direction="maximize")
    assert not searches.is_hopeless(study, mean, step, end=3)  # No best one.
    for values in ([0.90, 0.86, 0.82, 0.86], [0.99, 0.50, 0.50, 0.50]):
        so_far = dict(enumerate(values))
        trial = optuna.create_trial(
            value=values[-1], intermediate_values=so_far
        )
        study.add_trial(trial)
    assert searches.is_hopeless(study, mean, step, end=3) is expected


def test_a_hopeless_setting_is_given_up_after_a_task(tuned):
    """Five tasks: 94 to 90 %, beside 90.5, 89.5 and 88.5 %."""
    command = ("--damping", "0.01", *SEARCH)
    result = tuned("--strength", "1,1e7", *command)
    assert "1e+07 0.01 88.50 given up after task 3" in lines(result)
    assert "1 0.01 90.00 best" in lines(result)
    tuned("--strength", "1,1e7", *command)
    assert len(tuned.trained) == 2


def test_what_diverges_is_named_and_not_tried_again(tuned, monkeypatch):
    finished = runner.run

    def run(config, *arguments, **named):
        results = finished(config, *arguments, **named)
        if config.strength > 1:
            results.trials[-1].failed = "the loss is not finite"
        return results

    monkeypatch.setattr(runner, "run", run)
    command = ("--damping", "0.01", *SEARCH)
    result = tuned("--strength", "1.5", *command)
    assert result.exit_code == 1
    assert "no setting was finished" in result.stderr
    result = tuned("--strength", "1.5,1", *command)
    assert result.exit_code == 0
    assert len(tuned.trained) == 2
    row = next(line for line in lines(result) if line.startswith("1.5"))
    assert "given up seed 0: the loss is not finite" in row


# Refusals


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--strength 0,1", "--strength: received 0"),
        ("--strength 1,x", "'--strength': 'x'"),
        ("--method naive", "--method: received naive"),
        ("--method replay", "--method: received replay; expected one that"),
        ("--method si --method l2 --strength 1", "--method: received si, l2"),
        ("--strength 1 --trials 3", "--trials: has no range; give two values"),
        ("--seeds 2", "--strength: is missing: give values to try, or --tri"),
        ("--strength 1 --output full", "--output: full has other files"),
        ("--strength 1 --storage full/notes.txt", "notes.txt cannot be used"),
        ("--strength 1 --storage none://me:secret@x", "none://x cannot be use"),
        ("--strength 1 --storage sqlite:///a.db", "name a file"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_trained(
    tuned, arguments, expected
):
    os.mkdir("full")
    pathlib.Path("full/notes.txt").write_text("mine\nand mine\n")
    result = tuned(*arguments.split())
    assert result.exit_code == 2
    assert expected in result.stderr
    assert ("--storage: " in result.stderr) is ("--storage" in arguments)
    assert "secret" not in result.stderr
    assert os.listdir() == ["full"]
    assert os.listdir("full") == ["notes.txt"]
    assert tuned.trained == []


def test_another_protocol_and_other_data_are_refused_by_name(
    tuned, monkeypatch
):
    command = ("--strength", "1", *SEARCH)
    tuned(*command)
    other = tune_program.load_all((), None, True)
    other.checksum = "sha256:other"
    for option, difference in (
        ("--epochs 7", "epochs 2, now 7"),
        ("--scenario class", "scenario task, now class"),
        ("--method l2", "methods ['si'], now ['l2']"),
        ("", "data sha256:made-up, now sha256:other"),
    ):
        if not option:
            monkeypatch.setattr(data, "load_all", lambda *_, **__: other)
        result = tuned(*command, *option.split())
        assert result.exit_code == 2
        assert f"--output: has another protocol ({difference})" in result.stderr
    assert len(tuned.trained) == len(study_of().trials) == 1


def test_without_optuna_a_line_says_what_to_install(tuned, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = tuned("--strength", "1")
    assert result.exit_code == 1
    assert 'pip install "keras-si[tune]"' in result.stderr
    assert os.listdir() == []


def test_the_run_command_has_no_options_of_tune():
    joined = "run a --output 'my b' --strength=1,2 --seeds 3 --trials 4 --jit"
    assert tune.NOT_OF_RUN.sub("", joined) == "run a --seeds 3 --jit"


# Interruptions and processes


@pytest.mark.parametrize(
    "error, code", [(KeyboardInterrupt(), 130), (RunError("no room"), 1)]
)
def test_the_setting_under_way_is_tried_again_by_the_next_command(
    tuned, monkeypatch, error, code
):
    finished = runner.run

    def run(config, *arguments, **named):
        if config.strength == 1:
            raise error
        return finished(config, *arguments, **named)

    monkeypatch.setattr(runner, "run", run)
    result = tuned(*GRID)
    assert result.exit_code == code
    expected = (
        "the same command with --output search" if code > 1 else "no room"
    )
    assert expected in result.stderr
    monkeypatch.setattr(runner, "run", finished)
    assert tuned(*GRID).exit_code == 0
    assert sorted(settings(tuned)) == SETTINGS


def test_of_two_trials_of_one_setting_the_first_counts(tuned):
    """Two processes have queued it at the same moment."""
    tuned("--strength", "1", *SEARCH)
    setting = {"strength": 5.0, "damping": 0.001}
    for _ in range(2):
        study_of().enqueue_trial(setting, user_attrs={"given": setting})
    tuned("--strength", "1", *SEARCH)
    assert settings(tuned) == [(1, 0.001), (5, 0.001)]


@pytest.mark.parametrize(
    "host, has_file, is_tried",
    [
        (socket.gethostname(), True, True),  # Nothing locks the file.
        (socket.gethostname(), False, True),
        ("elsewhere", True, False),
        ("elsewhere", False, True),
    ],
)
def test_a_trial_is_free_if_its_processs_lock_or_file_is_gone(
    tuned, host, has_file, is_tried
):
    tuned("--strength", "1", *SEARCH)
    setting = {"strength": 5.0, "damping": 0.001}
    study = study_of()
    study.enqueue_trial(setting, user_attrs={"given": setting})
    study.ask().set_user_attr("process", f"{host}-1-ab")
    if has_file:
        pathlib.Path(f"search/search.log.{host}-1-ab").touch()
    result = tuned("--strength", "1,5", *SEARCH)
    assert (5, 0.001) in settings(tuned) or not is_tried
    assert len(tuned.trained) == 1 + is_tried
    assert ("under way in elsewhere-1-ab" in result.stdout) is not is_tried


def program(*arguments, **environment):
    """Starts `tune` with made-up training, in a process group of its own."""
    options = ("--output", "search", "--damping", "0.01", *arguments)
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), "tune", "smnist", *options],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def trained_by(out):
    return [float(line[7:]) for line in out.splitlines() if "trains" in line]


def test_two_processes_continue_one_that_was_killed(tmp_path):
    """Each value is tried once, but the one under way, which is free again."""
    values = ("--strength", "0.7,0.8,0.9,1,1.1,1.2")
    with program(*values, WAIT="line") as killed:
        assert killed.stdout.readline() == "trains 0.7\n"
        killed.stdin.write("\n")
        killed.stdin.flush()
        while killed.stdout.readline() != "trains 0.8\n":
            pass
        killed.kill()
    both = [program(*values, WAIT="line") for _ in range(2)]
    began = [trained_by(process.stdout.readline()) for process in both]
    printed = [process.communicate("\n" * 9, timeout=60) for process in both]
    assert [error for _, error in printed] == ["", ""]
    trained = [*began, *(trained_by(out) for out, _ in printed)]
    assert sorted(sum(trained, [])) == [0.8, 0.9, 1, 1.1, 1.2]
    states = [trial.state.name for trial in study_of().trials]
    assert states.count("COMPLETE") == 6
    # The file of the process that was killed is gone, too.
    assert not list(tmp_path.glob("search/search.log.*"))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_jobs_end_with_their_command_and_continue_to_one_table(ending):
    """Output ends when none is left; Ctrl-C is for all, SIGTERM for one."""
    values = ("--strength", "0.7,0.8,0.9,1", "--jobs", "2")
    with program(*values, WAIT="signal") as process:
        for _ in range(2):
            assert process.stdout.readline().startswith("trains")
        if ending == signal.SIGINT:
            os.killpg(process.pid, ending)
        else:
            process.send_signal(ending)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command with --output search" in error
    assert "Traceback" not in error
    with program(*values) as process:
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert sorted(trained_by(out)) == [0.7, 0.8, 0.9, 1]
    assert out.count("best:") == 1


def test_a_database_has_the_study_and_its_heartbeat(tmp_path):
    """SQLite stands for it, which is sound for one process."""
    url = f"sqlite:///{tmp_path}/search.db"
    search = make_search(url, tmp_path, strength=(5.0,))
    study = search.study("sha256:made-up")
    assert search._storage().get_heartbeat_interval() == 60
    assert searches.is_left(search, study)

    def objective(trial):
        trial.set_user_attr("process", "elsewhere-1-ab")
        # No file tells that this process lives.
        assert not searches.is_left(search, study)
        return 0.5

    study.optimize(objective, n_trials=1)
    assert [trial.value for trial in study.trials] == [0.5]
