"""Runs that are killed, interrupted or damaged, and continue bit for bit."""

import errno
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import failing_disk
import numpy as np
import pytest
from cli_helpers import Killed, StopAt, few_images, make_config, make_short
from click.testing import CliRunner
from helpers import TESTS
from keras_si_cli import main
from keras_si_cli.errors import RunError
from keras_si_cli.experiments import data
from keras_si_cli.training import (
    folder,
    method_run,
    progress,
    runner,
    start,
)
from keras_si_cli.training.checkpoint import CHECKPOINT, Position
from keras_si_cli.training.folder import standing

OPTIONS = {"methods": ("si", "naive"), "tasks": 2, "epochs": 3}
COMMAND = (
    *("run", "pmnist", "--hidden", "16", "--tasks", "2", "--epochs", "3"),
    *("--batch-size", "100", "--no-jit"),
)


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda name, data_dir: few_images())
    monkeypatch.setattr(start, "import_quietly", lambda **_: None)


@pytest.fixture
def knowledge(monkeypatch):
    """All that each model knew when it was evaluated, by method and task."""
    known = {}
    evaluate = method_run.MethodRun._evaluate

    def spy(self, task):
        known[self.trial.method, task.index] = [
            np.array(v)
            for v in [*self.model.variables, *self.model.optimizer.variables]
        ]
        evaluate(self, task)

    monkeypatch.setattr(method_run.MethodRun, "_evaluate", spy)
    return known


def config_in(name, **given):
    os.makedirs(name, exist_ok=True)
    return make_config(**{**OPTIONS, **given})


def interrupted(name, step, **given):
    """Leaves a run in a folder that was stopped at a training step."""
    config = config_in(name, **given)
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, name, progress=StopAt(step))
    return config


def trials(results):
    """All of a run that does not depend on the machine's speed."""
    records = [trial.to_dict() for trial in results.trials]
    for record in records:
        del record["seconds"]
    return json.dumps(records)


def assert_equal(known, expected):
    for key, values in known.items():
        for one, other in zip(values, expected[key], strict=True):
            np.testing.assert_array_equal(one, other)


def names_in(name):
    return set(os.listdir(name)) - {folder.LOCK}


# 10 steps an epoch. Stopped in the second epoch, at the end of a task, and in
# the other method.
def test_a_stopped_run_continues_as_if_nothing_had_been(knowledge):
    whole = runner.run(config_in("whole"), "whole")
    expected = dict(knowledge)
    si, naive = whole.trials
    assert si.importance and not naive.importance
    for step in (15, 30, 95):
        knowledge.clear()
        out = f"out{step}"
        config = interrupted(out, step)
        steps = StopAt(10_000)
        found = standing(out, config)
        results = runner.run(config, out, progress=steps, standing=found)
        assert trials(results) == trials(whole)
        # At most an epoch is trained again, and everything else is not.
        assert 10_000 - steps.left == 120 - (step - 1) // 10 * 10
        assert_equal(knowledge, expected)
        assert ("naive", 1) in knowledge
        assert names_in(out) == names_in("whole")
    found = standing(out, config)
    assert found.is_over and trials(found.results) == trials(whole)


def images_of_12(name, data_dir):
    """Ten classes: the brighter row says which."""
    rng = np.random.default_rng(0)
    labels = np.arange(300, dtype="int32") % 10
    images = rng.integers(0, 80, (300, 12, 12, 1), "uint8")
    images[np.arange(300), labels] += 120
    split = data.Split(images, labels)
    return data.Data(name, 10, split, split)


# What is not among Keras's weights, too: the methods' own variables, and where
# dropout's random generators stand. 3 steps an epoch, 6 of the union.
@pytest.mark.parametrize(
    ("benchmark", "method", "step", "given"),
    [
        ("smnist", "l2", 14, {"strength": 1.0}),
        ("smnist", "ewc", 14, {"strength": 100.0}),
        ("smnist", "replay", 14, {"scenario": "task", "memory": 9}),
        ("smnist", "si-replay", 14, {"scenario": "class", "strength": 1.0}),
        ("smnist", "scratch", 14, {}),
        ("smnist", "joint", 20, {}),
        ("smnist", "naive", 8, {"epochs": None, "steps": 9}),
        ("smnist", "si", 8, {"epochs": None, "steps": 9}),
        ("scifar", "si", 4, {"strength": 1.0}),
    ],
)
def test_every_method_and_net_continues(
    monkeypatch, knowledge, benchmark, method, step, given
):
    make_short(monkeypatch)
    monkeypatch.setattr(data, "load", images_of_12)
    given = {
        "benchmark": benchmark,
        "preset": "paper",
        "methods": (method,),
        "batch_size": 20,
        "hidden": (8,),
        "dataset": "mnist",
        **given,
    }
    whole = runner.run(config_in("whole", **given), "whole")
    expected = dict(knowledge)
    knowledge.clear()
    config = interrupted("out", step, **given)
    found = standing("out", config)
    assert found.position != Position()
    results = runner.run(config, "out", standing=found)
    assert trials(results) == trials(whole)
    assert_equal(knowledge, expected)


