"""Runs on many devices are the run on one, or are refused in a line."""

import dataclasses
import json
import os
import pathlib
import signal
import types

import distributed_run
import keras
import numpy as np
import pytest
from helpers import only_on, start, worker_environments
from keras_si_cli import (
    benchmarks,
    checkpoint,
    devices,
    distribution,
    resume,
    runner,
    workers,
)
from keras_si_cli.errors import OptionError, RunError
from keras_si_cli.observer import Observer
from test_run import few_images, make_config

SCRIPT = distributed_run.__file__
COMMAND = (
    *("run", "pmnist", "--method", "si", "--tasks", "2", "--hidden", "20"),
    *("--epochs", "1", "--learning-rate", "0.0003", "--strength", "30"),
)


def finish(processes):
    """Waits for programs: the code, output and error output of each."""
    try:
        return [
            (p.wait(timeout=240), *p.communicate(timeout=240))
            for p in processes
        ]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def assert_same_run(one, other):
    """Weights, SI's state and accuracies of the last task."""
    with np.load(f"{one}.npz") as a, np.load(f"{other}.npz") as b:
        names = [name for name in a if name.startswith("si/1/")]
        assert len(names) > 20
        for name in names:
            scale = max(np.abs(b[name]).max(), 1e-7)
            assert np.abs(a[name] - b[name]).max() <= 1e-4 * scale, name
    accuracies = [
        json.loads(pathlib.Path(name, "results.json").read_text())["runs"][0][
            "accuracy"
        ]
        for name in (one, other)
    ]
    np.testing.assert_allclose(*accuracies, atol=1e-7)
    # Not what any net has.
    assert len({value for row in accuracies[0] for value in row}) > 2


