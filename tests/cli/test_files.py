"""Files that cannot be half written, locks, checkpoints, and damage."""

import errno
import math
import os
import subprocess
import sys

import failing_disk
import numpy as np
import pytest
from cli_helpers import Killed
from keras_si_cli import files
from keras_si_cli.errors import RunError
from keras_si_cli.training import checkpoint, lock
from keras_si_cli.training.checkpoint import Checkpoints, Position

CONFIG = {"benchmark": "pmnist", "tasks": 3}
MADE_WITH = [{"versions": {"keras": "3"}, "device": "CPU, 1 core"}]


FIRST, SECOND, THIRD = ([[n, 2.5], [7.0]] for n in (1.0, 2.0, 3.0))


def content_of(found):
    """Returns what a checkpoint holds of its model."""
    with np.load(found.files["state"], allow_pickle=False) as file:
        return [file[name].tolist() for name in file.files]


# Writing.


def test_json_comes_back(tmp_path):
    path = tmp_path / "a.json"
    content = {"b": [1, 2.5, None], "a": {"ü": "text"}, "n": 1e-7}
    files.write_json(path, {**content, "nan": math.nan})
    assert files.read_json(path) == {**content, "nan": None}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("}", "", "Expecting|delimiter|EOF"),
        (None, "", "Expecting value"),
        (None, "[]", "no JSON object"),
        (None, "[" * 100_000, "nested too deeply"),
        (None, "\ud800", "utf-8|surrogate|Expecting|decode"),
    ],
)
def test_damaged_json_is_named(tmp_path, old, new, problem):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": [1, 2.5]})
    text = path.read_text()
    text = new if old is None else text.replace(old, new)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(files.DamagedFile, match=problem) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value)


