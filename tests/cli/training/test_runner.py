"""A whole run, on a few hundred images, and the loop behind it."""

import json
import math
import os
import pathlib
import types

import keras
import numpy as np
import pytest
from cli_helpers import few_images, make_config, make_short, within_epoch
from click.testing import CliRunner
from helpers import only_on
from keras_si_cli import main, methods
from keras_si_cli.experiments import data, nets, pixels
from keras_si_cli.experiments import tasks as tasks_module
from keras_si_cli.training import method_run, runner, start
from keras_si_cli.training.observer import Observer


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda name, data_dir: few_images())


def invoke(*args):
    return CliRunner().invoke(
        main.main,
        [
            *("run", "pmnist", "--hidden", "16", "--tasks", "2"),
            *("--batch-size", "32", "--no-jit", *args),
        ],
    )


def test_a_run_from_the_command_line(monkeypatch):
    result = invoke("--output", "out", "--seed", "3")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert sorted(os.listdir("out")) == [
        "accuracy_per_task.png",
        "accuracy_per_task.svg",
        "average_accuracy.png",
        "average_accuracy.svg",
        "config.json",
        "results.json",
    ]
    written = json.loads(pathlib.Path("out/results.json").read_text())
    assert [run["method"] for run in written["trials"]] == ["si", "naive"]
    assert [run["seed"] for run in written["trials"]] == [3, 3]
    assert list(written["summary"]) == ["si", "naive"]
    assert list(written) == [
        *("schema", "benchmark", "started", "versions", "device"),
        *("command", "config"),
        *("trials", "summary"),
    ]
    expected = {"backend", "keras", "keras_si", "python", "tensorflow"}
    assert expected <= written["versions"].keys()
    options = json.loads(pathlib.Path("out/config.json").read_text())
    options.pop("command")
    assert options == written["config"]
    assert options["hidden"] == [16]
    assert (options["jit"], options["strength"]) == (False, 10.0)
    for run in written["trials"]:
        (first, unseen), (after, second) = run["accuracy"]
        unknown, untrained = run["untrained_accuracy"]
        assert unknown is None
        assert run["forward_transfer"] == pytest.approx(unseen - untrained)
        # Accuracies are counts of the 100 test images.
        for value in (first, after, second, unseen, untrained):
            assert value * 100 == pytest.approx(round(value * 100))
        assert run["average_accuracy"] == pytest.approx(
            [first, (after + second) / 2]
        )
    # One line for each task, then the table, then where the files are.
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["si"] * 2 + ["naive"] * 2
    assert lines[-1] == "results and figures: out"
    assert max(map(len, lines)) <= 80


def test_one_fit_is_one_task_to_si_and_it_takes_effect():
    """From equal weights: the first task is the same, the second is not."""
    results = runner.run(
        make_config(methods=("si", "naive"), strength=1000.0, epochs=2)
    )
    si, naive = (run.accuracy for run in results.trials)
    # Apart from rounding: SI takes its steps in another compiled function.
    assert si[0, 0] == pytest.approx(naive[0, 0], abs=0.03)
    assert not np.array_equal(si[1], naive[1])


