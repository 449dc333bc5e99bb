"""Files that cannot be half written, locks, checkpoints, and damage."""

import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys

import pytest
from keras_si_cli import checkpoint, files, lock
from keras_si_cli.checkpoint import Checkpoints, Position
from keras_si_cli.errors import RunError

CONFIG = {"benchmark": "pmnist", "tasks": 3}
VERSIONS = {"keras": "3"}


class FakeModel:
    """Saves a few bytes where a Keras model saves its weights."""

    def __init__(self, content=b"weights"):
        self.content = content

    def save_weights(self, path):
        assert os.fspath(path).endswith(".weights.h5")
        pathlib.Path(path).write_bytes(self.content)


# Writing.


def test_json_comes_back_with_its_checksum_checked(tmp_path):
    path = tmp_path / "a.json"
    content = {"b": [1, 2.5, None], "a": {"ü": "text"}, "n": 1e-7}
    files.write_json(path, {**content, "nan": math.nan})
    assert files.read_json(path) == {**content, "nan": None}
    # Known from elsewhere: sha256sum of {"a":1}.
    assert files.json_checksum({"a": 1}) == (
        "sha256:"
        "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    )
    assert list(json.loads(path.read_text()))[-1] == "checksum"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("2.5", "2.6", "checksum does not fit"),
        ('"checksum"', '"chucksum"', "no checksum"),
        ("}", "", "Expecting|delimiter|EOF"),
        (None, "", "Expecting value"),
        (None, "[]", "no JSON object"),
        (None, "[" * 100_000, "nested too deeply"),
        (
            None,
            f'{{"checksum": 1, "a": {"[" * 990}{"]" * 990}}}',
            "nested too deeply|checksum does not fit",
        ),
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


FAILURES = [
    ("write_bytes", OSError(28, "No space left on device")),
    ("replace", OSError("Can't write (errno = 28, buf = 0x55)")),
    ("fsync", OSError(5, "Input/output error")),
    ("replace", OSError(30, "Read-only file system")),
    ("replace", KeyboardInterrupt()),
]


@pytest.mark.parametrize(("step", "error"), FAILURES, ids=str)
def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path, monkeypatch, step, error
):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*args, **kwargs):
        raise error

    owner = pathlib.Path if step == "write_bytes" else os
    monkeypatch.setattr(owner, step, fail)
    expected = RunError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        files.write_atomically(path, b"new")
    if expected is RunError:
        assert str(path) in str(caught.value)
        assert (error.strerror or os.strerror(28)) in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


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
from keras_si_cli import lock
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
    checkpoints = Checkpoints(folder, CONFIG, VERSIONS)
    checkpoints.save([{"done": 0}], Position(0, 1), FakeModel(b"first"), [])
    checkpoints.save([{"done": 1}], Position(1, 0), FakeModel(b"second"), [])
    return checkpoints


def test_the_newest_checkpoint_is_read(tmp_path):
    assert checkpoint.read(tmp_path) == (None, (1, 0, {}), [])
    save_twice(tmp_path)
    found, newest, problems = checkpoint.read(tmp_path)
    assert (found.runs, found.position) == ([{"done": 1}], Position(1, 0))
    assert found.weights.read_bytes() == b"second"
    assert (found.config, found.versions) == (CONFIG, VERSIONS)
    assert (newest[:2], problems) == ((1, 2), [])
    again = Checkpoints(tmp_path, CONFIG, VERSIONS, newest)
    again.save([{"done": 2}], Position(2, 0), FakeModel(b"third"), [])
    found, newest, _ = checkpoint.read(tmp_path)
    assert (found.weights.read_bytes(), newest[:2]) == (b"third", (0, 3))
    again.between_runs([{"done": 3}])
    found, newest, _ = checkpoint.read(tmp_path)
    assert (found.weights, found.position.is_start) == (None, True)
    again.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("resumed", [False, True])