SHORT = {"methods": ("si",), "epochs": 2, "batch_size": 300}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_kill_at_any_replace_costs_nothing_but_time(monkeypatch, before):
    make_short(monkeypatch)
    whole = trials(runner.run(config_in("whole", **SHORT), "whole"))
    replace, kills = os.replace, 0
    while True:
        out = f"out{kills}"
        config = config_in(out, **SHORT)
        left = iter(range(kills))

        def kill(source, target, left=left):
            killed = next(left, None) is None
            if killed and before:
                shutil.copy(source, f"{source}.torn")  # Nothing tidies up.
                raise Killed
            replace(source, target)
            if killed:
                raise Killed

        monkeypatch.setattr(os, "replace", kill)
        try:
            runner.run(config, out)
            break
        except Killed:
            kills += 1
        finally:
            monkeypatch.setattr(os, "replace", replace)
        found = standing(out, config)
        assert found.notes == []
        results = found.results
        if not found.is_over:
            results = runner.run(config, out, standing=found)
        assert trials(results) == whole
        assert names_in(out) == names_in("whole")
    # The configuration; results at the start, after each task and at the end;
    # checkpoints of each epoch and at the end; the figure.
    assert kills == 1 + 4 + 5 + 1


# Of the processor's time that the run takes when it is left alone: it does not
# matter what else is running, nor how fast the machine is.
KILL_AFTER = (0.2, 0.8)

REAL_RUN = """
import atexit, signal, sys, time
sys.path.insert(0, sys.argv[1])
from keras_si_cli import main
from keras_si_cli.experiments import data
from keras_si_cli.training import start
start.import_quietly()
import cli_helpers
data.load = lambda name, data_dir: cli_helpers.few_images()
# Ends the process where it stands, as SIGKILL does.
signal.signal(signal.SIGPROF, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_PROF, float(sys.argv[2]))
begun = time.process_time()
atexit.register(lambda: print(time.process_time() - begun, file=sys.stderr))
main.main(sys.argv[3:])
"""


def real_run(seconds, *args):
    here = os.fspath(TESTS)
    return subprocess.run(
        [sys.executable, "-c", REAL_RUN, here, str(seconds), *args],
        capture_output=True,
        text=True,
    )


def test_a_process_killed_at_random_moments_ends_as_if_nothing_had_been():
    done = real_run(0, *COMMAND, "--output", "whole")
    assert done.returncode == 0, done.stderr
    took = float(done.stderr.splitlines()[-1])
    rng = random.Random(1)
    kills = 0
    while True:
        # Longer and longer, so that it ends.
        seconds = took * rng.uniform(*KILL_AFTER) * (1 + kills / 4)
        begun = os.path.exists("out/config.json")
        command = ("resume", "out") if begun else (*COMMAND, "--output", "out")
        # What a kill before the first file has left, if there is anything.
        command += () if begun else ("--overwrite",)
        done = real_run(seconds, *command)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGPROF, done.stderr
        kills += 1
    assert kills
    whole, out = (
        json.loads(pathlib.Path(name, "results.json").read_text())
        for name in ("whole", "out")
    )
    for trial in (*whole["trials"], *out["trials"]):
        del trial["seconds"]
    assert whole["trials"] == out["trials"]  # importances, too
    assert names_in("out") == names_in("whole")


def test_a_run_that_replaces_another_one_continues_its_own(monkeypatch):
    make_short(monkeypatch)
    interrupted("out", 3, seed=5, **SHORT)
    # Stopped before it has a checkpoint.
    config = interrupted("out", 1, **SHORT)
    found = standing("out", config)
    assert (found.results.trials, found.notes) == ([], [])


# A full disk.


