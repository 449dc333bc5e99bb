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


def test_a_folder_in_use_is_refused_until_its_process_ends_however_it_does():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, text=True, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        for given in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(RunError, match="out is in use by another proc"):
                with folder.locked_folder("out", **given):
                    pass
        holder.kill()
    with folder.locked_folder("out"):
        pathlib.Path("out/a").touch()


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
