"""A whole run, on a few hundred images, and the loop behind it."""

import math
import os
import pathlib
import types

import keras
import numpy as np
import pytest
from cli_helpers import invoke, make_config, within_epoch
from keras_si_cli import files, methods
from keras_si_cli.errors import OptionError
from keras_si_cli.experiments import data, nets
from keras_si_cli.experiments import tasks as tasks_module
from keras_si_cli.experiments.config import resolve
from keras_si_cli.training import method_run, progress, runner

pytestmark = pytest.mark.usefixtures("few")


def run_pmnist(*args):
    return invoke(
        *("run", "pmnist", "--hidden", "8", "--tasks", "2"),
        *("--batch-size", "100", "--no-jit", "--output", "out", *args),
    )


def written():
    return files.read_json("out/results.json")


def test_a_run_from_the_command_line():
    result = run_pmnist("--seed", "3")
    assert (result.exit_code, result.stderr) == (0, "")
    figures = ("accuracy_per_task", "average_accuracy")
    assert {*os.listdir("out")} - {".lock"} == {
        *(name + kind for name in figures for kind in (".png", ".svg")),
        *("config.json", "results.json"),
    }
    record = written()
    assert [t["method"] for t in record["trials"]] == ["si", "naive"]
    assert [t["seed"] for t in record["trials"]] == [3, 3]
    assert list(record["summary"]) == ["si", "naive"]
    expected = {"backend", "data", "keras", "keras_si", "python", "tensorflow"}
    assert expected <= record["versions"].keys()
    options = files.read_json("out/config.json")
    assert options.pop("command") == record["command"]
    assert options == record["config"]
    assert options["hidden"] == [8]
    assert (options["jit"], options["strength"]) == (False, 10.0)
    for trial in record["trials"]:
        (first, unseen), (after, second) = trial["accuracy"]
        unknown, untrained = trial["untrained_accuracy"]
        assert unknown is None
        assert trial["forward_transfer"] == pytest.approx(unseen - untrained)
        # Accuracies are counts of the 100 test images.
        for value in (first, after, second, unseen, untrained):
            assert value * 100 == pytest.approx(round(value * 100))
        assert trial["average_accuracy"] == pytest.approx(
            [first, (after + second) / 2]
        )
    # One line for each task, then the table, then where the files are.
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["si"] * 2 + ["naive"] * 2
    assert lines[-1] == "results and figures: out"
    assert max(map(len, lines)) <= 80


def test_the_same_seed_gives_the_same_run_and_another_one_another(short):
    runs = [
        runner.run(make_config(**given))
        for given in ({}, {}, {"seed": 1}, {"padding": 2}, {"seeds": 2})
    ]
    one, same, *others = [each.trials[-1].accuracy for each in runs]
    np.testing.assert_array_equal(one, same)
    for other in others:
        assert not np.array_equal(one, other)
    np.testing.assert_array_equal(others[0], others[2])
    # With padding it is another net with other permutations of the same data.
    assert runs[0].versions["data"] == runs[3].versions["data"]


def test_what_is_raised_after_a_task_ends_the_run(short):
    heard = []

    class Hopeless(Exception):
        pass

    def after_task(trial, task):
        heard.append((trial.method, trial.seed, task, trial.tasks_done))
        assert trial.average_accuracy[task] > 0
        if trial.seed == 1:
            raise Hopeless

    config = make_config(precision="mixed_bfloat16", seeds=2)
    with pytest.raises(Hopeless):
        runner.run(config, os.curdir, after_task=after_task)
    expected = [(0, 0, 1), (0, 1, 2), (1, 0, 1)]
    assert heard == [("naive", *each) for each in expected]
    # What was heard was written, and the precision is put back.
    trials = files.read_json("results.json")["trials"]
    assert trials[1]["accuracy"][0][0] > 0
    assert keras.config.dtype_policy().name == "float32"


def test_a_run_on_held_out_data_does_not_look_at_the_test_set(
    short, monkeypatch
):
    tested = []

    def listen(model, task):
        tested.append(len(task.test_examples))
        return 0.5

    monkeypatch.setattr(method_run, "_accuracy", listen)
    runner.run(make_config(held_out=True))
    assert set(tested) == {50}  # A sixth of the 300 training images.


def test_a_task_is_written_before_it_is_said_to_have_ended(short):
    heard, parts = [], []

    class Hearing(progress.Progress):
        def step(self, epoch, logs, share):
            parts.append(share)
            assert {"loss", "accuracy"} <= logs.keys()

        def task_ended(self, trial, task, seconds):
            (written,) = files.read_json("results.json")["trials"]
            done = [row[0] is not None for row in written["accuracy"]]
            heard.append((task, sum(done), sum(parts)))

    runner.run(make_config(epochs=2), os.curdir, progress=Hearing(quiet=True))
    assert heard == [(0, 1, pytest.approx(1)), (1, 2, pytest.approx(2))]


