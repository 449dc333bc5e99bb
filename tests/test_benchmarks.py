"""Every benchmark runs, with the smallest options; what it measures is not
tested."""

import pathlib
import re

import pytest
from helpers import finish, only_on, start

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"
SMALLEST = {
    "end_of_fit.py": ("--steps", "2", "--rounds", "1"),
    "input_pipeline.py": ("--steps", "2", "--rounds", "1"),
    "long_run.py": ("--tasks", "1", "--steps", "2"),
    "memory.py": ("--tasks", "1"),
    "peers.py": (),
    "step_time.py": ("--only", "conv", "--rounds", "1"),
}


def test_every_benchmark_is_run_here():
    assert {path.name for path in BENCHMARKS.glob("*.py")} == set(SMALLEST)


@only_on("tensorflow")
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_prints_its_table(name):
    if name == "peers.py":
        pytest.importorskip("avalanche")
    (printed,) = finish([start(BENCHMARKS / name, *SMALLEST[name])])
    assert re.search(r"\d+\.\d+ +\d+", printed)
