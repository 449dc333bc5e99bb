"""May a folder be used, who uses it, and which run is in it."""

import os
import pathlib
import subprocess
import sys

import pytest
from cli_helpers import make_config
from keras_si_cli import files
from keras_si_cli.errors import OptionError, RunError
from keras_si_cli.training import folder

HOLD = """
import sys
from keras_si_cli.training import folder
with folder.locked_folder("out"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_folder_in_use_is_refused_until_its_process_ends_however_it_does():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen([sys.executable, "-c", HOLD], text=True, **pipes)
    try:
        assert holder.stdout.readline() == "held\n"
        for given in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(RunError, match="out is in use by another proc"):
                with folder.locked_folder("out", **given):
                    pass
    finally:
        holder.kill()
        holder.communicate()
    with folder.locked_folder("out"):
        pathlib.Path("out/a").touch()


def test_a_folder_with_other_contents_is_refused_and_left_alone():
    os.mkdir("full")
    pathlib.Path("full/notes.txt").write_text("mine")
    with pytest.raises(OptionError) as caught:
        with folder.locked_folder("full"):
            pass
    assert str(caught.value) == (
        "--output: full is not empty; name another folder, continue the run "
        "in it by `keras-si resume full` if it has one, or replace it with "
        "--overwrite"
    )
    assert pathlib.Path("full/notes.txt").read_text() == "mine"
    with folder.locked_folder("full", overwrite=True):
        pass


@pytest.mark.parametrize("written", [[], ["config.json"]])
def test_a_failure_leaves_a_new_folder_if_something_was_written(written):
    os.mkdir("old")
    for name in ("old", "new"):
        with pytest.raises(KeyError):
            with folder.locked_folder(name):
                for each in written:
                    pathlib.Path(name, each).touch()
                raise KeyError
    assert sorted(os.listdir()) == [*["new"] * len(written), "old"]


def test_a_folder_that_cannot_be_made_or_locked_is_refused(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    pathlib.Path("taken").write_text("mine")
    with pytest.raises(OptionError, match="taken/a cannot be written .Not a"):
        with folder.locked_folder("taken/a"):
            pass
    monkeypatch.setattr(folder.filelock.FileLock, "acquire", refuse)
    with pytest.raises(OptionError, match="x cannot be written .Permission"):
        with folder.locked_folder("x"):
            pass


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("figure.pdf", "received figure.pdf, expected a name in .png or .svg"),
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


@pytest.mark.parametrize("command", [None, "keras-si run pmnist --seeds 3"])
def test_a_configuration_comes_back_with_its_command(command):
    config = make_config(hidden=(16, 4), seeds=3, held_out=True)
    folder.begin(".", config, command)
    assert folder.read_config(".") == (config, command)


def test_what_is_not_a_configuration_is_refused():
    with pytest.raises(OptionError, match=r"^DIR: \. has no run; name a fold"):
        folder.read_config(".")
    for change in ({"colour": 3}, {"methods": 3}, {"methods": ["gem"]}):
        files.write_json("config.json", {**make_config().to_dict(), **change})
        with pytest.raises(RunError, match="config.json is damaged: .*start "):
            folder.read_config(".")
    pathlib.Path("config.json").write_text('{"benchmark": "pmn')
    with pytest.raises(RunError, match="config.json is damaged: Unterminated"):
        folder.read_config(".")
