"""The resolved options of a run: a preset's values, then those given."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ..errors import OptionError
from ..files import Options, Record
from ..methods import METHODS
from .presets import BENCHMARKS

OUTPUT_WEIGHTS = ("zeros", "glorot")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# keras.utils.set_random_seed takes 32 bits.
MAX_SEED = 2**32 - 1
# What TFDS can find: name, then /configuration and :version if they matter.
DATASET = re.compile(
    r"[a-z][a-z0-9_]*(/[A-Za-z0-9_+.-]+)?"
    r"(:([0-9]+|\*)(\.([0-9]+|\*)){2})?"
)
# Where the classes are known, too many tasks are refused before anything is
# loaded.
CLASSES = {
    "mnist": 10,
    "fashion_mnist": 10,
    "kmnist": 10,
    "cifar10": 10,
    "cifar100": 100,
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Every option of a run, as it will be used.

    The command line checks each option by itself; here are the rules that
    several options make together.

    Args:
        benchmark: A name in `presets.BENCHMARKS`.
        preset: The preset that the other values started from.
        scenario: A name in `presets.SCENARIOS`, what is known of the task.
        tasks, batch_size: Counts.
        epochs, steps: How long each task is learned: passes over its
            examples, or training steps. The other one is `None`.
        hidden: Units of each hidden dense layer.
        learning_rate: Of Adam.
        reset_optimizer: Whether Adam's state is zeroed between tasks.
        output_weights: How the last kernel starts, in `OUTPUT_WEIGHTS`.
        strength, damping: The paper's c and xi.
        dataset: A TFDS name; two are joined by `+`.
        methods: Names in `methods.METHODS`, in the order they are run.
        seed: The first seed.
        seeds: How many trials of each method, with seeds counted up.
        data_dir: The TFDS folder to look in, or `None`.
        precision: A Keras dtype policy.
        jit: `"auto"` (Keras decides), `True` or `False`.
        deterministic: Whether an accelerator must give the same results run
            after run, too. CPUs always do.
        padding: Pixels of value 0 added on each side of the images.
        held_out: Whether the run is judged on a part of the training data,
            which it is not trained on, and the test set is not looked at.

    Raises:
        OptionError: If options contradict each other.
    """

    benchmark: str
    preset: str
    scenario: str
    tasks: int
    epochs: int | None
    steps: int | None
    batch_size: int
    hidden: tuple[int, ...]
    learning_rate: float
    reset_optimizer: bool
    output_weights: str
    strength: float
    damping: float
    dataset: str
    methods: tuple[str, ...] = ("si", "naive")
    seed: int = 0
    seeds: int = 1
    data_dir: str | None = None
    precision: str = "float32"
    jit: bool | str = "auto"
    deterministic: bool = False
    padding: int = 0
    held_out: bool = False

    def __post_init__(self) -> None:
        for name in self.methods:
            _one_of("--method", name, METHODS)
            if self.scenario not in METHODS[name].scenarios:
                raise OptionError(
                    "--method",
                    f"{name} cannot be run in the {self.scenario} scenario, "
                    f"only in {' and '.join(METHODS[name].scenarios)}",
                )
        if not 0 < len(self.methods) == len(set(self.methods)):
            raise OptionError(
                "--method",
                f"received {', '.join(self.methods)}; name each method once",
            )
        if (self.epochs is None) == (self.steps is None):
            raise OptionError("--epochs", "give either it or --steps")
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise OptionError(
                "--seed",
                f"received {self.seed} with {self.seeds} seeds, expected "
                f"seeds up to {MAX_SEED}",
            )
        for name in self.datasets:
            if not DATASET.fullmatch(name):
                raise OptionError(
                    "--dataset",
                    f"received {name!r}, expected a TFDS name in "
                    "lower-case letters, digits and underscores, as in "
                    "cifar10, emnist/letters or mnist:3.0.1",
                )
        names = [re.split(r"\W", name)[0] for name in self.datasets]
        if all(name in CLASSES for name in names):
            check_tasks(self, sum(CLASSES[name] for name in names))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names in `dataset`."""
        if self.dataset == BENCHMARKS[self.benchmark].dataset:
            return tuple(self.dataset.split("+"))
        return (self.dataset,)

    @property
    def classes_per_task(self) -> int:
        """Where tasks split the classes: pairs, or tens of joined datasets."""
        return 2 if len(self.datasets) == 1 else 10

    def to_dict(self) -> Record:
        """Returns the options as JSON can represent them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: Options) -> RunConfig:
        """Makes it from what `to_dict` gave, also after a way through JSON.

        Raises:
            OptionError: If the options are not those of a run.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in sorted({*options} - {*fields}):
            raise OptionError(
                _option(name), "another version of keras-si has this option"
            )
        for name, field in fields.items():
            if name not in options and field.default is dataclasses.MISSING:
                raise OptionError(_option(name), "it is missing")
        _one_of("benchmark", options["benchmark"], BENCHMARKS)
        values: Record = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in options.items()
        }
        return cls(**values)


def resolve(benchmark: str, preset: str, given: Options) -> RunConfig:
    """Makes a `RunConfig`: the preset's values, then what was given.

    Args:
        benchmark: Name of the benchmark.
        preset: Name of the preset.
        given: Options by the names of `RunConfig`; `None` is not given.

    Raises:
        OptionError: If options contradict each other.
    """
    choice = BENCHMARKS[benchmark]
    _one_of("--preset", preset, choice.presets, f" for {benchmark}")
    given = {name: v for name, v in given.items() if v is not None}
    scenario = given.get("scenario", choice.scenarios[0])
    _one_of("--scenario", scenario, choice.scenarios, f" for {benchmark}")
    _refuse_what_means_nothing(given)
    values = {
        "benchmark": benchmark,
        "preset": preset,
        "scenario": scenario,
        "dataset": choice.dataset,
        **choice.presets[preset].options(scenario),
    }
    if given.get("dataset", choice.dataset) != choice.dataset:
        values["tasks"] = choice.tasks_elsewhere or values["tasks"]
    if "epochs" in given or "steps" in given:
        values["epochs"] = values["steps"] = None
    return RunConfig(**{**values, **given})


def _refuse_what_means_nothing(given: Options) -> None:
    if "epochs" in given and "steps" in given:
        raise OptionError(
            "--steps", "received together with --epochs; give one of them"
        )
    methods = [name for name in given.get("methods", ()) if name in METHODS]
    for option in ("strength", "damping"):
        users = [m for m in METHODS if option in METHODS[m].uses]
        if option in given and methods and not {*methods} & {*users}:
            raise OptionError(
                _option(option),
                f"means nothing to {' and '.join(methods)}, only to "
                f"{' and '.join(users)}; leave it out",
            )


def check_tasks(config: RunConfig, num_classes: int) -> None:
    """Refuses more tasks than there are classes for."""
    most = num_classes // config.classes_per_task
    if BENCHMARKS[config.benchmark].splits_classes and config.tasks > most:
        raise OptionError(
            "--tasks",
            f"received {config.tasks}, expected at most {most}: the "
            f"{num_classes} classes of {config.dataset} are split into tasks "
            f"of {config.classes_per_task}",
        )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_of(option: str, value: Any, choices: Any, where: str = "") -> None:
    if value not in choices:
        raise OptionError(
            option,
            f"received {value!r}, expected {' or '.join(choices)}{where}",
        )
