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
from keras_si_cli.training.folder import Standing

HOLD = """
import sys
from keras_si_cli.training import folder
with folder.lock("out"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_folder_in_use_is_refused_until_its_process_ends_however_it_does():
    os.mkdir("out")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen([sys.executable, "-c", HOLD], text=True, **pipes)
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


@pytest.mark.parametrize("name", ["new", "new/../a/b", "runs/mine/a/b"])
def test_a_failure_before_the_first_file_leaves_no_folder_that_it_made(name):
    os.makedirs("runs/mine")
    with pytest.raises(KeyError):
        with folder.held(name):
            assert os.path.isdir(name)
            raise KeyError
    assert os.listdir() == ["runs"]
    assert os.listdir("runs/mine") == []


def test_what_was_written_before_a_failure_stays():
    with pytest.raises(KeyError):
        with folder.held("out"):
            pathlib.Path("out/config.json").touch()
            raise KeyError
    assert "config.json" in os.listdir("out")


def test_a_folder_that_cannot_be_made_or_locked_is_refused(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    pathlib.Path("taken").write_text("mine")
    with pytest.raises(
        OptionError, match="taken/runs cannot be written .Not a"
    ):
        with folder.held("taken/runs"):
            pass
    monkeypatch.setattr(folder.filelock.FileLock, "acquire", refuse)
    with pytest.raises(OptionError, match="new/x cannot be written .Permissi"):
        with folder.held("new/x"):
            pass
    assert os.listdir() == ["taken"]


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


# Configurations.


@pytest.mark.parametrize("command", [None, "keras-si run pmnist --seeds 3"])
def test_a_configuration_comes_back_with_its_command(command):
    config = make_config(hidden=(16, 4), seeds=3, held_out=True)
    folder.begin(".", config, command)
    assert folder.read_config(".") == (config, command)


@pytest.mark.parametrize(
    "change",
    [{"colour": 3}, {"methods": 3}, {"benchmark": []}, {"methods": ["gem"]}],
    ids=str,
)
def test_what_is_not_a_configuration_is_refused(change):
    files.write_json("config.json", {**make_config().to_dict(), **change})
    with pytest.raises(RunError, match="config.json is not the configuration"):
        folder.read_config(".")


def test_a_torn_configuration_is_named_and_a_missing_one_is_no_run():
    with pytest.raises(OptionError, match=r"^DIR: \. has no run; name a fold"):
        folder.read_config(".")
    pathlib.Path("config.json").write_text('{"benchmark": "pmn')
    with pytest.raises(RunError, match="config.json is damaged: Unterminated"):
        folder.read_config(".")


# Where a run stands.

CONFIG = make_config(methods=("si", "naive"))


def results(*tasks_done, config=CONFIG):
    """The results of a run whose trials have done so many of two tasks."""
    trials = []
    for method, done in zip(config.methods, tasks_done):
        accuracy = np.full((2, 2), np.nan)
        accuracy[:done, :done] = 0.5
        trials.append(Trial(method, 0, accuracy))
    versions = {"keras": "3", "data": "sha256:0"}
    return Results("pmnist", versions, "CPU, 1 core", config.to_dict(), trials)


def save_checkpoint(*tasks_done, at=(1, 2), **given):
    record = results(*tasks_done, **given).to_dict()
    Checkpoint(record, Position(*at), [np.ones(3)]).save(".")


def where(found):
    """Tasks done, position, and the notes without the files' own words."""
    done = [trial.tasks_done for trial in found.results.trials]
    return done, found.position, [note.split(":")[0] for note in found.notes]


START = Position()
NO_CHECKPOINT = "there is no good checkpoint.npz in ."


def test_a_new_folder_stands_at_the_beginning():
    assert folder.standing(".", CONFIG) == Standing()
    results().save(".")
    assert where(folder.standing(".", CONFIG)) == ([], START, [])


def test_the_checkpoint_knows_where_a_run_stands():
    save_checkpoint(2, 1)
    results(2, 1).save(".")
    found = folder.standing(".", CONFIG)
    assert where(found) == ([2, 1], Position(1, 2), [])
    assert [a.tolist() for a in found.variables] == [[1, 1, 1]]
    # After the last task of a trial, the next one starts from its beginning.
    save_checkpoint(2, at=(1, 3, True))
    found = folder.standing(".", CONFIG)
    assert where(found) == ([2], START, [])
    assert found.variables == ()


def test_without_a_checkpoint_what_is_finished_counts_and_nothing_else():
    results(2, 1).save(".")
    found = folder.standing(".", CONFIG)
    assert where(found) == ([2], START, [NO_CHECKPOINT])
    assert not found.is_over


def test_a_run_whose_trials_are_finished_or_failed_is_over():
    results(2, 2).save(".")
    assert folder.standing(".", CONFIG).is_over
    failed = results(2, 1)
    failed.trials[1].failed = "diverged"
    failed.save(".")
    assert folder.standing(".", CONFIG).is_over


@pytest.mark.parametrize("kind", ["torn", "foreign", "empty"])
def test_a_damaged_checkpoint_is_named_and_not_used(kind):
    results(2, 1).save(".")
    save_checkpoint(2, 1)
    path = pathlib.Path("checkpoint.npz")
    foreign = pathlib.Path("results.json").read_bytes()
    damaged = {
        "torn": path.read_bytes()[:-40],
        "foreign": foreign,
        "empty": b"",
    }
    path.write_bytes(damaged[kind])
    expected = ["checkpoint.npz is damaged", NO_CHECKPOINT]
    assert where(folder.standing(".", CONFIG)) == ([2], START, expected)


@pytest.mark.parametrize("content", [b"{}", b"", b'{"schema": 2}', b"[3]"])
def test_results_that_are_none_are_named_and_the_checkpoint_is_used(content):
    save_checkpoint(2, 1)
    pathlib.Path("results.json").write_bytes(content)
    expected = ([2, 1], Position(1, 2), ["results.json is damaged"])
    assert where(folder.standing(".", CONFIG)) == expected


def test_when_nothing_good_is_left_it_is_refused_and_nothing_is_deleted():
    pathlib.Path("results.json").write_text("{")
    for _ in range(2):
        before = sorted(os.listdir())
        with pytest.raises(RunError, match="Nothing is left to continue from"):
            folder.standing(".", CONFIG)
        assert sorted(os.listdir()) == before
        pathlib.Path("checkpoint.npz").write_text("damaged")


@pytest.mark.parametrize("where", ["results.json", "checkpoint.npz"])
def test_files_of_a_run_with_other_options_are_refused(where):
    other = make_config(methods=("si", "naive"), seed=5)
    if where == "results.json":
        results(1, config=other).save(".")
        save_checkpoint(2, 1)
    else:
        save_checkpoint(1, config=other)
    with pytest.raises(RunError, match="of a run with seed 5, but config.json"):
        folder.standing(".", CONFIG)
