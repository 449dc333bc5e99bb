"""Benchmarks and their named hyper-parameters, each with its source."""

import dataclasses
from collections.abc import Mapping

PAPER = "Zenke, Poole & Ganguli 2017"


@dataclasses.dataclass(frozen=True)
class Preset:
    """Defaults for the options of `run`, and where they come from."""

    source: str
    values: Mapping


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark is, apart from the code that builds it."""

    title: str
    source: str
    dataset: str
    presets: Mapping


PMNIST_PAPER = {
    "tasks": 10,
    "epochs": 20,
    "batch_size": 256,
    "hidden": (2000, 2000),
    "learning_rate": 1e-3,
    "strength": 0.1,
    "damping": 0.1,
}

BENCHMARKS = {
    "pmnist": Benchmark(
        title="permuted MNIST",
        source=f"{PAPER}, section 4.2",
        dataset="mnist",
        presets={
            "quick": Preset(
                source=(
                    "the paper's net and tasks, one epoch a task, where three "
                    "times the paper's learning rate stands in for its 20 "
                    "epochs; judged on 10,000 training images held out "
                    "(benchmarks/search_quick.py)"
                ),
                values={
                    **PMNIST_PAPER,
                    "epochs": 1,
                    "learning_rate": 3e-3,
                    "strength": 10.0,
                },
            ),
            "paper": Preset(
                source=(
                    f"{PAPER}, section 4.2, with the settings of the "
                    "authors' code: 2x2000 ReLU, Adam 1e-3 with its state "
                    "kept between tasks, batch 256, 20 epochs a task, "
                    "xi=0.1, c=0.1"
                ),
                values=PMNIST_PAPER,
            ),
        },
    ),
}