def test_a_run_of_the_papers_six_tasks_of_cifar(monkeypatch, eager):
    """One step a task: the loss is that of ten outputs that know nothing."""
    fits = []
    fit = keras.Sequential.fit

    def spy(model, *args, **kwargs):
        history = fit(model, *args, **kwargs).history
        active = tuple(model.layers[-1].active)
        fits.append((model.output_shape, active, history["loss"]))

    def one_image_of_each_class(name, data_dir):
        count = {"cifar10": 10, "cifar100": 100}[name]
        images = np.arange(count * 432) % 256
        images = images.reshape(count, 12, 12, 3).astype("uint8")
        split = data.Split(images, np.arange(count, dtype="int32"))
        return data.Data(name, count, split, split)

    monkeypatch.setattr(keras.Sequential, "fit", spy)
    monkeypatch.setattr(data, "load", one_image_of_each_class)
    given = {"methods": ("naive",), "steps": 1, "batch_size": 10}
    config = resolve("scifar", "paper", {**given, "hidden": (8,), "jit": False})
    (trial,) = runner.run(config).trials
    # The output weights start at zero, and those of later tasks stay there.
    unknown = [pytest.approx(math.log(10))]
    assert fits == [
        ((None, 60), (*range(first, first + 10),), unknown)
        for first in range(0, 60, 10)
    ]
    # The tasks met are tested, and the next one.
    measured = np.arange(6)[:, None] + 1 >= np.arange(6)
    np.testing.assert_array_equal(np.isfinite(trial.accuracy), measured)
    # Of ten equal outputs the first is named: one class, so one image, in ten.
    following = np.diagonal(trial.accuracy, offset=1)
    assert following == pytest.approx([0.1] * 5)
    assert trial.untrained[1:] == pytest.approx([0.1] * 5)


def test_overwrite_replaces_our_files_and_leaves_others(short, monkeypatch):
    os.mkdir("out")
    for name in ("results.json", "average_accuracy.png", "checkpoint.npz"):
        pathlib.Path("out", name).write_text("old")
    pathlib.Path("out/notes.txt").write_text("mine")
    arguments = ("--overwrite", "--method", "naive")

    # What cannot be run is refused before anything is replaced.
    def refuse(*args):
        raise OptionError("--tasks", "too many")

    with monkeypatch.context() as patch:
        patch.setattr(tasks_module, "tasks", refuse)
        result = run_pmnist(*arguments)
    assert result.stderr == "Error: --tasks: too many\n"
    assert result.exit_code == 2
    assert pathlib.Path("out/results.json").read_text() == "old"
    assert run_pmnist(*arguments).exit_code == 0
    assert pathlib.Path("out/notes.txt").read_text() == "mine"
    assert [trial["method"] for trial in written()["trials"]] == ["naive"]
    assert {*os.listdir("out")} - {".lock"} == {
        *("config.json", "results.json", "notes.txt", "average_accuracy.svg"),
    }


# What goes wrong.


@pytest.fixture
def failing(monkeypatch):
    """Plain training whose weights are NaN in the second task."""

    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):  # no loss shows it
            if Failing.calls == 2 and epoch == 1:
                weights = self.model.get_weights()
                weights[0][:] = np.nan
                self.model.set_weights(weights)

    class Failing(methods.METHODS["naive"]):
        calls = 0

        def callbacks(self):
            Failing.calls += 1
            return [Break()]

    monkeypatch.setitem(methods.METHODS, "naive", Failing)
    return Failing


def test_a_trial_that_diverges_is_marked_and_the_others_continue(
    short, failing
):
    result = run_pmnist("--epochs", "2", "--method", "naive", "--method", "si")
    assert result.exit_code == 1
    why = "the loss or a weight turned NaN or infinite in task 2, epoch 2"
    assert result.stderr == f"Error: naive seed 0: {why}\n"
    naive, si = written()["trials"]
    assert naive["failed"] == why and "failed" not in si
    assert naive["accuracy"][1] == [None, None]
    assert si["final_average_accuracy"] is not None
    assert written()["summary"]["naive"]["final_average_accuracy"]["n"] == 0
    # It is over, and not tried again.
    failing.calls = 0
    assert invoke("resume", "out").exit_code == 1
    assert failing.calls == 0


def test_what_has_diverged_is_not_consolidated(monkeypatch, eager):
    asked, made = [], []
    monkeypatch.setattr(
        methods.METHODS["si"], "importance", lambda self: asked.append(1)
    )

    class Breaking(progress.Progress):
        def step(self, epoch, logs, share):
            weights = within_epoch(made[0]).trainable_variables[0]
            weights.assign(weights * np.nan)

    original = nets.build

    def remember(*args):
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(nets, "build", remember)
    config = make_config(methods=("si",))
    (trial,) = runner.run(config, progress=Breaking()).trials
    assert "turned NaN or infinite in task 1, epoch 1" in trial.failed
    assert asked == []


def test_ctrl_c_before_the_run_has_begun_leaves_nothing(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", interrupt)
    result = run_pmnist()
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")
    assert os.listdir() == []


def test_a_bug_shows_its_traceback(short, monkeypatch):
    def fail(*args):
        raise ValueError("a bug")

    monkeypatch.setattr(method_run, "_accuracy", fail)
    result = run_pmnist("--method", "naive")
    assert isinstance(result.exception, ValueError)
    assert result.stderr == ""


def test_accuracy_is_the_exact_fraction():
    model = types.SimpleNamespace(
        # What a float32 mean of 9764 in 10000 looks like.
        evaluate=lambda *args, **kwargs: {"accuracy": 0.9764000177383423}
    )
    task = types.SimpleNamespace(test=None, test_examples=range(10000))
    assert method_run._accuracy(model, task) == 0.9764
