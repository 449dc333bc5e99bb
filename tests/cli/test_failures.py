"""Disks that fail, folders that are lost, and kills while writing."""

import errno
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import failing_disk
import pytest
from click.testing import CliRunner
from keras_si_cli import (
    checkpoint,
    data,
    files,
    lock,
    main,
    progress,
    reading,
    startup,
)
from keras_si_cli.errors import RunError
from keras_si_cli.observer import Observer
from test_run import few_images, make_short

COMMAND = (
    *("run", "pmnist", "--hidden", "16", "--tasks", "2", "--epochs", "1"),
    *("--batch-size", "100", "--no-jit", "--method", "si"),
    *("--output", "out", "--resume"),
)


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda name, data_dir: few_images())
    monkeypatch.setattr(startup, "import_quietly", lambda **_: None)


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


# Folders that are lost.


class DoAtBatch(Observer):
    """Does something in the middle of the training."""

    def __init__(self, batch, action):
        self._left, self._action = batch, action

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def batch_ended(self, epoch, logs):
        self._left -= 1
        if self._left == 0:
            self._action()


def do_at_batch(monkeypatch, batch, action):
    observer = DoAtBatch(batch, action)
    monkeypatch.setattr(progress, "observer", lambda: observer)


OTHERS = {
    lock.LOCK: b"1\n",
    "config.json": b"another's",
    "results.json": b"another's",
    "checkpoint-0.json": b"another's",
    "average_accuracy.svg": b"another's",
}


def make_anew():
    """As if the folder had been deleted, and another run begun in it."""
    shutil.rmtree("out")
    os.mkdir("out")
    for name, content in OTHERS.items():
        pathlib.Path("out", name).write_bytes(content)


# Before the first checkpoint of a task, and before the last write of all.
@pytest.mark.parametrize("batch", [1, 6])
def test_a_folder_that_became_another_runs_is_left_alone(monkeypatch, batch):
    make_short(monkeypatch)
    do_at_batch(monkeypatch, batch, make_anew)
    line = fails_in_one_line(invoke())
    assert line.startswith("keras-si: error: out is this run's no longer: its")
    assert contents("out") == OTHERS


def test_a_run_whose_lock_was_removed_stops(monkeypatch):
    """A second run would be let in."""
    make_short(monkeypatch)
    before = {}

    def remove_lock():
        os.remove("out/.lock")
        before.update(contents("out"))

    do_at_batch(monkeypatch, 4, remove_lock)
    assert "this run's no longer" in fails_in_one_line(invoke())
    assert "checkpoint-0.npz" in before
    assert contents("out") == before
    assert invoke().exit_code == 0


def test_a_folder_lost_in_the_middle_of_a_write_is_left_alone(
    monkeypatch, tmp_path
):
    (tmp_path / "out").mkdir()
    lost = False

    def lose(operation, path):
        nonlocal lost
        if operation == "fsync" and not lost:
            lost = True
            make_anew()

    with lock.lock("out"):
        with monkeypatch.context() as patch:
            failing_disk.install(patch, lose)
            with pytest.raises(RunError, match="this run's no longer"):
                files.write_atomically("out/results.json", b"ours")
        with pytest.raises(RunError, match="this run's no longer"):
            files.remove("out/results.json")
        with pytest.raises(RunError, match="this run's no longer"):
            files.write_atomically("out/points/si.json", b"ours")
        files.write_atomically("elsewhere.json", b"ours")
    # The lock is the other's too.
    assert contents("out") == OTHERS


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_anew(
    monkeypatch, tmp_path
):
    """By its holder, who ends between our opening and our locking of it."""
    flock = fcntl.flock
    path = tmp_path / lock.LOCK

    def late(descriptor, operation):
        monkeypatch.undo()
        path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock.lock(tmp_path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(RunError, match="in use by another run"):
            with lock.lock(tmp_path):
                pass


def test_what_cannot_be_removed_is_told(monkeypatch, tmp_path):
    def refuse(operation, path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    failing_disk.install(monkeypatch, refuse)
    path = tmp_path / "a.json"
    with pytest.raises(RunError, match="a.json could not be removed .Read-on"):
        files.remove(path)


# Real processes.

# At the n-th of an operation on a checkpoint's arrays, or of all files: a
# signal, or from now on no file above a size.
REAL_RUN = """
import os, resource, signal, sys
here, what, operation, ending, count, *command = sys.argv[1:]
sys.path[:0] = [here, os.path.dirname(here)]
from keras_si_cli import data, main, startup
startup.import_quietly()
import failing_disk, test_run
data.load = lambda name, data_dir: test_run.few_images()
left = int(count)
def before(now, path):
    global left
    if now != operation or not path.name.endswith(ending):
        return
    left -= 1
    if left == 0:
        if what == "SIZE":
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
        else:
            os.kill(os.getpid(), getattr(signal, what))
class Patch:
    def setattr(self, owner, name, new, raising=True):
        setattr(owner, name, new)
failing_disk.install(Patch(), before)
main.main(command)
"""


def start_real_run(*args):
    here = os.path.dirname(__file__)
    return subprocess.run(
        [sys.executable, "-c", REAL_RUN, here, *args],
        capture_output=True,
        text=True,
    )


def test_real_processes_that_end_while_they_write_go_on():
    """One run: killed twice, its disk full, interrupted, and at its end."""
    # So many weights that their file is larger than any figure.
    command = [*COMMAND[:3], "256", *COMMAND[4:]]
    results = []
    for signal_, operation, ending, count in [
        ("SIGKILL", "write", ".npz", 3),  # In the middle of the first arrays.
        ("SIGKILL", "replace", "1.json", 1),  # Of the second checkpoint.
        ("SIZE", "open", ".npz", 1),
        ("SIGINT", "fsync", ".npz", 1),
        ("SIGKILL", "write", ".never", 1),
    ]:
        before = checkpoint.read("out")[0] if os.path.exists("out") else None
        done = start_real_run(signal_, operation, ending, str(count), *command)
        results.append((done.returncode, done.stderr, before))
    killed, between, full, interrupted, ended = results
    assert killed[0] == between[0] == -signal.SIGKILL, killed[1]
    told = [line for line in full[1].splitlines() if "note: " not in line]
    assert full[0] == 1 and len(told) == 1, told
    assert "npz could not be written (File too large); make room" in told[0]
    # It was of use to the next, and what failed has left it as it was.
    assert full[2] is not None and full[2] == interrupted[2]
    assert interrupted[0] == 130
    assert "interrupted; to go on: keras-si resume out" in interrupted[1]
    assert ended[0] == 0, ended[1]
    after = accuracies()
    assert not [n for n in os.listdir("out") if "draft" in n or "check" in n]
    shutil.rmtree("out")
    assert invoke(*command).exit_code == 0
    assert accuracies() == after
