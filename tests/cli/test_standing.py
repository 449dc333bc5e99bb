"""What an earlier run has left, in every form, and what is told of it."""

import dataclasses
import datetime
import io
import json
import os
import pathlib

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras_si_cli import (
    benchmarks,
    checkpoint,
    config,
    data,
    files,
    lock,
    main,
    method_run,
    model_state,
    output,
    progress,
    reading,
    runner,
    startup,
)
from keras_si_cli.errors import OptionError, RunError
from keras_si_cli.resume import standing
from test_resume import Quiet, StopAt
from test_run import (
    few_images,
    make_config,
    make_short,
    within_epoch,
)


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda name, data_dir: few_images())
    monkeypatch.setattr(startup, "import_quietly", lambda **_: None)
    make_short(monkeypatch)


def config_in(folder, **given):
    os.makedirs(folder, exist_ok=True)
    options = {"methods": ("si", "naive"), "batch_size": 100, "epochs": 2}
    return make_config(**{**options, "output": folder, **given})


def accuracies(results):
    """Which are checksums of the weights here."""
    return str([run.accuracy.tolist() for run in results.runs])


def stop(configured, batch):
    with pytest.raises(KeyboardInterrupt):
        runner.run(configured, StopAt(batch))


def go_on(configured):
    found = standing(configured.output, configured)
    counted = StopAt(10_000)
    results = runner.run(configured, counted, standing=found)
    return results, 10_000 - counted.left, found.notices


# Lengths in steps: 3 batches are a pass over the data.


def steps_in(folder, steps):
    return config_in(folder, epochs=None, steps=steps, methods=("si",))


def test_steps_are_epochs_that_may_end_early():
    """Whole passes in one `fit` are what as many epochs are."""
    epochs = runner.run(config_in("epochs", epochs=3, methods=("si",)))
    steps = runner.run(steps_in("steps", 9))
    assert accuracies(steps) == accuracies(epochs)


@pytest.mark.parametrize(
    ("batch", "again"),
    # 8 steps a task: passes end after 3, 6 and 8, for each of two tasks.
    [(3, 16), (4, 13), (7, 10), (8, 10), (9, 8), (12, 5)],
)
def test_a_task_in_steps_loses_no_more_than_a_pass(batch, again):
    """It was stopped at the end of a batch, before anything was saved."""
    whole = runner.run(steps_in("whole", 8))
    out = steps_in("out", 8)
    stop(out, batch)
    results, trained, notices = go_on(out)
    assert accuracies(results) == accuracies(whole)
    assert (trained, notices) == (again, [])


def test_a_pass_is_of_what_is_learned():
    """To `joint` the second task is both."""
    options = {"epochs": None, "steps": 8, "methods": ("joint",)}
    whole = runner.run(config_in("whole", **options))
    out = config_in("out", **options)
    stop(out, 8 + 7)
    found = standing("out", out)
    assert found.position == checkpoint.Position(1, 1)
    results, trained, _ = go_on(out)
    assert trained == 8 - 6
    assert accuracies(results) == accuracies(whole)


class Diverge(StopAt):
    """Makes the weights NaN at the n-th batch; ReLU hides it in the loss."""

    def __init__(self, batch, models):
        super().__init__(batch)
        self._models = models

    def batch_ended(self, epoch, logs):
        self.left -= 1
        if self.left == 0:
            model = within_epoch(self._models[-1])
            weights = model.get_weights()
            weights[-2][:] = np.nan
            model.set_weights(weights)


def test_what_diverges_in_steps_is_told_with_its_pass(monkeypatch):
    made = []
    new_model = method_run.MethodRun._new_model

    def spy(self):
        made.append(new_model(self))
        return made[-1]

    monkeypatch.setattr(method_run.MethodRun, "_new_model", spy)
    (run,) = runner.run(steps_in("out", 8), Diverge(8 + 5, made)).runs
    assert run.failed.endswith("in task 2, epoch 2")


# Checkpoints that were deleted by hand, or are older than the results.


def delete(*slots):
    for slot in slots:
        os.remove(f"out/checkpoint-{slot}.json")


def test_a_run_without_its_checkpoints_starts_anew_and_says_so():
    whole = runner.run(config_in("whole"))
    out = config_in("out")
    stop(out, 12 + 8)  # In the second task of the second method.
    delete(0, 1)
    results, trained, notices = go_on(out)
    assert notices == [
        "there is no checkpoint of naive seed 0 in out: it starts anew"
    ]
    assert trained == 12
    assert accuracies(results) == accuracies(whole)


