"""Runs that are killed, interrupted or damaged, and go on."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from cli_helpers import (
    Killed,
    Quiet,
    StopAt,
    few_images,
    make_config,
    make_short,
)
from click.testing import CliRunner
from helpers import TESTS
from keras_si_cli import files, main
from keras_si_cli.errors import Interrupted, OptionError, RunError
from keras_si_cli.experiments import data
from keras_si_cli.experiments.config import resolve
from keras_si_cli.training import (
    checkpoint,
    method_run,
    progress,
    runner,
    start,
)
from keras_si_cli.training.observer import Observer
from keras_si_cli.training.resume import read_config, standing

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
    """All that each model knew when it was evaluated, by seed and method."""
    known = {}
    evaluate = method_run.MethodRun._evaluate

    def spy(self, task):
        known[self.run.method, task.index] = [
            np.array(v)
            for v in [*self.model.variables, *self.model.optimizer.variables]
        ]
        evaluate(self, task)

    monkeypatch.setattr(method_run.MethodRun, "_evaluate", spy)
    return known


def config_in(folder, **given):
    os.makedirs(folder, exist_ok=True)
    return make_config(**{**OPTIONS, **given})


def accuracies(results):
    """And importances, which a run must keep likewise."""
    return [
        (r.method, r.seed, r.accuracy.tolist(), r.to_dict().get("importance"))
        for r in results.trials
    ]


# 10 batches an epoch. Stopped in the first epoch, in the second, at the end of
# a task, in the second task, and in the other method.
def test_a_stopped_run_goes_on_as_if_nothing_had_been(knowledge):
    undisturbed = runner.run(config_in("whole"), "whole")
    expected = dict(knowledge)
    si, naive = accuracies(undisturbed)
    assert "null" not in json.dumps(si[3]) and naive[3] is None
    for batch in (5, 15, 30, 41, 95):
        knowledge.clear()
        folder = f"out{batch}"
        config = config_in(folder)
        with pytest.raises(KeyboardInterrupt):
            runner.run(config, folder, observer=StopAt(batch))
        counted = StopAt(10_000)
        found = standing(folder, config)
        results = runner.run(config, folder, observer=counted, standing=found)
        assert str(accuracies(results)) == str(accuracies(undisturbed))
        # At most an epoch is trained again, and everything else is not.
        assert 10_000 - counted.left == 120 - (batch - 1) // 10 * 10
        for key, values in knowledge.items():
            for one, other in zip(values, expected[key], strict=True):
                np.testing.assert_array_equal(one, other)
        assert ("naive", 1) in knowledge
        assert sorted(os.listdir(folder)) == sorted(os.listdir("whole"))
    # A run that is over is there as it was.
    found = standing("out95", config).results
    assert str(accuracies(found)) == str(accuracies(undisturbed))


def images_of_28(name, data_dir):
    """Ten classes: the brighter row says which."""
    rng = np.random.default_rng(0)
    labels = np.arange(300, dtype="int32") % 10
    images = rng.integers(0, 80, (300, 12, 12, 1), "uint8")
    images[np.arange(300), labels] += 120
    split = data.Split(images, labels)
    return data.Data(name, 10, split, split)


# What is not among Keras's weights, too: the methods' own variables, and where
# dropout's random generators stand.
@pytest.mark.parametrize(
    ("benchmark", "method", "batch"),
    [
        ("smnist", "l2", 14),
        ("smnist", "scratch", 14),
        ("smnist", "joint", 20),
        ("scifar", "si", 4),
    ],
)
def test_every_method_and_net_goes_on(
    monkeypatch, knowledge, benchmark, method, batch
):
    monkeypatch.setattr(data, "load", images_of_28)
    given = {
        "methods": (method,),
        "tasks": 2,
        "epochs": 3,
        "batch_size": 20,
        "hidden": (8,),
        "strength": 1.0 if method in ("l2", "si") else None,
        "dataset": "mnist",
        **{"seed": 0, "seeds": 1, "precision": "float32", "jit": False},
    }
    configs = {}
    for name in ("whole", "out"):
        os.mkdir(name)
        configs[name] = resolve(benchmark, "paper", given)
    whole = runner.run(configs["whole"], "whole")
    expected = dict(knowledge)
    knowledge.clear()
    with pytest.raises(KeyboardInterrupt):
        runner.run(configs["out"], "out", observer=StopAt(batch))
    found = standing("out", configs["out"])
    assert not found.position.is_start
    results = runner.run(configs["out"], "out", standing=found)
    assert str(accuracies(results)) == str(accuracies(whole))
    for key, values in knowledge.items():
        for one, other in zip(values, expected[key], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_kill_at_any_write_costs_nothing_but_time(monkeypatch, tmp_path):
    """One run, killed again and again, at each operation on its folder."""
    make_short(monkeypatch)
    few_options = {"tasks": 2, "epochs": 2, "batch_size": 300}
    whole = runner.run(config_in("whole", **few_options), "whole")
    config = config_in("out", **few_options)
    operations, last = 0, None
    replace = os.replace

    def counted(source, target):
        nonlocal operations
        operations += 1
        if operations == last:
            if os.path.basename(target).startswith("checkpoint"):
                shutil.copy(source, f"{source}.torn")  # A kill tidies nothing.
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", counted)
    rng = random.Random(1)
    kills = 0
    while True:
        operations, last = 0, rng.randrange(4, 14)
        try:
            results = runner.run(
                config, "out", standing=standing("out", config)
            )
            break
        except Killed:
            kills += 1
    assert kills >= 4
    assert str(accuracies(results)) == str(accuracies(whole))
    assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))


# Of the processor's time that the run takes when it is left alone: it does not
# matter what else is running, nor how fast the machine is.
KILL_AFTER = (0.2, 0.8)

REAL_RUN = """
import atexit, signal, sys, time
sys.path.insert(0, sys.argv[1])
from keras_si_cli import main
from keras_si_cli.experiments import data
from keras_si_cli.training import start
import cli_helpers
start.import_quietly()
data.load = lambda name, data_dir: cli_helpers.few_images()
# Ends the process where it stands, as SIGKILL does.
signal.signal(signal.SIGPROF, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_PROF, float(sys.argv[2]))
begun = time.process_time()
atexit.register(lambda: print(time.process_time() - begun, file=sys.stderr))
main.main(sys.argv[3:])
"""


def start_real_run(seconds, *args, **kwargs):
    here = os.fspath(TESTS)
    return subprocess.run(
        [sys.executable, "-c", REAL_RUN, here, str(seconds), *args],
        capture_output=True,
        text=True,
        **kwargs,
    )


def test_a_process_killed_at_random_moments_ends_as_if_nothing_had_been():
    done = start_real_run(0, *COMMAND, "--output", "whole")
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
        done = start_real_run(seconds, *command)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGPROF, done.stderr
        kills += 1
    assert kills
    whole, out = (
        json.loads(pathlib.Path(name, "results.json").read_text())
        for name in ("whole", "out")
    )
    for run in (*whole["trials"], *out["trials"]):
        del run["seconds"]
    assert whole["trials"] == out["trials"]  # importances, too
    assert set(os.listdir("out")) - {".lock"} == set(os.listdir("whole"))


# The command line.


def invoke(*args):
    return CliRunner().invoke(main.main, args)


def interrupted(batch=15, *options):
    """Leaves an interrupted run in `out`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "observer", lambda: Quiet(batch))
        return invoke(*COMMAND, "--output", "out", *options)