ERRORS = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EROFS, os.strerror(errno.EROFS)),
    OSError(errno.EACCES, os.strerror(errno.EACCES)),
    OSError(errno.EIO, os.strerror(errno.EIO)),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path, monkeypatch, step, error
):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(operation, path):
        if operation == step:
            raise error

    failing_disk.install(monkeypatch, fail)
    expected = RunError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        files.write_atomically(path, b"new")
    if expected is RunError:
        assert str(path) in str(caught.value)
        assert error.strerror in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_large_file_that_fails_in_the_middle_is_told_once(
    tmp_path, monkeypatch, capfd
):
    """And closing what cannot be written says nothing more."""
    path = tmp_path / "a.npz"
    path.write_text("old")
    writes = 0

    def full(operation, path):
        nonlocal writes
        writes += operation == "write"
        if writes >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    failing_disk.install(monkeypatch, full)
    arrays = [np.zeros(50_000), np.ones(50_000)]
    with pytest.raises(RunError, match="a.npz could not be written .No space"):
        files.write_atomically(path, lambda file: np.savez(file, *arrays))
    assert writes >= 3
    assert path.read_text() == "old"
    assert capfd.readouterr() == ("", "")


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})
    seen = []
    replace = os.replace

    def spy(source, target):
        # All is written by now, and the target is still the old one.
        seen.append((files.read_json(path), files.read_json(source)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    files.write_json(path, {"new": 1})
    assert seen == [({"old": 1}, {"new": 1})]
    assert files.read_json(path) == {"new": 1}


def test_a_folder_that_is_gone_is_told(tmp_path):
    with pytest.raises(RunError, match="its folder is gone"):
        files.write_atomically(tmp_path / "gone" / "a.json", b"new")


def test_drafts_of_killed_runs_are_removed(tmp_path):
    (tmp_path / ".draft-123.a.json").touch()
    (tmp_path / "notes.txt").touch()
    files.remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]


# Locks.

HOLD = """
import sys
from keras_si_cli.training import lock
with lock.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_with_the_process_that_holds_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {holder.pid};"):
            with lock.lock(tmp_path):
                pass
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / lock.LOCK).exists()  # It had no time to tidy up.
    with lock.lock(tmp_path):
        assert (tmp_path / lock.LOCK).read_text() == f"{os.getpid()}\n"
    assert os.listdir(tmp_path) == []


# Checkpoints.


def save_twice(folder):
    checkpoints = Checkpoints(folder, CONFIG, MADE_WITH)
    checkpoints.save([{"done": 0}], Position(0, 1), FIRST)
    checkpoints.save([{"done": 1}], Position(1, 0), SECOND)
    return checkpoints


def test_the_newest_checkpoint_is_read(tmp_path):
    assert checkpoint.read(tmp_path) == (None, (1, 0, {}), [])
    save_twice(tmp_path)
    found, newest, problems = checkpoint.read(tmp_path)
    assert (found.trials, found.position) == ([{"done": 1}], Position(1, 0))
    assert content_of(found) == SECOND
    assert (found.config, found.made_with) == (CONFIG, MADE_WITH)
    assert (newest[:2], problems) == ((1, 2), [])
    again = Checkpoints(tmp_path, CONFIG, MADE_WITH, newest)
    again.save([{"done": 2}], Position(2, 0), THIRD)
    found, newest, _ = checkpoint.read(tmp_path)
    assert content_of(found) == THIRD
    assert newest[:2] == (0, 3)
    again.between_runs([{"done": 3}])
    found, newest, _ = checkpoint.read(tmp_path)
    assert (found.files, found.position.is_start) == ({}, True)
    again.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("resumed", [False, True])
def test_an_update_keeps_the_weights(tmp_path, resumed):
    checkpoints = save_twice(tmp_path)
    if resumed:
        _, newest, _ = checkpoint.read(tmp_path)
        checkpoints = Checkpoints(tmp_path, CONFIG, MADE_WITH, newest)
    checkpoints.update([{"done": 5}], Position(2, 0))
    found, _, _ = checkpoint.read(tmp_path)
    assert (found.trials, found.position) == ([{"done": 5}], Position(2, 0))
    assert content_of(found) == SECOND


@pytest.mark.parametrize("name", ["checkpoint-1.json", "checkpoint-1.npz"])
@pytest.mark.parametrize("damage", ["empty", "gone", "flip", "other"])
def test_after_damage_the_checkpoint_before_is_used(tmp_path, name, damage):
    save_twice(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "gone":
        path.unlink()
    else:
        other = (tmp_path / name.replace("1", "0")).read_bytes()
        path.write_bytes(
            {"empty": b"", "flip": content, "other": other}[damage]
        )
    found, newest, problems = checkpoint.read(tmp_path)
    assert (found.trials, newest[:2]) == ([{"done": 0}], (0, 1))
    assert content_of(found) == FIRST
    if (name, damage) == ("checkpoint-1.json", "gone"):
        assert problems == []
    else:
        assert len(problems) == 1 and "checkpoint-1" in problems[0]


def test_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", 4)
    save_twice(tmp_path)
    monkeypatch.undo()
    with pytest.raises(RunError, match="schema 4, this keras-si reads 3"):
        checkpoint.read(tmp_path)


def test_a_kill_between_any_two_operations_leaves_a_good_checkpoint(
    tmp_path, monkeypatch
):
    """Each operation on the disk is the last one, in turn."""
    for last in range(100):
        folder = tmp_path / str(last)
        folder.mkdir()
        checkpoints = save_twice(folder)
        left = iter(range(last))

        def count(operation, path, left=left):
            if next(left, None) is None:
                raise Killed  # Also where the draft would be tidied away.

        failing_disk.install(monkeypatch, count)
        killed = True
        try:
            checkpoints.save([{"done": 2}], Position(2, 0), THIRD)
            killed = False
        except Killed:
            pass
        monkeypatch.undo()
        found, _, problems = checkpoint.read(folder)
        done = found.trials[0]["done"]
        assert content_of(found) == {1: SECOND, 2: THIRD}[done]
        if not killed:
            assert (done, problems) == (2, [])
            break
    # Two files: open, write, fsync, replace, fsync of the folder.
    assert last >= 10