def test_a_checkpoint_that_is_far_behind_is_told():
    whole = runner.run(config_in("whole"))
    out = config_in("out")
    stop(out, 5)
    kept = {p: p.read_bytes() for p in pathlib.Path("out").glob("check*")}
    # One epoch was trained; then the task, and the next one's first epoch.
    stop(out, 11)
    for path, content in kept.items():
        path.write_bytes(content)
    delete(1)
    results, trained, notices = go_on(out)
    assert notices == [
        "out knows 1 task of si seed 0, but its checkpoint is of task 1: it "
        "goes on there"
    ]
    assert trained == 24 - 3
    assert accuracies(results) == accuracies(whole)


def newest_slot():
    return checkpoint.read("out")[1][0]


def test_a_finished_method_is_not_run_again_from_an_older_checkpoint():
    """Its results are whole, whatever an old copy of a checkpoint says."""
    whole = runner.run(config_in("whole"))
    out = config_in("out")
    stop(out, 5)
    kept = {p: p.read_bytes() for p in pathlib.Path("out").glob("check*")}
    stop(out, 12 + 2)  # In the second method, before its first checkpoint.
    assert checkpoint.read("out")[0].files == {}  # Between two methods.
    delete(0, 1)
    for path, content in kept.items():
        path.write_bytes(content)
    found = checkpoint.read("out")[0]
    assert (found.runs[-1]["method"], found.position.task) == ("si", 0)
    results, trained, notices = go_on(out)
    assert (trained, notices) == (12, [])
    assert accuracies(results) == accuracies(whole)


# What it was made with.


ELSEWHERE = {
    "versions": {"keras": "3.99", "keras_si": "9"},
    "device": "GPU, of another kind",
}


def without_data(made_with):
    """Drops the checksum of the images, which is the same throughout."""
    checksum = few_images().checksum
    return [
        {
            **made,
            "versions": {
                name: version
                for name, version in made["versions"].items()
                if (name, version) != ("data", checksum)
            },
        }
        for made in made_with
    ]


def test_another_device_and_other_versions_are_told_and_recorded(monkeypatch):
    here = runner.environment()
    out = config_in("out", methods=("naive",))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "environment", lambda: ELSEWHERE)
        patch.setattr(runner, "_now", lambda: "2001-01-01T00:00:00+00:00")
        stop(out, 4)
    for _ in range(2):  # The same again is no news.
        found = standing("out", out)
        found.check_environment(runner.environment())
        with pytest.raises(KeyboardInterrupt):
            runner.run(out, StopAt(4), standing=found)
        told = "".join(found.notices)
        assert (
            f"begun with keras 3.99, and goes on with {keras.__version__}: "
        ) in told
        assert (
            "begun with device GPU, of another kind, and goes on with "
            f"{here['device']}: its results may differ"
        ) in told
        results = reading.read("out")
        assert results.started == "2001-01-01T00:00:00+00:00"
        assert without_data(results.made_with) == [ELSEWHERE, here]
        assert without_data(checkpoint.read("out")[0].made_with) == [
            ELSEWHERE,
            here,
        ]
    # Also where the results are lost, and the checkpoint is not.
    os.remove("out/results.json")
    assert without_data(standing("out", out).made_with) == [ELSEWHERE, here]


def test_what_begins_anew_is_made_with_what_is_here(monkeypatch):
    out = config_in("out", methods=("naive",))
    with monkeypatch.context() as patch:
        patch.setattr(runner, "environment", lambda: ELSEWHERE)
        patch.setattr(runner, "_now", lambda: "2001-01-01T00:00:00+00:00")
        stop(out, 1)
    found = standing("out", out)
    found.check_environment(runner.environment())
    assert without_data(found.made_with) == [ELSEWHERE] and found.notices == []
    results = runner.run(out, standing=found)
    assert without_data(results.made_with) == [runner.environment()]
    began = datetime.datetime.fromisoformat(results.started)
    assert began.year > 2001 and began.utcoffset() == datetime.timedelta(0)
    assert reading.read("out").started == results.started
    assert "resumed_with" not in json.loads(
        pathlib.Path("out/results.json").read_text()
    )


# Checkpoints of schema 1, which Keras wrote.


def write_as_schema_1(configured):
    """Writes the newest checkpoint again, as keras-si did before."""
    found, (slot, number, _), _ = checkpoint.read(configured.output)
    run = reading.read_run(found.runs[-1])
    tasks = benchmarks.tasks(few_images(), configured, run.seed)
    doing = method_run.MethodRun(
        run, tasks, few_images(), configured, None, None, None
    )
    model_state.restore(doing.model, doing.method, found.files)
    start = f"{configured.output}/checkpoint-{slot}"
    doing.model.save_weights(f"{start}.weights.h5")
    weights = {id(variable) for variable in doing.model.weights}
    others = doing.method.variables + [
        variable
        for variable in doing.model.variables
        if id(variable) not in weights
    ]
    names = {"weights": "weights.h5"}
    if others:
        np.savez(f"{start}.variables.npz", *[np.array(v) for v in others])
        names["variables"] = "variables.npz"
    position = {"task": found.position.task, "epoch": found.position.epoch}
    if configured.steps is not None:
        position["epoch"] = int(found.position.is_trained)
    for path in pathlib.Path(configured.output).glob("checkpoint-*.json"):
        path.unlink()
    os.remove(f"{start}.npz")
    files.write_json(
        f"{start}.json",
        {
            "schema": 1,
            "number": number,
            "config": found.config,
            "versions": found.made_with[0]["versions"],
            "runs": found.runs,
            "position": position,
            "files": {
                name: files.file_record(f"{start}.{ending}")
                for name, ending in names.items()
            },
        },
    )


