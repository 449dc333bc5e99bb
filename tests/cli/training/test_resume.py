"""Runs that are killed, interrupted or damaged, and continue bit for bit."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import failing_disk
import numpy as np
import pytest
from cli_helpers import StopAt, bright_rows, few_images, invoke, make_config
from failing_disk import Killed
from helpers import TESTS
from keras_si_cli import files
from keras_si_cli.errors import RunError
from keras_si_cli.experiments import data
from keras_si_cli.results import figures
from keras_si_cli.results.results import Results
from keras_si_cli.training import method_run, progress, runner, start
from keras_si_cli.training.checkpoint import Position, find
from keras_si_cli.training.folder import CHECKPOINT, LOCK

pytestmark = pytest.mark.usefixtures("few")

# 3 steps an epoch of the smallest net.
OPTIONS = {"methods": ("si", "naive"), "tasks": 2, "epochs": 2, "hidden": ()}
COMMAND = (
    *("run", "pmnist", "--hidden", "8", "--tasks", "2", "--epochs", "2"),
    *("--batch-size", "100", "--no-jit", "--method", "si"),
)


@pytest.fixture
def knowledge(monkeypatch):
    """All that each model knew when it was evaluated, by method and task."""
    known = {}
    evaluate = method_run.MethodRun._evaluate

    def spy(self, task):
        variables = [*self.model.variables, *self.model.optimizer.variables]
        known[self.trial.method, task.index] = [*map(np.array, variables)]
        evaluate(self, task)

    monkeypatch.setattr(method_run.MethodRun, "_evaluate", spy)
    return known


def run(name, progress=None, **given):
    """Runs in a new folder, or continues the run in it."""
    os.makedirs(name, exist_ok=True)
    config = make_config(**{**OPTIONS, **given})
    begun, notes = find(name, config)
    assert notes == []
    return runner.run(config, name, progress=progress, begun=begun)


def interrupt(name, step, **given):
    """Leaves a run in a folder that was stopped at a training step."""
    with pytest.raises(KeyboardInterrupt):
        run(name, StopAt(step), **given)


def trials(results):
    """All of a run that does not depend on the machine's speed."""
    records = [trial.to_dict() for trial in results.trials]
    for record in records:
        del record["seconds"]
    return json.dumps(records)


def assert_same_trials(*names):
    one, other = (Results.load(name) for name in names)
    assert trials(one) == trials(other)


def assert_equal(known, expected):
    for key, values in known.items():
        for one, other in zip(values, expected[key], strict=True):
            np.testing.assert_array_equal(one, other)


def names_in(name):
    return set(os.listdir(name)) - {LOCK}


# Stopped in the second epoch, at the end of a task, and in the other method.
def test_a_stopped_run_continues_as_if_nothing_had_been(short, knowledge):
    whole = run("whole")
    expected = dict(knowledge)
    si, naive = whole.trials
    assert si.importance and not naive.importance
    for step in (5, 6, 20):
        knowledge.clear()
        out = f"out{step}"
        interrupt(out, step)
        # What a process leaves that is killed while it writes.
        pathlib.Path(out, ".draft-1.results.json").touch()
        steps = StopAt(1000)
        assert trials(run(out, steps)) == trials(whole)
        # At most an epoch is trained again, and everything else is not.
        assert 1000 - steps.left == 24 - (step - 1) // 3 * 3
        assert_equal(knowledge, expected)
        assert ("naive", 1) in knowledge
        assert names_in(out) == names_in("whole")