def test_ctrl_c_says_how_to_go_on_and_that_works():
    result = interrupted()
    assert result.exit_code == 130 == Interrupted.exit_code
    assert result.stderr == (
        "keras-si: error: interrupted; to go on: keras-si resume out\n"
    )
    result = invoke("resume", "out")
    assert result.exit_code == 0, result.stderr
    assert "results and figures: out" in result.stdout
    assert "checkpoint-0.json" not in os.listdir("out")
    # Again: there is nothing to do but to show it.
    again = invoke("resume", "out")
    assert again.exit_code == 0
    assert again.stderr == (
        "note: the run in out is over: there is nothing left to train\n"
    )
    assert again.stdout.splitlines()[-9:] == result.stdout.splitlines()[-9:]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("resume", "nothing"), "DIR: there is no folder nothing; name one"),
        (("resume", "."), "DIR: . holds no run; name a folder that"),
    ],
)
def test_what_cannot_be_resumed_is_told(args, message):
    result = invoke(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert os.listdir() == []


def test_a_folder_in_use_is_refused():
    from keras_si_cli.training import lock

    interrupted()
    with lock.lock("out"):
        for more in ((), ("--overwrite",)):
            result = invoke(*COMMAND, "--output", "out", *more)
            assert result.exit_code == 1
            assert f"another run, process {os.getpid()}" in result.stderr


def test_a_configuration_with_unknown_options_is_refused():
    interrupted()
    path = pathlib.Path("out/config.json")
    files.write_json(path, {**files.read_json(path), "colour": 3})
    for slot in (0, 1):
        pathlib.Path(f"out/checkpoint-{slot}.json").unlink(missing_ok=True)
    result = invoke("resume", "out")
    assert result.exit_code == 1
    assert "out/config.json: --colour: unknown here" in result.stderr


def test_a_newer_checkpoint_is_refused(monkeypatch):
    interrupted()
    path = pathlib.Path("out/checkpoint-0.json")
    files.write_json(path, {**files.read_json(path), "schema": 7})
    result = invoke("resume", "out")
    assert result.exit_code == 1
    assert "schema 7, this keras-si reads 3; update" in result.stderr


def test_versions_that_changed_are_told(monkeypatch):
    interrupted()
    versions = {**runner.versions(), "keras": "3.99"}
    tensorflow = versions.pop("tensorflow")
    monkeypatch.setattr(runner, "versions", lambda: versions)
    result = invoke("resume", "out")
    assert result.exit_code == 0
    assert "goes on with 3.99" in result.stderr
    assert f"with tensorflow {tensorflow}, and goes on without" in result.stderr


# Damage.


def test_damaged_files_are_named_and_not_used():
    whole = runner.run(config_in("whole"), "whole")
    config = config_in("out")
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, "out", observer=StopAt(95))
    for name, expected in [
        ("results.json", None),
        ("config.json", None),
        (newest(), None),
    ]:
        path = pathlib.Path("out", name)
        path.write_bytes(path.read_bytes()[:-40])
        found = standing("out", config)
        assert any(name in notice for notice in found.notices), expected
        assert found.position is not None
    # The checkpoint before is one epoch older.
    counted = StopAt(10_000)
    results = runner.run(config, "out", observer=counted, standing=found)
    assert 10_000 - counted.left == 40
    assert str(accuracies(results)) == str(accuracies(whole))


