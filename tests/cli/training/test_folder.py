"""May a folder be used, who uses it, and where does the run in it stand."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from cli_helpers import make_config
from keras_si_cli import files
from keras_si_cli.errors import OptionError, RunError
from keras_si_cli.results.results import Results, Trial
from keras_si_cli.training import folder
from keras_si_cli.training.checkpoint import Checkpoint, Position

HOLD = """
import sys
from keras_si_cli.training import folder
with folder.lock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_folder_in_use_is_refused_until_its_process_ends_however_it_does():
    os.mkdir("out")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "out"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        for given in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(RunError, match="out is in use by another proc"):
                with folder.held("out", **given):
                    pass
    finally:
        holder.kill()
        holder.communicate()
    with folder.held("out"):
        pathlib.Path("out/a").touch()


def test_a_folder_with_other_contents_is_refused_and_left_alone():
    os.mkdir("full")
    pathlib.Path("full/notes.txt").write_text("mine")
    with pytest.raises(OptionError) as caught:
        with folder.held("full"):
            pass
    assert str(caught.value) == (
        "--output: full is not empty; name another folder, continue the run "
        "in it by `keras-si resume full` if it has one, or replace it with "
        "--overwrite"
    )
    assert pathlib.Path("full/notes.txt").read_text() == "mine"
    with folder.held("full", overwrite=True):
        pass


@pytest.mark.parametrize("name", ["new", "new/folder", "new/../a/b"])
def test_a_failure_before_the_first_file_leaves_no_folder(name):
    with pytest.raises(KeyError):
        with folder.held(name):
            assert os.path.isdir(name)
            raise KeyError
    assert os.listdir() == []


def test_a_failure_leaves_the_folders_that_it_did_not_make():
    os.makedirs("runs/mine")
    for name in ("runs/mine", "runs/mine/a/b"):
        with pytest.raises(KeyError):
            with folder.held(name):
                raise KeyError
    assert os.listdir("runs") == ["mine"]
    assert set(os.listdir("runs/mine")) <= {folder.LOCK}


def test_what_was_written_before_a_failure_stays():
    with pytest.raises(KeyError):
        with folder.held("out"):
            pathlib.Path("out/config.json").touch()
            raise KeyError
    assert "config.json" in os.listdir("out")


def test_a_folder_that_cannot_be_made_is_refused():
    pathlib.Path("taken").write_text("mine")
    with pytest.raises(OptionError, match="taken/runs cannot be written .Not a"):
        with folder.held("taken/runs"):
            pass
    assert pathlib.Path("taken").read_text() == "mine"


def test_a_folder_that_cannot_be_locked_is_refused(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.filelock.FileLock, "acquire", refuse)
    with pytest.raises(OptionError, match="new/x cannot be written .Permissi"):
        with folder.held("new/x"):
            pass
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("figure.pdf", "received figure.pdf, expected a name in .png or .svg"),
        ("", "received ., expected a name in .png or .svg"),
        ("nowhere/figure.png", "there is no folder nowhere; make it first"),
        ("taken.png", "taken.png exists; replace it with --overwrite"),
    ],
)
def test_a_file_that_cannot_be_written_or_would_be_lost_is_refused(
    name, expected
):
    pathlib.Path("taken.png").touch()
    endings = (".png", ".svg")
    with pytest.raises(OptionError, match=f"^--output: {expected}"):
        folder.check_file("--output", name, endings, overwrite=False)
    folder.check_file("--output", "taken.png", endings, overwrite=True)


def test_the_default_folder_is_in_runs_and_has_the_benchmarks_name():
    name = folder.default_folder("pmnist")
    assert name.startswith(os.path.join("runs", "pmnist-2"))


# Configurations.


def test_a_configuration_comes_back_with_its_command():
    config = make_config(hidden=(16, 4), seeds=3, held_out=True)
    folder.begin(".", config, "keras-si run pmnist --seeds 3")
    assert folder.read_config(".") == (config, "keras-si run pmnist --seeds 3")
    folder.begin(".", config, None)
    assert folder.read_config(".") == (config, None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"colour": 3}, "--colour: another version of keras-si has this opt"),
        ({"tasks": None}, "--tasks: it is missing"),
        ({"methods": 3}, "config.json is not the configuration of a run"),
        ({"benchmark": []}, "config.json is not the configuration of a run"),
        ({"methods": ["ewc"]}, "--method: received 'ewc', expected si or"),
    ],
)
def test_what_is_not_a_configuration_is_refused(change, expected):
    options = {**make_config().to_dict(), **change}
    files.write_json(
        "config.json", {k: v for k, v in options.items() if v is not None}
    ) if "tasks" in change else files.write_json("config.json", options)
    with pytest.raises(RunError, match=expected) as caught:
        folder.read_config(".")
    assert str(caught.value).endswith("; start the run again, with --overwrite")


def test_a_torn_configuration_is_named_and_a_missing_one_is_no_run():
    with pytest.raises(OptionError, match=r"^DIR: \. has no run; name a fold"):
        folder.read_config(".")
    pathlib.Path("config.json").write_text('{"benchmark": "pmn')
    with pytest.raises(RunError, match="config.json is damaged: Unterminated"):
        folder.read_config(".")


# Where a run stands.