def test_an_update_keeps_the_weights(tmp_path, resumed):
    checkpoints = save_twice(tmp_path)
    if resumed:
        _, newest, _ = checkpoint.read(tmp_path)
        checkpoints = Checkpoints(tmp_path, CONFIG, VERSIONS, newest)
    checkpoints.update([{"done": 5}], Position(2, 0))
    found, _, _ = checkpoint.read(tmp_path)
    assert (found.runs, found.position) == ([{"done": 5}], Position(2, 0))
    assert found.weights.read_bytes() == b"second"


@pytest.mark.parametrize(
    "name", ["checkpoint-1.json", "checkpoint-1.weights.h5"]
)
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
    assert (found.runs, newest[:2]) == ([{"done": 0}], (0, 1))
    assert found.weights.read_bytes() == b"first"
    if (name, damage) == ("checkpoint-1.json", "gone"):
        assert problems == []
    else:
        assert len(problems) == 1 and "checkpoint-1" in problems[0]


def test_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    save_twice(tmp_path)
    monkeypatch.undo()
    with pytest.raises(RunError, match="schema 2, this keras-si reads 1"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("steps", range(12))
def test_a_kill_between_any_two_operations_leaves_a_good_checkpoint(
    tmp_path, monkeypatch, steps
):
    """Each operation on the disk is the last one, in turn."""
    save_twice(tmp_path)
    operations = 0

    class Killed(BaseException):
        pass

    def count(function):
        def counted(*args, **kwargs):
            nonlocal operations
            operations += 1
            if operations > steps:
                raise Killed
            return function(*args, **kwargs)

        return counted

    for owner, name in [
        (os, "open"),
        (os, "fsync"),
        (os, "replace"),
        (pathlib.Path, "write_bytes"),
        (files, "_remove"),
    ]:
        monkeypatch.setattr(owner, name, count(getattr(owner, name)))
    checkpoints = Checkpoints(tmp_path, CONFIG, VERSIONS, (1, 2, {}))
    try:
        checkpoints.save([{"done": 2}], Position(2, 0), FakeModel(b"third"), [])
        killed = False
    except Killed:
        killed = True
    monkeypatch.undo()
    assert killed or operations <= steps
    found, _, _ = checkpoint.read(tmp_path)
    expected = {1: b"second", 2: b"third"}
    assert found.weights.read_bytes() == expected[found.runs[0]["done"]]
    assert killed or found.runs == [{"done": 2}]


def test_no_damage_is_taken_for_a_checkpoint(tmp_path):
    """600 damaged folders: each answer is one that was really written."""
    good = tmp_path / "good"
    good.mkdir()
    save_twice(good)
    names = sorted(os.listdir(good))
    rng = random.Random(0)
    written = {b"first": 0, b"second": 1}
    outcomes = {"first": 0, "second": 0, None: 0}
    for _ in range(600):
        folder = tmp_path / "damaged"
        shutil.copytree(good, folder)
        for name in rng.sample(names, rng.choice([1, 1, 2, 3])):
            damage(folder / name, rng)
        before = sorted(os.listdir(folder))
        try:
            found, _, problems = checkpoint.read(folder)
        except RunError as error:
            # A digit of the schema was hit, and the checksum with it.
            raise AssertionError(error) from error
        assert sorted(os.listdir(folder)) == before
        if found is None:
            outcomes[None] += 1
        else:
            content = found.weights.read_bytes()
            assert found.runs == [{"done": written[content]}]
            assert found.position == Position(
                *[(0, 1), (1, 0)][written[content]]
            )
            outcomes[content.decode()] += 1
        shutil.rmtree(folder)
    assert min(outcomes.values()) > 50, outcomes


def damage(path, rng):
    """Damages a file in one of the ways in which files are."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["truncate", "flip", "empty", "gone", "foreign", "swap"])
    if kind == "truncate":
        content = content[: rng.randrange(len(content))]
    elif kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "empty":
        content = b""
    elif kind == "foreign":
        content = rng.choice(
            [b"{}", b"[1]", b'{"schema": 1}', rng.randbytes(99)]
        )
    elif kind == "swap":
        content = rng.choice(sorted(path.parent.iterdir())).read_bytes()
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(content)
