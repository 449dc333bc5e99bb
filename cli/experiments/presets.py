"""Benchmarks and their named hyper-parameters, each with its source."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..methods.method import PAPER

VAN_DE_VEN = "van de Ven & Tolias 2018"
VAN_DE_VEN_STRENGTH = (
    "xi and c are from param_values.py of the branch `preprints` of the "
    "authors' code; their SI takes the gradient of the total loss and does "
    "not rectify"
)

SCENARIOS = {
    "task": "the task is known: only its outputs count in the softmax",
    "domain": "the tasks share their outputs",
    "class": "all classes so far are told apart",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Defaults for the options of `run`, and where they come from.

    Args:
        source: Paper and section, or how else the values were found.
        strength: A number, or one for each scenario by its name.

    The others are those of `RunConfig`; of `epochs` and `steps` it has one.
    """

    source: str
    tasks: int
    batch_size: int
    hidden: tuple[int, ...]
    learning_rate: float
    reset_optimizer: bool
    output_weights: str
    strength: float | Mapping[str, float]
    damping: float
    epochs: int | None = None
    steps: int | None = None
    padding: int = 0

    def options(self, scenario: str) -> dict[str, Any]:
        """Returns the values by the names of `RunConfig`."""
        values = dataclasses.asdict(self)
        del values["source"]
        if isinstance(self.strength, Mapping):
            values["strength"] = self.strength[scenario]
        return values


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a benchmark is, apart from the code that builds it.

    Args:
        title: Its name in tables and figures.
        source: Paper and section.
        dataset: The TFDS name of its own dataset; two are joined by `+`.
        net: `"dense"` or `"conv"`.
        scenarios: Names in `SCENARIOS`, the paper's first.
        presets: By name, the default first.
        splits_classes: Whether each task has classes of its own.
        tasks_elsewhere: The number of tasks with another dataset, if it
            differs from the preset's.
    """

    title: str
    source: str
    dataset: str
    net: str
    scenarios: tuple[str, ...]
    presets: Mapping[str, Preset]
    splits_classes: bool = True
    tasks_elsewhere: int | None = None


PMNIST_PAPER = Preset(
    source=f"{PAPER}, section 4.2, with the settings of the authors' code",
    tasks=10,
    epochs=20,
    batch_size=256,
    hidden=(2000, 2000),
    learning_rate=1e-3,
    reset_optimizer=False,
    output_weights="glorot",
    strength=0.1,
    damping=0.1,
)
PMNIST = Benchmark(
    title="permuted MNIST",
    source=f"{PAPER}, section 4.2",
    dataset="mnist",
    net="dense",
    scenarios=("domain",),
    splits_classes=False,
    presets={
        "quick": dataclasses.replace(
            PMNIST_PAPER,
            source=(
                "the paper's net and tasks, one epoch a task, where three "
                "times the paper's learning rate stands in for its 20 "
                "epochs; judged on 10,000 training images held out "
                "(benchmarks/README.md)"
            ),
            epochs=1,
            learning_rate=3e-3,
            strength=10.0,
        ),
        "paper": PMNIST_PAPER,
        "vandeven": Preset(
            source=f"{VAN_DE_VEN}, permuted MNIST; {VAN_DE_VEN_STRENGTH}",
            tasks=10,
            padding=2,
            steps=5000,
            batch_size=128,
            hidden=(1000, 1000),
            learning_rate=1e-4,
            reset_optimizer=False,
            output_weights="glorot",
            strength=5.0,
            damping=0.1,
        ),
    },
)

SMNIST_PAPER = Preset(
    source=f"{PAPER}, section 4.1, with the settings of the authors' code",
    tasks=5,
    epochs=10,
    batch_size=64,
    hidden=(256, 256),
    learning_rate=1e-3,
    reset_optimizer=True,
    output_weights="zeros",
    strength=1.0,
    damping=1e-3,
)
SMNIST = Benchmark(
    title="split MNIST",
    source=f"{PAPER}, section 4.1",
    dataset="mnist",
    net="dense",
    scenarios=("task", "domain", "class"),
    presets={
        "quick": dataclasses.replace(
            SMNIST_PAPER,
            source="the paper's protocol, two epochs a task in place of 10",
            epochs=2,
        ),
        "paper": SMNIST_PAPER,
        "vandeven": Preset(
            source=f"{VAN_DE_VEN}, split MNIST; {VAN_DE_VEN_STRENGTH}",
            tasks=5,
            steps=2000,
            batch_size=128,
            hidden=(400, 400),
            learning_rate=1e-3,
            reset_optimizer=False,
            output_weights="glorot",
            strength={"task": 50.0, "domain": 500.0, "class": 0.5},
            damping=0.1,
        ),
    },
)

SCIFAR_PAPER = Preset(
    source=(
        f"{PAPER}, section 4.3, with the settings of the authors' code: conv "
        "32-32-pool-64-64-pool, dense 512, dropout .25, .25 and .5"
    ),
    tasks=6,
    epochs=60,
    batch_size=256,
    hidden=(512,),
    learning_rate=1e-3,
    reset_optimizer=True,
    output_weights="zeros",
    strength=0.01,
    damping=1e-3,
)
SCIFAR = Benchmark(
    title="split CIFAR",
    source=f"{PAPER}, section 4.3",
    dataset="cifar10+cifar100",
    net="conv",
    scenarios=("task", "domain", "class"),
    tasks_elsewhere=5,
    presets={
        "quick": dataclasses.replace(
            SCIFAR_PAPER,
            source="the paper's protocol, four epochs a task in place of 60",
            epochs=4,
        ),
        "paper": SCIFAR_PAPER,
    },
)

BENCHMARKS = {"pmnist": PMNIST, "smnist": SMNIST, "scifar": SCIFAR}