@pytest.mark.parametrize(
    ("method", "length", "batch", "again"),
    [
        ("si", {"epochs": 2}, 10, 3),
        ("l2", {"epochs": 2}, 7, 6),
        ("si", {"epochs": None, "steps": 8}, 9, 8),
        # All of the first task is done, but for its evaluation.
        ("si", {"epochs": 2}, None, 6),
        ("si", {"epochs": None, "steps": 8}, None, 8),
    ],
)
def test_a_checkpoint_of_schema_1_is_read(
    monkeypatch, method, length, batch, again
):
    options = {"methods": (method,), "strength": 1.0, **length}
    whole = runner.run(config_in("whole", **options))
    out = config_in("out", **options)
    if batch is None:
        with monkeypatch.context() as patch:
            patch.setattr(method_run.MethodRun, "_evaluate", interrupt)
            stop(out, 10_000)
    else:
        stop(out, batch)
    write_as_schema_1(out)
    results, trained, notices = go_on(out)
    assert (trained, notices) == (again, [])
    assert accuracies(results) == accuracies(whole)
    assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))


def test_a_checkpoint_of_schema_1_does_not_know_the_device():
    out = config_in("out", methods=("si",))
    stop(out, 4)
    write_as_schema_1(out)
    os.remove("out/results.json")
    found = standing("out", out)
    found.check_environment(runner.environment())
    assert found.notices == []
    results = runner.run(out, standing=found)
    assert results.device == "unknown"
    assert reading.read("out").made_with == results.made_with


# Arrays that are not what they should be, and whose checksums fit.


class Touch:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def forge(arrays):
    """Writes other arrays into the newest checkpoint, and its checksum."""
    slot = newest_slot()
    np.savez(f"out/checkpoint-{slot}.npz", *arrays)
    path = f"out/checkpoint-{slot}.json"
    content = files.read_json(path)
    content["files"]["state"] = files.file_record(f"out/checkpoint-{slot}.npz")
    files.write_json(path, content)


def test_nothing_is_unpickled_and_what_does_not_fit_is_refused():
    out = config_in("out", methods=("si",))
    stop(out, 4)
    with np.load(f"out/checkpoint-{newest_slot()}.npz") as file:
        good = [file[name] for name in file.files]
    pickled = np.empty((), dtype=object)
    pickled[()] = Touch()
    buffer = io.BytesIO()
    np.savez(buffer, pickled)
    assert b"mkdir" in buffer.getvalue()
    for bad, problem in [
        ([pickled, *good[1:]], "could not be read: Object arrays"),
        (good[:-1], f"holds {len(good) - 1} arrays of"),
        ([good[0].T, *good[1:]], f"holds {len(good)} arrays of"),
        ([good[0].astype("float64"), *good[1:]], "was written by another"),
    ]:
        forge(bad)
        with pytest.raises(RunError, match=problem):
            go_on(out)
        assert not os.path.exists("unpickled")
    forge(good)
    go_on(out)


def test_a_checkpoint_that_names_unknown_files_is_damaged():
    out = config_in("out", methods=("si",))
    stop(out, 4)
    path = f"out/checkpoint-{newest_slot()}.json"
    content = files.read_json(path)
    for wrong in ({"pickle": {}}, {"state": 3}, None):
        files.write_json(path, {**content, "files": wrong})
        found, _, problems = checkpoint.read("out")
        assert found is None and len(problems) == 1


# Between two tasks something is done that must not be done again within one.


@pytest.mark.parametrize("method", ["naive", "scratch"])
def test_a_task_is_prepared_once(method):
    """The optimizer begins anew with each task, or the whole net does."""
    options = {"methods": (method,), "reset_optimizer": True, "epochs": 3}
    whole = runner.run(config_in("whole", **options))
    out = config_in("out", **options)
    stop(out, 9 + 5)
    found = standing("out", out)
    assert found.position == checkpoint.Position(1, 1)
    results, _, _ = go_on(out)
    assert accuracies(results) == accuracies(whole)