def test_the_weights_at_the_start_are_the_same_for_every_method(monkeypatch):
    starts = []

    class Peek(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            starts.append([w.copy() for w in self.model.get_weights()])

    class Peeking(methods.Method):
        def callbacks(self):
            return [Peek()]

    monkeypatch.setitem(methods.METHODS, "one", Peeking)
    monkeypatch.setitem(methods.METHODS, "two", Peeking)
    runner.run(make_config(methods=("one", "two"), tasks=1))
    one, two = starts
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_method_is_made_once_for_a_run_and_serves_every_fit(monkeypatch):
    made, asked = [], []

    class Counting(methods.Method):
        def __init__(self, strength, damping):
            super().__init__(strength, damping)
            made.append(strength)

        def callbacks(self):
            asked.append(len(made))
            return []

    monkeypatch.setitem(methods.METHODS, "counting", Counting)
    runner.run(make_config(methods=("counting",), tasks=3, seeds=2))
    assert made == [10.0, 10.0]
    assert asked == [1, 1, 1, 2, 2, 2]


def test_a_run_can_be_repeated():
    one = runner.run(make_config(tasks=2))
    two = runner.run(make_config(tasks=2))
    other = runner.run(make_config(tasks=2, seed=1))
    np.testing.assert_array_equal(
        one.trials[0].accuracy, two.trials[0].accuracy
    )
    assert not np.array_equal(one.trials[0].accuracy, other.trials[0].accuracy)


def test_a_padded_run_has_the_net_and_the_permutations_of_larger_images(
    monkeypatch,
):
    make_short(monkeypatch)
    seen = []
    build = nets.build

    def watched(config, image_shape, *args, **options):
        seen.append(image_shape)
        return build(config, image_shape, *args, **options)

    monkeypatch.setattr(nets, "build", watched)
    padded = runner.run(make_config(padding=2))
    plain = runner.run(make_config())
    assert seen == [(10, 10, 1), (6, 6, 1)]
    assert (padded.trials[0].accuracy != plain.trials[0].accuracy).any()
    # It is the same data.
    assert padded.versions["data"] == plain.versions["data"]


def test_a_run_without_a_folder_writes_nothing():
    results = runner.run(make_config(tasks=1))
    assert results.trials[0].is_complete
    assert os.listdir() == []


def test_after_each_task_the_accuracies_are_heard():
    heard = []

    def after_task(trial, task):
        heard.append((trial.method, trial.seed, task, trial.tasks_done))

    runner.run(make_config(seeds=2), after_task=after_task)
    assert heard == [
        *(("naive", 0, 0, 1), ("naive", 0, 1, 2)),
        *(("naive", 1, 0, 1), ("naive", 1, 1, 2)),
    ]


def test_what_is_raised_after_a_task_ends_the_run():
    class Hopeless(Exception):
        pass

    def after_task(trial, task):
        raise Hopeless(f"after task {task}")

    config = make_config(precision="mixed_bfloat16")
    with pytest.raises(Hopeless, match="after task 0"):
        runner.run(config, os.curdir, after_task=after_task)
    # What was heard was written, and the precision is put back.
    written = json.loads(pathlib.Path("results.json").read_text())
    assert written["trials"][0]["accuracy"][0][0] > 0
    assert keras.config.dtype_policy().name == "float32"


def _checkpoints():
    return pathlib.Path.cwd().glob("checkpoint-*")


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_bytes_to_an_accelerator_give_the_same_run(monkeypatch, precision):
    """What is made of the bytes is the same, wherever it is made."""
    options = make_config(
        methods=("si",), tasks=2, epochs=4, precision=precision
    )
    on_host = runner.run(options).trials[0].accuracy
    monkeypatch.setattr(start, "on_accelerator", lambda: True)
    fed = []
    to_features = pixels.ToFeatures.call

    def call(self, x):
        fed.append(x.dtype)
        return to_features(self, x)

    monkeypatch.setattr(pixels.ToFeatures, "call", call)
    on_accelerator = runner.run(options).trials[0].accuracy
    assert {keras.backend.standardize_dtype(d) for d in fed} == {"uint8"}
    np.testing.assert_array_equal(on_host, on_accelerator)
    assert on_host[1, 1] > 0.6


def test_a_net_learns_and_plain_training_forgets_nothing_it_just_learned():
    results = runner.run(make_config(tasks=2, epochs=10))
    assert results.trials[0].accuracy[0, 0] > 0.95
    assert results.trials[0].accuracy[1, 1] > 0.95


def test_the_observer_hears_everything_in_order():
    heard = []

    class Listening(Observer):
        def loading(self, dataset):
            heard.append(f"loading {dataset}")

        def started(self, config, total_steps):
            heard.append(f"started {total_steps}")

        def task_started(self, method, seed, task):
            heard.append(f"task {method} {seed} {task}")

        def batch_ended(self, epoch, logs):
            heard.append(f"batch of epoch {epoch}")
            assert {"loss", "accuracy"} <= logs.keys()

        def task_trained(self):
            heard.append("trained")

        def task_ended(self, run, task, seconds):
            on_disk = json.loads(pathlib.Path("results.json").read_text())
            done = [
                row[0] is not None for row in on_disk["trials"][0]["accuracy"]
            ]
            heard.append(f"ended {task}, on disk {sum(done)}")

        def finished(self, results):
            heard.append("finished")

    runner.run(
        make_config(epochs=2, batch_size=200), os.curdir, observer=Listening()
    )
    batches = ["batch of epoch 0"] * 2 + ["batch of epoch 1"] * 2
    assert heard == [
        "loading mnist",
        "started 8",
        *("task naive 0 0", *batches, "trained", "ended 0, on disk 1"),
        *("task naive 0 1", *batches, "trained", "ended 1, on disk 2"),
        "finished",
    ]


def test_precision_is_set_for_the_run_and_put_back():
    seen = []

    class Listening(Observer):
        def task_started(self, method, seed, task):
            seen.append(keras.config.dtype_policy().name)

    before = keras.config.dtype_policy().name
    runner.run(
        make_config(precision="mixed_bfloat16", tasks=1),
        os.curdir,
        observer=Listening(),
    )
    assert seen == ["mixed_bfloat16"]
    assert keras.config.dtype_policy().name == before


@only_on("tensorflow")
@pytest.mark.parametrize(
    ("deterministic", "accelerator", "expected"),
    [(True, True, [1]), (True, False, []), (False, True, [])],
)
def test_determinism_is_asked_for_where_it_is_not_given(
    monkeypatch, deterministic, accelerator, expected
):
    import tensorflow as tf

    asked = []
    monkeypatch.setattr(start, "on_accelerator", lambda: accelerator)
    monkeypatch.setattr(
        tf.config.experimental,
        "enable_op_determinism",
        lambda: asked.append(1),
    )
    runner.run(make_config(tasks=1, deterministic=deterministic))
    assert asked == expected


def test_evaluating_does_not_trace_anew_for_every_task():
    tasks = tasks_module.tasks(few_images(), make_config(tasks=3), 0)
    specs = {str(task.test().element_spec) for task in tasks}
    assert len(specs) == 1


def test_a_test_set_is_one_pipeline_however_often_it_is_evaluated():
    """A new one each time is what made long runs grow."""
    for task in tasks_module.tasks(few_images(), make_config(tasks=2), 0):
        assert task.test() is task.test()
        first, again = ([*task.test().as_numpy_iterator()] for _ in range(2))
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def test_overwrite_replaces_our_files_and_leaves_others():
    os.mkdir("out")
    for name in ("results.json", "average_accuracy.svg", "notes.txt"):
        pathlib.Path("out", name).write_text("old")
    result = invoke("--output", "out", "--overwrite", "--method", "naive")
    assert result.exit_code == 0, result.stderr
    assert pathlib.Path("out/notes.txt").read_text() == "old"
    written = json.loads(pathlib.Path("out/results.json").read_text())
    assert [run["method"] for run in written["trials"]] == ["naive"]
    assert "old" not in pathlib.Path("out/average_accuracy.svg").read_text()


def test_report_compares_the_runs(monkeypatch):
    for seed in ("0", "1"):
        done = invoke("--output", seed, "--seed", seed, "--method", "naive")
        assert done.exit_code == 0, done.stderr
    result = CliRunner().invoke(
        main.main, ["report", "0", "1", "--output", "both.svg"]
    )
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    for seed in "01":
        results = json.loads(pathlib.Path(seed, "results.json").read_text())
        final = results["trials"][0]["final_average_accuracy"]
        row = lines[lines.index(seed) + 1]
        assert row.split()[:2] == ["naive", f"{100 * final:.2f}"]
    assert "0: plain training" in pathlib.Path("both.svg").read_text()


def test_importance_is_recorded_and_changes_nothing(monkeypatch):
    seen = []
    evaluate = method_run.MethodRun._evaluate

    def spy(self, task):
        optimizer = self.model.optimizer
        seen.append(
            {
                variable.path: np.array(importance)
                for variable, importance in zip(
                    optimizer.state.variables,
                    optimizer.state.importances,
                    strict=True,
                )
            }
        )
        evaluate(self, task)

    given = make_config(methods=("si",))
    monkeypatch.setattr(methods.METHODS["si"], "importance", lambda self: {})
    (without,) = runner.run(given).trials
    assert without.importance == {}
    monkeypatch.undo()
    monkeypatch.setattr(data, "load", lambda name, data_dir: few_images())
    monkeypatch.setattr(method_run.MethodRun, "_evaluate", spy)
    (run,) = runner.run(given).trials
    np.testing.assert_array_equal(run.accuracy, without.accuracy)
    np.testing.assert_array_equal(run.untrained, without.untrained)
    # What the optimizer holds after each of the two tasks.
    assert len(seen) == 2
    assert sorted(run.importance) == [
        *("dense_net/hidden_0/bias", "dense_net/hidden_0/kernel"),
        *("dense_net/logits/bias", "dense_net/logits/kernel"),
    ]
    for task, arrays in enumerate(seen):
        assert arrays.keys() == run.importance.keys()
        for path, array in arrays.items():
            record = run.importance[path]
            # Summed by Python, exactly.
            mean = math.fsum(array.ravel().tolist()) / array.size
            assert record["mean"][task] == pytest.approx(mean, rel=1e-12)
            assert record["max"][task] == array.max() > 0
    # They grow: the first task's was consolidated when it was recorded.
    kernel = run.importance["dense_net/hidden_0/kernel"]["mean"]
    assert 0 < kernel[0] < kernel[1]


def test_what_has_diverged_is_not_consolidated(monkeypatch):
    asked = []
    monkeypatch.setattr(
        methods.METHODS["si"], "importance", lambda self: asked.append(1)
    )

    class Breaking(Observer):
        def batch_ended(self, epoch, logs):
            weights = within_epoch(made[0]).trainable_variables[0]
            weights.assign(weights * np.nan)

    original = method_run.MethodRun._new_model
    made = []

    def remember(self):
        model = original(self)
        made.append(model)
        return model

    monkeypatch.setattr(method_run.MethodRun, "_new_model", remember)
    results = runner.run(
        make_config(methods=("si",)), os.curdir, observer=Breaking()
    )
    assert (
        "turned NaN or infinite in task 1, epoch 1" in results.trials[0].failed
    )
    assert asked == []


def test_an_interrupted_run_says_how_to_go_on(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(method_run, "_accuracy", interrupt)
    result = invoke("--output", "my out", "--method", "naive")
    assert result.exit_code == 130
    assert result.stderr == (
        "keras-si: error: interrupted; to go on: keras-si resume 'my out'\n"
    )


def test_interrupted_before_there_are_results_leaves_nothing(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", interrupt)
    result = invoke("--output", "out")
    assert result.exit_code == 130
    assert result.stderr == "keras-si: error: interrupted\n"
    assert os.listdir() == []


def test_an_error_in_a_run_is_one_line(monkeypatch):
    def fail(*args):
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr(method_run, "_accuracy", fail)
    result = invoke("--output", "out", "--method", "naive")
    assert result.exit_code == 1
    assert result.stderr == (
        "keras-si: error: ValueError: first line (--debug shows more)\n"
    )


def test_accuracy_is_the_exact_fraction():
    model = types.SimpleNamespace(
        # What a float32 mean of 9764 in 10000 looks like.
        evaluate=lambda *args, **kwargs: {"accuracy": 0.9764000177383423}
    )
    model.layers = []
    task = types.SimpleNamespace(
        permutation=None, test=lambda: None, test_examples=range(10000)
    )
    assert method_run._accuracy(model, task) == 0.9764
