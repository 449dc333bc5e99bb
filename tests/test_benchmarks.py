"""Every benchmark runs, with the smallest options; what it measures is not
tested."""

import dataclasses
import importlib
import json
import pathlib
import re

import keras
import numpy as np
import pytest
from helpers import finish, only_on, start

from keras_si import SICallback, equations

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"
SMALLEST = {
    "end_of_fit.py": ("--steps", "2", "--rounds", "1"),
    "input_pipeline.py": ("--steps", "2", "--rounds", "1"),
    "long_run.py": ("--tasks", "1", "--steps", "2"),
    "long_stream.py": (
        *("run", "OUTPUT", "--strength", "1", "--decay", "0.9"),
        *("--tasks", "2", "--steps", "2", "--hidden", "8"),
    ),
    "memory.py": ("--tasks", "1"),
    "peers.py": (),
    "protect.py": ("mnist", "--quick", "--output", "OUTPUT"),
    "step_time.py": ("--only", "conv", "--rounds", "1"),
    "total_gradient.py": (
        *("--quick", "--seeds", "1", "--scenario", "domain"),
        *("--output", "OUTPUT"),
    ),
}


@pytest.fixture
def benchmark(monkeypatch):
    """Returns a benchmark, by its name, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_every_benchmark_is_run_here():
    found = {path.name for path in BENCHMARKS.glob("*.py")}
    assert found - {"stories.py"} == set(SMALLEST)  # a part of protect.py


@only_on("tensorflow")
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_prints_its_table(name, tmp_path):
    if name == "peers.py":
        pytest.importorskip("avalanche")
    options = [
        str(tmp_path) if option == "OUTPUT" else option
        for option in SMALLEST[name]
    ]
    (printed,) = finish([start(BENCHMARKS / name, *options)])
    assert re.search(r"\d+\.\d+[ |]+\d+", printed)


# Protect.


def test_a_search_by_tens_ends_where_both_sides_are_worse(benchmark):
    scores = {0.1: 1, 1.0: 2, 10.0: 5, 100.0: 7, 1000.0: 6}
    tried = []

    def score(value):
        tried.append(value)
        return scores[value]

    assert benchmark("protect").search(1.0, score, tries=8) == 100
    assert tried == [1, 10, 100, 1000]


def test_a_search_by_tens_goes_down_too_and_no_further_than_told(benchmark):
    tried = []

    def score(value):
        tried.append(value)
        return -value

    assert benchmark("protect").search(1.0, score, tries=4) == 0.01
    assert tried == [1, 10, 0.1, 0.01]


@only_on("tensorflow")
def test_protect_on_color_images_measures_each_row_and_continues(benchmark):
    from keras_si_cli.experiments.data import Data, Split

    protect = benchmark("protect")
    story = dataclasses.replace(
        benchmark("stories").STORIES["cifar10"].quick(), batch_size=8
    )
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (40, 32, 32, 3), "uint8"),
        np.arange(40, dtype="int32") % 10,
    )
    data = Data("colors", 10, split, split)
    record, saved = {}, []

    def measure():
        protect.measure(
            story, lambda held_out: data, record, lambda: saved.append(1)
        )

    policy = keras.config.dtype_policy()
    try:
        measure()
        first = json.dumps(record)
        count = len(saved)
        measure()
    finally:
        keras.config.set_dtype_policy(policy)
    assert len(saved) == count and json.dumps(record) == first
    assert [trial["row"] for trial in record["trials"]] == [*protect.ROWS]
    assert set(record["strengths"]) == {"l2", "fisher", "si"}
    # Of task A's 16 images: accuracy is a count of them.
    assert all(16 * t["a_after_b"] % 1 == 0 for t in record["trials"])
    assert "| plain fine-tuning |  |" in protect.table(story, record)


# Switches that keras-si does not have.


def _omega_and_steps(strength=3.0, learning_rate=0.1):
    """Returns omega of a second task, and the sum of its squared steps.

    Plain SGD steps by `learning_rate` times the total gradient.
    """
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8, 3)).astype("float32")
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, use_bias=False)]
    )
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    si = SICallback(strength=strength, consolidate=None)
    model.fit(x, y[:, :1], epochs=5, callbacks=[si], verbose=0)
    si.consolidate()
    squares = 0
    for _ in range(3):
        (before,) = model.get_weights()
        model.fit(x, -y[:, :1], callbacks=[si], verbose=0)
        (after,) = model.get_weights()
        squares += (after - before) ** 2
    (omega,) = si.get_path_integral().values()
    return omega, squares


@only_on("tensorflow")
def test_the_total_gradient_makes_omega_the_squared_steps(benchmark):
    with benchmark("total_gradient").variant(True, rectified=True):
        omega, squares = _omega_and_steps()
    np.testing.assert_allclose(omega, squares / 0.1, rtol=1e-4)
    omega, squares = _omega_and_steps()
    assert not np.allclose(omega, squares / 0.1, rtol=0.01)


def test_without_rectification_importance_may_be_negative(benchmark):
    arguments = (1.0, -2.0, 0.5, 1.0, 0.25)
    with benchmark("total_gradient").variant(False, rectified=False):
        assert float(equations.consolidate(*arguments)) == -3
    assert float(equations.consolidate(*arguments)) == 0


def test_decay_shrinks_the_importance_of_earlier_tasks_alone(benchmark):
    with benchmark("long_stream").decaying(0.5):
        assert float(equations.consolidate(3.0, 1.0, 0.5, 1.0, 0.25)) == 3.5
    assert float(equations.consolidate(3.0, 1.0, 0.5, 1.0, 0.25)) == 5