CONFIG = make_config(methods=("si", "naive"))


def results(*tasks_done, config=CONFIG):
    """The results of a run whose trials have done so many tasks."""
    trials = []
    for method, done in zip(config.methods, tasks_done):
        accuracy = np.full((2, 2), np.nan)
        accuracy[:done, :done] = 0.5
        trials.append(Trial(method, 0, accuracy))
    versions = {"keras": "3", "data": "sha256:0"}
    return Results("pmnist", versions, "CPU, 1 core", config.to_dict(), trials)


def save_checkpoint(*tasks_done, position=Position(1, 2), **given):
    record = results(*tasks_done, **given).to_dict()
    Checkpoint(record, position, [np.ones(3)]).save(".")


def done(standing):
    return [trial.tasks_done for trial in standing.results.trials]


def test_a_new_folder_stands_at_the_beginning():
    found = folder.standing(".", CONFIG)
    assert found == folder.Standing()
    results().save(".")
    assert done(folder.standing(".", CONFIG)) == []


def test_the_checkpoint_knows_where_a_run_stands():
    save_checkpoint(2, 1)
    results(2, 1).save(".")
    found = folder.standing(".", CONFIG)
    assert (done(found), found.position) == ([2, 1], Position(1, 2))
    assert [a.tolist() for a in found.variables] == [[1, 1, 1]]
    assert (found.notes, found.is_over) == ([], False)


def test_after_the_last_task_of_a_trial_the_next_one_starts_anew():
    save_checkpoint(2, position=Position(1, 3, is_trained=True))
    found = folder.standing(".", CONFIG)
    assert (done(found), found.position) == ([2], Position())
    assert found.variables == ()


def test_without_a_checkpoint_what_is_finished_counts_and_nothing_else():
    results(2, 1).save(".")
    found = folder.standing(".", CONFIG)
    assert (done(found), found.position, found.is_over) == (
        *([2], Position(), False),
    )
    assert found.notes == [
        "there is no good checkpoint.npz in .: what was not finished starts "
        "from its beginning"
    ]


def test_a_run_that_is_over_is_over():
    results(2, 2).save(".")
    found = folder.standing(".", CONFIG)
    assert (found.is_over, found.notes) == (True, [])
    os.remove("results.json")
    failed = results(2, 1)
    failed.trials[1].failed = "diverged"
    failed.save(".")
    assert folder.standing(".", CONFIG).is_over


@pytest.mark.parametrize("kind", ["torn", "foreign", "empty"])
def test_a_damaged_checkpoint_is_named_and_not_used(kind):
    results(2, 1).save(".")
    save_checkpoint(2, 1)
    path = pathlib.Path("checkpoint.npz")
    damaged = {
        "torn": path.read_bytes()[:-40],
        "foreign": pathlib.Path("results.json").read_bytes(),
        "empty": b"",
    }
    path.write_bytes(damaged[kind])
    found = folder.standing(".", CONFIG)
    assert (done(found), found.position) == ([2], Position())
    assert found.notes[0].startswith("checkpoint.npz is damaged: ")
    assert found.notes[0].endswith("; it is not used")


@pytest.mark.parametrize("content", [b"{}", b"", b'{"schema": 2}', b"[3]"])
def test_results_that_are_none_are_named_and_the_checkpoint_is_used(content):
    save_checkpoint(2, 1)
    pathlib.Path("results.json").write_bytes(content)
    found = folder.standing(".", CONFIG)
    assert (done(found), found.position) == ([2, 1], Position(1, 2))
    (note,) = found.notes
    assert note.startswith("results.json is damaged: ")


@pytest.mark.parametrize("checkpoint", [b"damaged", None])
def test_when_nothing_good_is_left_it_is_refused_and_nothing_is_deleted(
    checkpoint,
):
    pathlib.Path("results.json").write_text("{")
    if checkpoint is not None:
        pathlib.Path("checkpoint.npz").write_bytes(checkpoint)
    before = sorted(os.listdir())
    with pytest.raises(RunError, match="Nothing is left to continue from"):
        folder.standing(".", CONFIG)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("where", ["results.json", "checkpoint.npz"])
def test_files_of_a_run_with_other_options_are_refused(where):
    other = make_config(methods=("si", "naive"), seed=5)
    if where == "results.json":
        results(1, config=other).save(".")
    else:
        save_checkpoint(1, config=other)
    with pytest.raises(RunError, match=f"{where} is of a run with seed 5, but"):
        folder.standing(".", CONFIG)


def test_results_of_a_newer_keras_si_are_refused():
    record = results(2).to_dict()
    files.write_json("results.json", {**record, "schema": 9})
    with pytest.raises(RunError, match="schema 9, expected 2"):
        folder.standing(".", CONFIG)


def test_versions_and_devices_that_changed_are_named():
    now = {"versions": {"keras": "4"}, "device": "CPU, 2 cores"}
    begun = results()
    begun.versions["jax"] = "0.1"
    assert folder.environment_changed(begun, now) == [
        f"the run was begun with {what}: its results may differ from those of "
        "an undisturbed one"
        for what in (
            "keras 3, and continues with 4",
            "jax 0.1, and continues without",
            "device CPU, 1 core, and continues with CPU, 2 cores",
        )
    ]
