"""Disks that fail, folders that are lost, and kills while writing."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import failing_disk
import numpy as np
import pytest
from click.testing import CliRunner
from keras_si_cli import (
    checkpoint,
    data,
    files,
    lock,
    main,
    reading,
    startup,
)
from keras_si_cli.observer import Observer
from test_cli_run import few_images, make_short

COMMAND = (
    *("run", "pmnist", "--hidden", "16", "--tasks", "2", "--epochs", "1"),
    *("--batch-size", "100", "--no-jit", "--method", "si"),
    *("--output", "out", "--resume"),
)


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda name, data_dir: few_images())
    monkeypatch.setattr(startup, "import_quietly", lambda: None)


def invoke(*args):
    return CliRunner().invoke(main.main, args or COMMAND)


def accuracies(folder="out"):
    return [run.accuracy.tolist() for run in reading.read(folder).runs]


def contents(folder):
    return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}


def fails_in_one_line(result):
    assert result.exit_code == 1, result.output
    lines = result.stderr.splitlines()
    (line,) = [line for line in lines if not line.startswith("note: ")]
    assert line.startswith("keras-si: error: ")
    return line


# Failing writes.

OPERATIONS = ("open", "write", "fsync", "replace")
NUMBERS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO)


def test_each_write_of_a_run_may_fail(monkeypatch):
    """One after the other: told in a line, and nothing but time is lost."""
    make_short(monkeypatch)
    assert invoke().exit_code == 0
    undisturbed = accuracies()
    kept = set(os.listdir("out")) | {".lock"}
    written = []
    while True:
        shutil.rmtree("out")
        turn, good = len(written), None
        # Another combination for each, and all for each kind of file.
        operation = OPERATIONS[turn % 4]
        error = NUMBERS[(turn + turn // 4) % 4]
        opened = 0

        def fail(now, path, operation=operation, error=error, turn=turn):
            nonlocal opened, good
            opened += now == "open"
            if opened == turn + 1 and now == operation:
                if good is None:
                    good = checkpoint.read("out")[0]
                    written.append(path.name)
                raise OSError(error, os.strerror(error))

        with monkeypatch.context() as patch:
            failing_disk.install(patch, fail)
            result = invoke()
        if len(written) == turn:
            break
        line = fails_in_one_line(result)
        assert f"could not be written ({os.strerror(error)})" in line
        if good is not None:
            assert checkpoint.read("out")[0] == good
        if os.path.exists("out"):
            assert not [n for n in os.listdir("out") if n.startswith(".draft")]
        assert invoke().exit_code == 0
        assert accuracies() == undisturbed
        assert set(os.listdir("out")) | {".lock"} == kept
    # Configuration and results; for each of two tasks arrays and JSON, results,
    # JSON; at the end results, JSON and a figure.
    assert len(written) == 2 + 2 * 4 + 3, written
    assert result.exit_code == 0