# Ctrl-C before anything of the new run is there.

COMMAND = (
    *("run", "pmnist", "--hidden", "16", "--tasks", "1", "--epochs", "2"),
    *("--batch-size", "100", "--no-jit", "--method", "naive"),
    *("--output", "out"),
)


def invoke(*args):
    return CliRunner().invoke(main.main, [*COMMAND, *args])


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["starting", "loading"])
def test_an_earlier_run_is_not_offered_in_place_of_the_new_one(
    monkeypatch, when
):
    assert invoke().exit_code == 0
    before = {p: p.read_bytes() for p in pathlib.Path("out").iterdir()}
    with monkeypatch.context() as patch:
        if when == "starting":
            patch.setattr(startup, "import_quietly", interrupt)
        else:
            patch.setattr(data, "load", interrupt)
        result = invoke("--overwrite")
        assert result.exit_code == 130
        assert result.stderr == "keras-si: error: interrupted\n"
        # Nothing was changed either.
        assert before == {
            p: p.read_bytes() for p in pathlib.Path("out").iterdir()
        }
    # The new run is offered as soon as there is one.
    monkeypatch.setattr(progress, "observer", lambda: Quiet(1))
    result = invoke("--overwrite")
    assert result.exit_code == 130
    assert "to go on: keras-si resume out" in result.stderr


def test_overwriting_leaves_no_results_beside_another_configuration(
    monkeypatch,
):
    """Whatever moment it is killed at."""
    assert invoke("--seed", "5").exit_code == 0
    write_json = files.write_json

    def killed(path, content):
        if os.path.basename(path) == "results.json":
            raise KeyboardInterrupt
        write_json(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", killed)
        assert invoke("--overwrite").exit_code == 130
    assert not os.path.exists("out/results.json")
    assert invoke("--resume").exit_code == 0
    assert reading.read("out").runs[0].seed == 0


# What must be known before a run goes on, or another is replaced.


def test_other_data_is_refused():
    """A run must not mix two datasets: its numbers would be of neither."""
    configured = config_in("out")
    stop(configured, 5)
    before = pathlib.Path("out/results.json").read_bytes()
    images = few_images()
    other = dataclasses.replace(images, train=images.test)
    with pytest.raises(OptionError, match="--data-dir.*checksums"):
        runner.run(
            configured,
            dataset=other,
            standing=standing("out", configured),
        )
    assert pathlib.Path("out/results.json").read_bytes() == before


def test_a_damaged_configuration_of_a_finished_run_is_named():
    configured = config_in("out", methods=("naive",), tasks=1)
    runner.run(configured)
    pathlib.Path("out/config.json").write_text('{"tas')
    found = standing("out", configured)
    assert found.results is not None
    assert "config.json is damaged" in found.notices[0]


def test_a_run_is_replaced_once_another_can_begin(monkeypatch):
    def contents():
        files_there = sorted(pathlib.Path("out").iterdir())
        return [(path.name, path.read_bytes()) for path in files_there]

    def impossible(*arguments):
        raise OptionError("--tasks", "there are no such classes")

    configured = config_in("out", methods=("naive",), tasks=1)
    runner.run(configured)
    before = contents()
    monkeypatch.setattr(benchmarks, "tasks", impossible)
    with pytest.raises(OptionError, match="no such classes"):
        runner.run(configured)
    assert contents() == before


def test_resume_leaves_what_is_no_run():
    os.mkdir("mine")
    pathlib.Path("mine/checkpoint-0.npz").write_text("mine")
    result = CliRunner().invoke(
        main.main,
        ["run", "pmnist", "--output", "mine", "--resume", "--tasks", "1"],
    )
    assert result.exit_code == 2
    assert "mine is not empty" in result.output
    assert os.listdir("mine") == ["checkpoint-0.npz"]


def test_a_folder_is_that_of_its_link():
    """`..` of a link is beside what it points to, and so is the lock."""
    os.makedirs("other/folder")
    os.symlink("other/folder", "link")
    with output.held("link/../out"):
        assert os.listdir("other/out") == [lock.LOCK]
        with pytest.raises(RunError), output.held("other/out"):
            pass


@pytest.mark.parametrize(
    "wrong",
    [
        {"tasks": "ten"},
        {"tasks": 2.0},
        {"hidden": 5},
        {"hidden": ["20"]},
        {"damping": "x"},
        {"learning_rate": None},
        {"methods": []},
        {"methods": [["si"]]},
        {"seeds": True},
        {"deterministic": "no"},
        {"data_dir": 7},
    ],
)
def test_a_configuration_of_wrong_types_is_refused(wrong):
    options = config_in("out").to_dict()
    with pytest.raises(OptionError, match="received|name at least one"):
        config.RunConfig.from_dict({**options, **wrong})