def newest():
    _, (slot, _, _), _ = checkpoint.read("out")
    return f"checkpoint-{slot}.npz"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (None, "results.json"),
        ("config.json", "results.json"),
        ("config.json", "checkpoint-1.json"),
        ("results.json", "config.json"),
        ("checkpoint-0.json", "config.json"),
    ],
)
def test_our_own_files_in_the_wrong_place_are_foreign_too(source, target):
    config = config_in("out")
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, "out", observer=StopAt(25))
    content = (
        b"{}" if source is None else pathlib.Path("out", source).read_bytes()
    )
    pathlib.Path("out", target).write_bytes(content)
    assert read_config("out") == config
    found = standing("out", config)
    assert found.files
    assert target == "config.json" or target in found.notices[0]


def test_another_runs_checkpoint_is_refused():
    for name, seed in (("out", 0), ("other", 5)):
        with pytest.raises(KeyboardInterrupt):
            runner.run(config_in(name, seed=seed), name, observer=StopAt(15))
    for path in pathlib.Path("other").glob("checkpoint-*"):
        shutil.copy(path, "out")
    with pytest.raises(OptionError, match="--seed: received 0, but the run"):
        standing("out", config_in("out"))


def test_without_a_checkpoint_the_finished_runs_are_kept():
    config = config_in("out")
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, "out", observer=StopAt(95))
    for path in pathlib.Path("out").glob("checkpoint-*.json"):
        path.write_text("")
    found = standing("out", config)
    assert [run.method for run in found.trials] == ["si"]
    assert len(found.notices) == 2
    assert "what was not finished starts anew" in found.notices[0]


