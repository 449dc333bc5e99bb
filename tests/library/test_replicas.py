"""Many devices: the same SI as one device on the same global batches."""

import collections
import pathlib

import distributed_training as setting
import numpy as np
import pytest
import reference_si as oracle
from helpers import (
    DAMPING,
    STRENGTH,
    assert_close,
    begin,
    finish,
    make_tasks,
    only_on,
    sgd,
    start,
    worker_environments,
)

SCRIPT = pathlib.Path(setting.__file__)
ORACLES = {
    "clipped": lambda: oracle.Adam(1e-2, clipnorm=0.1),
    "every_two_steps": lambda: oracle.SGD(0.05, momentum=0.9),
}


def expected(case, before):
    """The oracle's account of what `distributed_training` does."""
    network, optimizer = oracle.Network(l2=setting.L2), ORACLES[case]()
    si = oracle.ReferenceSI(network, before, optimizer, STRENGTH, DAMPING)
    results = collections.defaultdict(list)
    steps = 0
    for x, y in make_tasks(examples=setting.EXAMPLES):
        if case == "clipped" and steps:
            si.consolidate()
        for _ in range(2):
            losses = []
            for first in range(0, len(x), 8):
                batch = slice(first, first + 8)
                logs = si.train_step(np.float64(x[batch]), y[batch])
                losses.append(logs["task_loss"] + logs["penalty"])
                steps += 1
                if case == "every_two_steps" and steps % 2 == 0:
                    si.consolidate()
            results["loss"].append(np.mean(losses))
            results["si_penalty"].append(si.penalty())
    if case == "clipped":
        results["path_integral"] = [w.copy() for w in si.path_integral]
        loss, _ = network.loss_and_gradients(si.weights, x, y)
        results["evaluate"] = [loss]  # after the task: no penalty
        si.consolidate()
    results.update(
        weights=si.weights, importance=si.importance, reference=si.reference
    )
    if case == "clipped":
        results["importance after a NaN"] = si.importance
        results["reference after a NaN"] = si.reference
        # Of two steps the second one contributes nothing.
        x, y = make_tasks(examples=16)[0]
        si.train_step(np.float64(x[:8]), y[:8])
        *path_integral, bias = si.path_integral
        dropped = np.zeros_like(bias)
        results["path_integral after a NaN"] = [*path_integral, dropped]
    return results


def assert_said(printed):
    """By every worker alike."""
    assert len(set(printed)) == 1
    refused, broken, infinite, broken_again = printed[0].strip().split("\n")
    assert refused.startswith("Cannot consolidate: there are NaN")
    assert (
        "NaN or infinite values in the weights of ['sequential/dense_0/k"
        in broken
    )
    assert infinite.endswith(
        "set to 0: 3 in 'sequential/dense_2/bias'. "
        "Lower the learning rate or clip the gradients."
    )
    assert broken_again == broken


def assert_agrees(path):
    with np.load(path) as written:
        results = collections.defaultdict(lambda: collections.defaultdict(list))
        for name in written:  # in the order they were written
            case, what, _ = name.split("/")
            results[case][what].append(written[name])
    for case, actual in results.items():
        wanted = expected(case, actual["before"])
        for what, values in wanted.items():
            assert_close(actual[what], values, f"{case}: {what}")
        assert max(wanted["si_penalty"]) > 1e-6


@only_on("tensorflow")
def test_mirrored(tmp_path):
    output = tmp_path / "arrays.npz"
    assert_said(finish([start(SCRIPT, "mirrored", output)]))
    assert_agrees(output)


@only_on("tensorflow")
def test_multi_worker(tmp_path):
    outputs = [tmp_path / f"{index}.npz" for index in range(2)]
    printed = finish(
        [
            start(SCRIPT, "multiworker", output, **environment)
            for output, environment in zip(outputs, worker_environments(2))
        ]
    )
    assert_said(printed)
    for output in outputs:
        assert_agrees(output)


@only_on("jax")
@pytest.mark.parametrize("kind", ["data-parallel", "model-parallel"])
def test_jax(kind, tmp_path):
    output = tmp_path / "arrays.npz"
    flags = "--xla_force_host_platform_device_count=2"
    assert_said(finish([start(SCRIPT, kind, output, XLA_FLAGS=flags)]))
    assert_agrees(output)


@only_on("tensorflow")
def test_a_strategy_of_another_kind_is_refused():
    import tensorflow as tf

    strategy = tf.distribute.experimental.CentralStorageStrategy(
        ["CPU:0"], "CPU:0"
    )
    with strategy.scope():
        model, si, *_ = begin()
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="MirroredStrategy.*CentralStorage"):
        si.set_model(model)
    assert model.optimizer is optimizer


@only_on("tensorflow")
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2},
        {"use_ema": True, "ema_overwrite_frequency": 3},
    ],
)
def test_what_keras_has_not_on_several_replicas_is_refused(
    options, monkeypatch
):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model, si, *_ = begin(sgd(**options))
    *_, option = options
    with monkeypatch.context() as patch:
        patch.setattr(type(strategy), "num_replicas_in_sync", 2)
        with pytest.raises(ValueError, match=f"no `{option}`.*2 replicas"):
            si.set_model(model)
    si.set_model(model)
