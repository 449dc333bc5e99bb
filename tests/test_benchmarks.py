"""Every benchmark runs, with the smallest options; what it measures is not
tested."""

import contextlib
import importlib
import io
import pathlib
import re
import sys

import keras
import numpy as np
import pytest
from helpers import only_on
from keras_si_cli import files
from keras_si_cli.experiments import data as datasets
from keras_si_cli.experiments import nets
from keras_si_cli.experiments.data import Data, Split

from keras_si import SICallback, equations

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"
SMALLEST = {
    "end_of_fit.py": ("--steps", "2", "--rounds", "1"),
    "input_pipeline.py": (
        *("--steps", "2", "--rounds", "1", "--batch-size", "8"),
    ),
    "long_run.py": ("--tasks", "1", "--steps", "2"),
    "long_stream.py": (
        *("run", "OUTPUT", "--strength", "1", "--decay", "0.9"),
        *("--tasks", "2", "--steps", "2", "--hidden", "8"),
    ),
    "memory.py": ("--tasks", "1", "--batch-size", "8"),
    "peers.py": (),
    "protect.py": ("mnist", "--quick", "--output", "OUTPUT"),
    "step_time.py": ("--only", "conv", "--rounds", "1"),
    "total_gradient.py": (
        *("--quick", "--seeds", "1", "--scenario", "domain"),
        *("--output", "OUTPUT"),
    ),
    "whole_fits.py": ("--fits", "1", "--steps", "2", "--rounds", "1"),
}


@pytest.fixture
def benchmark(monkeypatch):
    """Returns a benchmark, by its name, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_every_benchmark_is_run_here():
    found = {path.name for path in BENCHMARKS.glob("*.py")}
    assert found - {"stories.py"} == set(SMALLEST)  # a part of protect.py


@pytest.fixture(scope="module")
def some_of_mnist():
    """The first images, of which a sixth is held out."""
    mnist = datasets.load("mnist")
    train, test = (
        Split(part.images[:count], part.labels[:count])
        for part, count in ((mnist.train, 2400), (mnist.test, 400))
    )
    return Data("mnist", 10, train, test)


@pytest.fixture
def run(benchmark, some_of_mnist, monkeypatch, tmp_path):
    """Returns a function: the smallest run of a benchmark -> what it prints.

    It runs in this process, where TensorFlow has started, with a few images,
    with two steps in place of 20, and nothing is traced: that would take most
    of the time.
    """
    monkeypatch.setattr(datasets, "load", lambda *_: some_of_mnist)
    monkeypatch.setattr(benchmark("step_time"), "STEPS", 2)
    compile = keras.Model.compile

    def compile_eagerly(model, *args, **more):
        compile(model, *args, **more, run_eagerly=True)
        model.jit_compile = False

    monkeypatch.setattr(keras.Model, "compile", compile_eagerly)

    def run(name):
        options = [
            str(tmp_path) if option == "OUTPUT" else option
            for option in SMALLEST[name]
        ]
        monkeypatch.setattr(sys, "argv", [name, *options])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            benchmark(name.removesuffix(".py")).main()
        return printed.getvalue()

    return run


@only_on("tensorflow")
@pytest.mark.parametrize("name", sorted({*SMALLEST} - {"protect.py"}))
def test_a_benchmark_prints_its_table(name, run):
    if name == "peers.py":
        pytest.importorskip("avalanche")
    assert re.search(r"\d+\.\d+[ |]+\d+", run(name))


# Protect.


def test_a_search_by_tens_ends_where_both_sides_are_worse_or_as_told(benchmark):
    search, tried = benchmark("protect").search, []

    def score(value):
        tried.append(value)
        return {0.1: 1, 1: 2, 10: 5, 100: 7, 1000: 6}[value]

    assert search(1.0, score, tries=8) == 100
    assert tried == [1, 10, 100, 1000]
    tried.clear()
    down = search(1.0, lambda value: tried.append(value) or -value, tries=4)
    assert down == 0.01
    assert tried == [1, 10, 0.1, 0.01]


@only_on("tensorflow")
def test_protect_measures_each_row_on_held_out_data_and_continues(
    run, benchmark, tmp_path
):
    printed = run("protect.py")
    record = files.read_json(tmp_path / "protect.json")
    rows = [*benchmark("protect").ROWS]
    assert [trial["row"] for trial in record["trials"]] == rows
    assert set(record["strengths"]) == {"l2", "fisher", "si"}
    # Of 400 test images: accuracy is a count of them.
    assert all(400 * t["a_after_b"] % 1 == 0 for t in record["trials"])
    assert "| plain fine-tuning |  |" in printed
    again = run("protect.py")  # all that was measured is there
    assert files.read_json(tmp_path / "protect.json") == record
    assert again.endswith(printed[printed.index("| protection") :])
    assert "seed 0 " not in again


@only_on("tensorflow")
def test_the_story_of_color_images_has_four_outputs_for_each_task(benchmark):
    stories = benchmark("stories")
    split = Split(np.zeros((10, 32, 32, 3), "uint8"), np.arange(10))
    story = stories.STORIES["cifar10"].quick()
    a, b = stories.two_tasks(story, Data("colors", 10, split, split), seed=0)
    net = stories.new_net(story, split.images.shape[1:])
    for task, outputs in ((a, [0, 1, 2, 3]), (b, [4, 5, 6, 7])):
        assert task.train_examples.labels.numpy().tolist() == outputs
        nets.set_active_outputs(net, task.outputs)
        (logits,) = net(np.zeros((1, 32 * 32 * 3), "uint8")).numpy()
        assert np.flatnonzero(logits > -1e3).tolist() == outputs


# Switches that keras-si does not have.


def _omega_and_steps(strength=3.0, learning_rate=0.1):
    """Returns omega of a second task, and the sum of its squared steps.

    Plain SGD steps by `learning_rate` times the total gradient.
    """
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 8, 3)).astype("float32")
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((3,)), dense])
    model.compile(keras.optimizers.SGD(learning_rate), "mse", run_eagerly=True)
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