def test_when_all_is_damaged_nothing_is_started_or_deleted():
    config = config_in("out")
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, "out", observer=StopAt(15))
    for path in pathlib.Path("out").glob("*.json"):
        path.write_text("{")
    before = sorted(os.listdir("out"))
    with pytest.raises(RunError, match="Nothing is left to go on from"):
        standing("out", config)
    result = invoke("resume", "out")
    assert result.exit_code == 1
    assert "config.json is damaged" in result.stderr
    assert sorted(os.listdir("out")) == before


def test_another_runs_results_are_not_taken_for_this_ones():
    config = config_in("out")
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, "out", observer=StopAt(15))
    other = config_in("other", seed=5)
    runner.run(other, "other")
    shutil.copy("other/results.json", "out/results.json")
    with pytest.raises(OptionError, match="--seed: received 0, but the run"):
        standing("out", config)


# What goes wrong in the training.


@pytest.fixture
def failing(monkeypatch):
    """Plain training whose weights are NaN from the second task on."""
    from keras_si_cli import methods

    class Failing(methods.Naive):
        calls = 0

        def callbacks(self):
            import keras

            class Break(keras.callbacks.Callback):
                def on_epoch_begin(self, epoch, logs=None):
                    if Failing.calls == 2 and epoch == 1:
                        weights = self.model.get_weights()
                        weights[0][:] = np.nan
                        self.model.set_weights(weights)

            Failing.calls += 1
            return [Break()]

    monkeypatch.setitem(methods.METHODS, "naive", Failing)
    return Failing


def test_a_run_that_diverges_is_marked_and_the_others_go_on(failing):
    result = invoke(
        *COMMAND, "--output", "out", "--method", "naive", "--method", "si"
    )
    assert result.exit_code == 1
    why = "the loss or a weight turned NaN or infinite in task 2, epoch 2"
    assert result.stderr == f"keras-si: error: naive seed 0: {why}\n"
    written = json.loads(pathlib.Path("out/results.json").read_text())
    naive, si = written["trials"]
    assert naive["failed"] == why and "failed" not in si
    assert naive["accuracy"][1] == [None, None]
    assert si["final_average_accuracy"] is not None
    assert written["summary"]["naive"]["final_average_accuracy"]["n"] == 0
    # It is over, and not tried again.
    failing.calls = 0
    assert invoke("resume", "out").exit_code == 1
    assert failing.calls == 0


def test_a_full_disk_leaves_the_last_good_checkpoint(monkeypatch):
    config = config_in("out")
    whole = runner.run(config_in("whole"), "whole")
    write = files._sync_folder
    left = 11

    def full(path):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        write(path)

    monkeypatch.setattr(files, "_sync_folder", full)
    with pytest.raises(RunError, match="could not be written .No space left"):
        runner.run(config, "out")
    left = 10_000
    found = standing("out", config)
    assert found.files and not found.notices
    results = runner.run(config, "out", standing=found)
    assert str(accuracies(results)) == str(accuracies(whole))


def test_a_folder_deleted_under_the_run_is_told():
    class Delete(Observer):
        def batch_ended(self, epoch, logs):
            shutil.rmtree("out", ignore_errors=True)

    with pytest.raises(RunError, match="its folder is gone"):
        runner.run(config_in("out"), "out", observer=Delete())