# What is not among Keras's weights, too: the methods' own variables, and where
# dropout's random generators stand. 3 steps an epoch, 6 of the union.
@pytest.mark.parametrize(
    ("benchmark", "method", "step", "given"),
    [
        ("smnist", "l2", 10, {"strength": 1.0}),
        ("smnist", "ewc", 10, {"strength": 100.0}),
        ("smnist", "replay", 10, {"scenario": "task", "memory": 9}),
        ("smnist", "si-replay", 10, {"scenario": "class", "strength": 1.0}),
        ("smnist", "scratch", 10, {}),
        ("smnist", "joint", 14, {}),
        ("smnist", "si", 14, {"epochs": None, "steps": 9}),
        ("scifar", "si", 4, {"strength": 1.0}),
    ],
)
def test_every_method_and_net_continues(
    monkeypatch, short, knowledge, benchmark, method, step, given
):
    monkeypatch.setattr(data, "load", bright_rows)
    given = {
        "benchmark": benchmark,
        "preset": "paper",
        "methods": (method,),
        "hidden": (8,),
        "batch_size": 20,
        "dataset": "mnist",
        **given,
    }
    whole = run("whole", **given)
    expected = dict(knowledge)
    knowledge.clear()
    interrupt("out", step, **given)
    begun, _ = find("out", make_config(**{**OPTIONS, **given}))
    assert begun.position != Position()
    assert trials(run("out", **given)) == trials(whole)
    assert_equal(knowledge, expected)


SHORT = {"methods": ("si",), "epochs": 2, "batch_size": 300}


def test_a_kill_at_any_change_of_the_folder_costs_nothing_but_time(short):
    whole, kills = trials(run("whole", **SHORT)), 0
    changes = ("replace", "unlink")
    while failing_disk.is_killed(kills, changes, run, f"out{kills}", **SHORT):
        assert trials(run(f"out{kills}", **SHORT)) == whole
        assert names_in(f"out{kills}") == names_in("whole")
        kills += 1
    # The configuration; results at the start, after each task and at the end;
    # checkpoints of each epoch and at the end; the figure; and where the last
    # checkpoint is removed.
    assert kills == 1 + 4 + 5 + 1 + 1


# Each kill is after a part of the processor's time that the run takes when it
# is left alone: it does not matter what else the machine does.
KILLS = """
import json, os, pathlib, random, signal, sys, pytest
sys.path.insert(0, sys.argv[1])
import cli_helpers
from keras_si_cli import main
from keras_si_cli.experiments import data
from keras_si_cli.results import figures
from keras_si_cli.training import runner, start
data.load = lambda name, data_dir: cli_helpers.few_images()
start.import_quietly = lambda **_: None
cli_helpers.make_short(pytest.MonkeyPatch())

def ended(seconds, *args):
    child = os.fork()
    if child == 0:
        # Ends the process where it stands, as SIGKILL does.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        main.main(args)
    _, status, used = os.wait4(child, 0)
    assert status in (0, signal.SIGPROF), status
    return status == 0, used.ru_utime + used.ru_stime

run = [*sys.argv[2:], "--overwrite", "--output"]
done, took = ended(0, *run, "whole")
rng, kills = random.Random(1), 0
while True:
    begun = os.path.exists("out/config.json")
    # Longer and longer, so that it ends.
    seconds = took * rng.uniform(0.2, 0.8) * (1 + kills / 4)
    if ended(seconds, *(["resume", "out"] if begun else [*run, "out"]))[0]:
        break
    kills += 1
print("kills", kills)
"""


def test_a_process_killed_at_random_moments_ends_as_if_nothing_had_been():
    done = subprocess.run(
        [sys.executable, "-c", KILLS, os.fspath(TESTS), *COMMAND],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 2
    assert_same_trials("whole", "out")  # importances, too
    assert names_in("out") == names_in("whole")


def test_a_run_that_replaces_another_one_continues_its_own(short):
    interrupt("out", 3, seed=5, **SHORT)
    # Stopped before it has a checkpoint.
    config = make_config(**{**OPTIONS, **SHORT})
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, "out", progress=StopAt(1))
    begun, notes = find("out", config)
    assert (begun.results.trials, notes) == ([], [])


# A full disk.