# 10 steps a task, in batches of 32: the last one has 12.
EVEN = (*COMMAND, "--batch-size", "32", "--no-jit", "--output")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run on one device: the name of its folder and its `.npz`."""
    name = tmp_path_factory.mktemp("one") / "alone"
    ((code, _, error),) = finish(
        [start(SCRIPT, f"{name}.npz", "0", *EVEN, name)]
    )
    assert code == 0, error
    return name


@only_on("tensorflow")
def test_two_replicas_are_one_device(alone, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spread = (*EVEN, "spread", "--distribute", "mirrored")
    ((code, _, error),) = finish([start(SCRIPT, "spread.npz", "0", *spread)])
    assert code == 0, error
    assert_same_run("spread", alone)
    with np.load(f"{alone}.npz") as one, np.load("spread.npz") as two:
        assert (one["replicas"], two["replicas"]) == (1, 2)


@only_on("tensorflow")
def test_two_workers_are_one_device_and_go_on_where_they_were_killed(
    alone, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    spread = (*EVEN, "spread", "--distribute", "multiworker")

    def two_workers(name, stop, *more):
        return [
            start(SCRIPT, f"{name}{i}.npz", stop, *spread, *more, **environment)
            for i, environment in enumerate(worker_environments(2))
        ]

    killed = finish(two_workers("killed", "15"))
    assert [code for code, _, _ in killed] == [9, 9]
    first, second = finish(two_workers("worker", "0", "--resume"))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "results and figures: spread" in first[1]
    assert second[1] == (
        "worker 1 of 2, counted from 0: worker 0 shows and keeps the results\n"
    )
    pathlib.Path("worker0.npz").rename("spread.npz")
    assert_same_run("spread", alone)
    with np.load("spread.npz") as one, np.load("worker1.npz") as other:
        assert one["agreed"].tolist() == [True, False]
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert sorted(os.listdir("spread")) == sorted(os.listdir(alone))


# 31 does not divide by 2, and neither does the 21 of an epoch's last batch.
@only_on("jax")
def test_data_parallel_is_one_device(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    command = (*COMMAND, "--batch-size", "31", "--output")
    done = finish(
        [
            start(SCRIPT, "alone.npz", "0", *command, "alone"),
            start(
                *(SCRIPT, "spread.npz", "0", *command, "spread"),
                *("--distribute", "data-parallel"),
            ),
        ]
    )
    for code, _, error in done:
        assert code == 0, error
    assert_same_run("spread", "alone")
    with np.load("alone.npz") as alone, np.load("spread.npz") as spread:
        assert spread["shared"].size and spread["shared"].all()
        assert not alone["shared"].any()


@only_on("jax")
def test_what_ran_on_jax_is_in_the_results():
    import jax

    versions = runner.versions()
    assert (versions["backend"], versions["jax"]) == ("jax", jax.__version__)
    assert versions["tensorflow"]
    assert devices.name().startswith("CPU, ")


@only_on("jax")
def test_tensorflow_is_kept_off_the_accelerator(monkeypatch):
    hidden = []
    monkeypatch.setattr(
        devices.tf.config,
        "set_visible_devices",
        lambda *args: hidden.append(args),
    )
    devices.start("none")
    assert hidden == [([], "GPU")]


@only_on("jax")
def test_determinism_is_asked_of_jax_before_it_starts():
    code = (
        "from keras_si_cli import startup\n"
        "startup.import_quietly(deterministic=True)\n"
        "import os, jax\n"
        "print(jax.numpy.zeros(1) + 1, os.environ['XLA_FLAGS'])"
    )
    ((code, printed, error),) = finish([start("-c", code, XLA_FLAGS="")])
    assert code == 0, error
    assert printed == "[1.]  --xla_gpu_deterministic_ops=true\n"


# Refusals.


def assert_refused(result, expected):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("keras-si: error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("backend", "distribute", "expected"),
    [
        ("jax", "mirrored", "mirrored needs KERAS_BACKEND=tensorflow, which"),
        ("jax", "mirrored", "set it, or use --distribute data-parallel"),
        ("jax", "multiworker", "multiworker needs KERAS_BACKEND=tensorflow"),
        ("tensorflow", "data-parallel", "needs KERAS_BACKEND=jax"),
        ("tensorflow", "data-parallel", "or use --distribute mirrored"),
        ("torch", "none", "KERAS_BACKEND: received 'torch', expected one of"),
        ("torch", "mirrored", "KERAS_BACKEND: received 'torch', expected one"),
    ],
)
@pytest.mark.parametrize("command", ["run", "tune"])
def test_what_the_backend_has_not_is_refused(
    monkeypatch, cli, command, backend, distribute, expected
):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setenv("TF_CONFIG", tf_config())
    if (command, distribute) == ("tune", "multiworker"):
        expected = "multiworker is not for tune"
    result = cli(command, "pmnist", "--distribute", distribute)
    assert_refused(result, expected)


def tf_config(workers=("127.0.0.1:2000", "b:2001"), kind="worker", index=1):
    return json.dumps(
        {
            "cluster": {"worker": workers},
            "task": {"type": kind, "index": index},
        }
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "this one's index: it is not set. For the first of two: TF_CON"),
        ("", "it is no JSON (Expecting value"),
        ("{", "it is no JSON ("),
        ("[]", "it has no cluster, or no task with type and index"),
        ('{"cluster": {"worker": ["a:1"]}}', "it has no cluster, or no task"),
        ('{"cluster": [1], "task": {}}', "it has no cluster, or no task"),
        (tf_config(index="x"), "it has no cluster, or no task with type and"),
        (tf_config(kind="chief"), "the jobs worker and a task of type chief"),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]},'
            '"task": {"type": "worker", "index": 0}}',
            "it has the jobs chief, worker and a task of type worker; worker",
        ),
        (tf_config(workers="a:1"), "its workers are no list of host:port"),
        (tf_config(workers=["a:1", 5]), "its workers are no list of host:port"),
        (tf_config(workers=["a:1", "b"]), "its workers are no list of host:p"),
        (tf_config(workers=["a:1", "b:0"]), "its workers are no list of host"),
        (tf_config(workers=["a:1", "a:1"]), "it names a worker twice"),
        (tf_config(index=2), "it has the index 2, and 2 workers, counted fr"),
        (tf_config(index=-1), "it has the index -1, and 2 workers"),
        (tf_config(workers=[]), "it has the index 1, and 0 workers"),
    ],
)
def test_a_bad_tf_config_is_refused(monkeypatch, cli, content, expected):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if content is not None:
        monkeypatch.setenv("TF_CONFIG", content)
    result = cli("run", "pmnist", "--distribute", "multiworker")
    assert_refused(result, expected)


def test_a_worker_is_told_by_tf_config(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("TF_CONFIG", tf_config(index="1"))
    assert distribution.check("multiworker") == distribution.Worker(1, 2)
    # Which means nothing elsewhere.
    assert distribution.check("none") == distribution.Worker(0, 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"backend": "jax"}', "jax"),
        ("{}", "tensorflow"),
        ("{", "tensorflow"),
        (None, "tensorflow"),
    ],
)
def test_the_backend_is_the_one_that_keras_will_choose(
    monkeypatch, tmp_path, content, expected
):
    assert distribution.backend() == keras.backend.backend()
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", os.fspath(tmp_path))
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    assert distribution.backend() == expected


# Workers that are not alike, or not there.


def test_workers_that_differ_are_refused(monkeypatch, tmp_path):
    numbers = []

    def agreed(ours):
        numbers.append(ours)
        return [a == b for a, b in zip(ours, numbers[0])]

    monkeypatch.setattr(devices, "agreed", agreed)
    monkeypatch.chdir(tmp_path)
    config = make_config()
    standing = resume.Standing()
    workers.check_same(config, {"keras": "3"}, standing)
    elsewhere = dataclasses.replace(config, output="b", data_dir="c")
    workers.check_same(elsewhere, {"keras": "3"}, resume.Standing())
    other_place = resume.Standing(position=checkpoint.Position(1, 0))
    for differing, expected in [
        (
            (make_config(epochs=2), {"keras": "3"}, standing),
            "given different options",
        ),
        ((config, {"keras": "4"}, standing), "different versions of keras-si"),
        ((config, {"keras": "3"}, other_place), "do not find the same run"),
        ((config, {"keras": "3"}, None), "given different options"),
    ]:
        with pytest.raises(OptionError, match=expected):
            workers.check_same(*differing)


def test_a_lost_worker_is_told_in_one_line():
    import tensorflow as tf

    with pytest.raises(RunError, match="another worker .*Unavail.*--resume$"):
        with workers.telling_of_lost_ones():
            raise tf.errors.UnavailableError(None, None, "connection\nreset")


@only_on("tensorflow")
def test_while_workers_wait_for_each_other_ctrl_c_ends_the_process(monkeypatch):
    """Python would not hear of it before all of them are there."""
    before, seen = signal.getsignal(signal.SIGINT), []
    monkeypatch.setattr(
        devices,
        "_strategy",
        lambda distribute: seen.append(signal.getsignal(signal.SIGINT)),
    )
    devices.start("multiworker")
    assert seen == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) is before


def test_unequal_shares_are_told(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(devices, "_strategy", lambda distribute: strategy)
    heard = []
    observer = Observer()
    observer.notice = heard.append
    # 300 images: the last batch has 12, 21 and 20 of them.
    for distribute, batch_size in [
        ("mirrored", 32),
        ("none", 31),
        ("data-parallel", 31),
        ("multiworker", 35),
    ]:
        config = make_config(distribute=distribute, batch_size=batch_size)
        tasks = benchmarks.tasks(few_images(), config, 0)
        runner._tell_uneven(observer, config, tasks)
    (line,) = heard
    assert line.startswith("a batch of 35 has no equal parts for 2 replicas")
