"""Files that cannot be half written."""

import errno
import math
import os

import failing_disk
import numpy as np
import pytest
from keras_si_cli import files
from keras_si_cli.errors import RunError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_json_comes_back_with_null_for_nan_and_a_row_on_one_line(tmp_path):
    path = tmp_path / "a.json"
    content = {"b": [1, 2.5, None], "a": {"ü": "text"}, "n": 1e-7}
    files.write_json(path, {**content, "nan": math.nan})
    assert files.read_json(path) == {**content, "nan": None}
    assert ' "b": [1, 2.5, null],\n' in path.read_text()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"b": [1, 2.5]', "Expecting|delimiter"),
        (b"[]", "it has no JSON object"),
        (b"[" * 100_000, "recursion"),
        (b"\xed\xa0\x80", "decode"),
    ],
    ids=["torn", "a list", "deep", "no UTF-8"],
)
def test_json_that_is_damaged_is_named(tmp_path, content, problem):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(files.DamagedFile, match=f"a.json is dam.*{problem}"):
        files.read_json(path)


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=str)
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
    expected = RunError if error is FULL else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        files.write_atomically(path, b"new")
    if error is FULL:
        assert "a.json could not be written (No space" in str(caught.value)
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
            raise FULL

    failing_disk.install(monkeypatch, full)
    arrays = [np.zeros(50_000), np.ones(50_000)]
    with pytest.raises(RunError, match="a.npz could not be written .No space"):
        files.write_atomically(path, lambda file: np.savez(file, *arrays))
    assert path.read_text() == "old"
    assert capfd.readouterr() == ("", "")


def test_the_whole_new_file_is_there_before_it_replaces_the_old_one(
    tmp_path, monkeypatch
):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})
    seen = []
    replace = os.replace

    def spy(source, target):
        seen.append((files.read_json(path), files.read_json(source)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    files.write_json(path, {"new": 1})
    assert seen == [({"old": 1}, {"new": 1})]
    assert files.read_json(path) == {"new": 1}