def test_a_full_disk_loses_nothing_that_was_there(monkeypatch, short):
    whole = trials(run("whole", **SHORT))
    for which in ("config", "results", "checkpoint"):
        out = f"out-{which}"
        interrupt(out, 4, **SHORT)
        before = {p.name: p.read_bytes() for p in pathlib.Path(out).iterdir()}
        assert CHECKPOINT in before

        def full(operation, path, which=which):
            if operation == "write" and which in path.name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            failing_disk.install(patch, full)
            with pytest.raises(RunError, match=f"{out}/{which}.* could not be"):
                if which == "config":  # Of a run that is to replace it.
                    runner.run(make_config(**OPTIONS), out)
                else:
                    run(out, **SHORT)
        for name, content in before.items():
            if which != "checkpoint" or name != "results.json":
                assert pathlib.Path(out, name).read_bytes() == content
        assert trials(run(out, **SHORT)) == whole


# The command line.


def ctrl_c(step=5, *more):
    """Leaves an interrupted run in `out`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "Progress", lambda: StopAt(step))
        patch.setattr(sys, "argv", ["keras-si", *COMMAND])
        return invoke(*COMMAND, *more, "--output", "out")


def test_ctrl_c_says_how_to_continue_and_that_works():
    """Traced, as users run it."""
    assert invoke(*COMMAND, "--output", "whole").exit_code == 0
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
    assert_same_trials("whole", "out")
    command = f"keras-si {' '.join(COMMAND)}"
    for name in ("config.json", "results.json"):
        assert files.read_json(f"out/{name}")["command"] == command
    # Again: there is nothing to do but to show it.
    again = invoke("resume", "out")
    assert again.exit_code == 0
    assert again.stderr == "note: the run in out is over\n"
    assert again.stdout.splitlines()[-6:] == result.stdout.splitlines()[-6:]


def test_a_run_killed_while_its_last_figure_is_drawn_has_it_after_resume(
    monkeypatch, short
):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(figures, "write_figures", kill)
        with pytest.raises(Killed):
            invoke(*COMMAND, "--output", "out")
    assert CHECKPOINT in os.listdir("out")
    result = invoke("resume", "out")
    assert result.stderr == "note: the run in out is over\n"
    assert pathlib.Path("out/average_accuracy.svg").read_text() == "['si']"
    assert CHECKPOINT not in os.listdir("out")


def test_versions_that_changed_are_said_and_kept(monkeypatch, short):
    ctrl_c()
    versions = {**start.versions(), "keras": "3.99"}
    monkeypatch.setattr(start, "versions", lambda: versions)
    result = invoke("resume", "out")
    assert result.exit_code == 0
    assert "begun with other versions or on another device" in result.stderr
    assert result.stderr.count("\n") == 1
    written = files.read_json("out/results.json")
    assert written["versions"]["keras"] != "3.99"
    (other,) = written["resumed_with"]
    assert other["versions"]["keras"] == "3.99"


def test_a_damaged_checkpoint_is_named_and_what_was_finished_is_kept(short):
    ctrl_c(20, "--method", "naive")
    si = files.read_json("out/results.json")["trials"][0]
    path = pathlib.Path("out", CHECKPOINT)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    result = invoke("resume", "out")
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert first.startswith("note: out/checkpoint.npz is damaged: ")
    assert "starts from its beginning" in second
    assert files.read_json("out/results.json")["trials"][0] == si
    trained = [line.split()[0] for line in result.stdout.splitlines()[:2]]
    assert trained == ["naive", "naive"]


def test_other_data_are_refused(monkeypatch, short):
    ctrl_c()
    before = pathlib.Path("out", CHECKPOINT).read_bytes()

    def others(name, data_dir):
        images = few_images()
        images.train.labels[0] = 1
        return images

    monkeypatch.setattr(data, "load", others)
    result = invoke("resume", "out")
    assert result.exit_code == 1
    assert "found differ from those that the run was begun" in result.stderr
    assert pathlib.Path("out", CHECKPOINT).read_bytes() == before