@pytest.mark.parametrize("which", ["config", "results", "checkpoint"])
def test_a_full_disk_loses_nothing_that_was_there(monkeypatch, which):
    make_short(monkeypatch)
    whole = trials(runner.run(config_in("whole", **SHORT), "whole"))
    config = interrupted("out", 4, **SHORT)
    before = {
        path.name: path.read_bytes() for path in pathlib.Path("out").iterdir()
    }
    assert CHECKPOINT in before

    def full(operation, path):
        if operation == "write" and which in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        failing_disk.install(patch, full)
        with pytest.raises(RunError, match=f"out/{which}.* could not be writ"):
            if which == "config":  # Of a run that is to replace it.
                runner.run(config, "out")
            else:
                runner.run(config, "out", standing=standing("out", config))
    for name, content in before.items():
        if which != "checkpoint" or name != "results.json":
            assert pathlib.Path("out", name).read_bytes() == content
    results = runner.run(config, "out", standing=standing("out", config))
    assert trials(results) == whole


# The command line.


def invoke(*args):
    return CliRunner().invoke(main.main, args)


def ctrl_c():
    """Leaves an interrupted run in `out`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "Progress", lambda: StopAt(15))
        patch.setattr(sys, "argv", ["keras-si", *COMMAND])
        return invoke(*COMMAND, "--output", "out")


def test_ctrl_c_says_how_to_continue_and_that_works():
    result = ctrl_c()
    assert result.exit_code == 130
    assert result.stderr == (
        "Error: interrupted; to continue: keras-si resume out\n"
    )
    result = invoke("resume", "out")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.endswith("results and figures: out\n")
    assert CHECKPOINT not in os.listdir("out")
    command = f"keras-si {' '.join(COMMAND)}"
    for name in ("config.json", "results.json"):
        assert json.loads(pathlib.Path("out", name).read_text())["command"] == (
            command
        )
    # Again: there is nothing to do but to show it.
    again = invoke("resume", "out")
    assert again.exit_code == 0
    assert again.stderr == (
        "note: the run in out is over: nothing is left to train\n"
    )
    assert again.stdout.splitlines()[-9:] == result.stdout.splitlines()[-9:]


def test_versions_that_changed_are_named_and_kept(monkeypatch):
    make_short(monkeypatch)
    ctrl_c()
    versions = {**start.versions(), "keras": "3.99"}
    tensorflow = versions.pop("tensorflow")
    monkeypatch.setattr(start, "versions", lambda: versions)
    result = invoke("resume", "out")
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert "and continues with 3.99: its results may differ" in first
    assert f"begun with tensorflow {tensorflow}, and continues with n" in second
    written = json.loads(pathlib.Path("out/results.json").read_text())
    assert written["versions"]["keras"] != "3.99"
    (other,) = written["resumed_with"]
    assert other["versions"]["keras"] == "3.99"


def test_a_damaged_checkpoint_is_named_and_what_was_finished_is_kept(
    monkeypatch,
):
    make_short(monkeypatch)
    whole = runner.run(config_in("whole"), "whole")
    config = interrupted("out", 95)
    path = pathlib.Path("out", CHECKPOINT)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    result = invoke("resume", "out")
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert first.startswith("note: out/checkpoint.npz is damaged: ")
    assert "starts from its beginning" in second
    found = standing("out", config)
    assert trials(found.results) == trials(whole)
    trained = [line.split()[0] for line in result.stdout.splitlines()[:2]]
    assert trained == ["naive", "naive"]  # SI was finished.


def test_other_data_are_refused(monkeypatch):
    make_short(monkeypatch)
    ctrl_c()
    before = pathlib.Path("out", CHECKPOINT).read_bytes()

    def others(name, data_dir):
        images = few_images()
        images.train.labels[0] = 1
        return images

    monkeypatch.setattr(data, "load", others)
    result = invoke("resume", "out")
    assert result.exit_code == 1
    assert "not those that the run was begun with" in result.stderr
    assert pathlib.Path("out", CHECKPOINT).read_bytes() == before


def test_a_data_folder_that_is_gone_is_named_before_anything_starts(cli):
    os.makedirs("images")
    os.makedirs("out")
    folder.begin("out", make_config(data_dir="images"), None)
    os.rmdir("images")
    result = cli("resume", "out")
    assert result.exit_code == 2
    assert "--data-dir: the run was begun with images, which is" in (
        result.stderr
    )
