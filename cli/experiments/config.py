"""The resolved options of a run, each checked without importing Keras."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable
from typing import Any

from ..errors import OptionError, counted
from ..files import Options, Record
from ..methods import METHODS
from .presets import BENCHMARKS, Benchmark

OUTPUT_WEIGHTS = ("zeros", "glorot")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# What the indices of TensorFlow's kernels hold.
LARGEST = 2**31 - 1
# keras.utils.set_random_seed takes 32 bits.
MAX_SEED = 2**32 - 1
# Images of MNIST's size take 60 times their memory then.
MAX_PADDING = 100
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

    Args:
        benchmark: A name in `presets.BENCHMARKS`.
        preset: The preset that the other values started from.
        scenario: A name in `presets.SCENARIOS`, what is known of the task.
        methods: Names in `methods.METHODS`, in the order they are run.
        tasks, batch_size: Counts.
        epochs, steps: How long each task is learned: passes over its
            examples, or training steps. The other one is `None`.
        hidden: Units of each hidden dense layer.
        learning_rate: Of Adam.
        reset_optimizer: Whether Adam's state is zeroed between tasks.
        output_weights: How the last kernel starts, in `OUTPUT_WEIGHTS`.
        strength, damping: The paper's c and xi.
        seed: The first seed.
        seeds: How many runs of each method, with seeds counted up.
        dataset: A TFDS name; two are joined by `+`.
        data_dir: The TFDS folder to look in, or `None`.
        precision: A Keras dtype policy.
        jit: `"auto"` (Keras decides), `True` or `False`.
        deterministic: Whether an accelerator must give the same results run
            after run, too. CPUs always do.
        padding: Pixels of value 0 added on each side of the images.
        held_out: Whether it is judged on a part of the training data, which
            it is not trained on, and the test set is not looked at.
    """

    benchmark: str
    preset: str
    scenario: str
    methods: tuple[str, ...]
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
    seed: int
    seeds: int
    dataset: str
    data_dir: str | None
    precision: str
    jit: bool | str
    deterministic: bool = False
    padding: int = 0
    held_out: bool = False

    def __post_init__(self) -> None:
        _one_of("benchmark", self.benchmark, BENCHMARKS)
        benchmark = BENCHMARKS[self.benchmark]
        _one_of("--preset", self.preset, benchmark.presets)
        _one_of("--scenario", self.scenario, benchmark.scenarios)
        self._check_methods()
        _one_of("--precision", self.precision, PRECISIONS)
        _one_of("--output-weights", self.output_weights, OUTPUT_WEIGHTS)
        if (self.epochs is None) == (self.steps is None):
            raise OptionError("--epochs", "give either it or --steps")
        for name in ("tasks", "epochs", "steps", "batch_size", "seeds"):
            if getattr(self, name) is not None:
                _at_least_one(_option(name), getattr(self, name))
        if not self.hidden:
            raise OptionError("--hidden", "name at least one layer, as in 100")
        for units in self.hidden:
            _at_least_one("--hidden", units)
        if not 0 <= self.padding <= MAX_PADDING:
            raise OptionError(
                "--padding",
                f"received {self.padding}, expected a whole number from 0 to "
                f"{MAX_PADDING}",
            )
        _number("--learning-rate", self.learning_rate, above_zero=True)
        _number("--strength", self.strength, above_zero=False)
        _number("--damping", self.damping, above_zero=True)
        if self.seed < 0 or self.seed + self.seeds - 1 > MAX_SEED:
            raise OptionError(
                "--seed",
                f"received {self.seed} for {counted(self.seeds, 'run')}, "
                f"expected seeds from 0 to {MAX_SEED}",
            )
        self._check_dataset(benchmark)

    def _check_methods(self) -> None:
        if not self.methods:
            raise OptionError("--method", "name at least one")
        for name in self.methods:
            _one_of("--method", name, METHODS)
            if self.scenario not in METHODS[name].scenarios:
                raise OptionError(
                    "--method",
                    f"{name} cannot be run in the {self.scenario} scenario, "
                    f"only in {' and '.join(METHODS[name].scenarios)}",
                )
        if len(set(self.methods)) != len(self.methods):
            raise OptionError(
                "--method",
                f"received {', '.join(self.methods)}; name each method once",
            )

    def _check_dataset(self, benchmark: Benchmark) -> None:
        if not self.dataset.strip():
            raise OptionError("--dataset", "received an empty name")
        for name in self.datasets:
            if not DATASET.fullmatch(name):
                raise OptionError(
                    "--dataset",
                    f"received {name!r}, expected a TFDS name in "
                    "lower-case letters, digits and underscores, as in "
                    "cifar10, emnist/letters or mnist:3.0.1",
                )
        if not benchmark.splits_classes:
            return
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
        """Returns the options as JSON can hold them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: Options) -> RunConfig:
        """Makes it from what `to_dict` gave, also after a way through JSON.

        Raises:
            OptionError: If an option is missing, unknown or wrong.
        """
        fields = dataclasses.fields(cls)
        names = {field.name for field in fields}
        needed = {f.name for f in fields if f.default is dataclasses.MISSING}
        for name in sorted(set(options) - names):
            raise OptionError(
                _option(name),
                "unknown here: the configuration is that of another keras-si",
            )
        for name in sorted(needed - set(options)):
            raise OptionError(_option(name), "missing from the configuration")
        values: Record = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in options.items()
        }
        for name, hint in typing.get_type_hints(cls).items():
            if name in values and not _is(values[name], hint):
                raise OptionError(
                    _option(name), f"received {values[name]!r}, expected {hint}"
                )
        return cls(**values)


def _is(value: object, hint: Any) -> bool:
    """Tells whether a value of a configuration is what its hint says."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is(v, parts[0]) for v in value)
    if parts:
        return any(_is(value, part) for part in parts)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def resolve(benchmark: str, preset: str, given: Options) -> RunConfig:
    """Makes a `RunConfig`: the preset's values, then what was given.

    Args:
        benchmark: Name of the benchmark.
        preset: Name of the preset.
        given: Options by the names of `RunConfig`; `None` is not given.
    """
    _one_of("benchmark", benchmark, BENCHMARKS)
    choice = BENCHMARKS[benchmark]
    _one_of("--preset", preset, choice.presets)
    given = {name: v for name, v in given.items() if v is not None}
    _refuse_what_means_nothing(given)
    scenario = given.get("scenario", choice.scenarios[0])
    _one_of("--scenario", scenario, choice.scenarios)
    values = {
        "benchmark": benchmark,
        "preset": preset,
        "scenario": scenario,
        "dataset": choice.dataset,
        "data_dir": None,
        "epochs": None,
        "steps": None,
        **choice.presets[preset].values,
        **choice.presets[preset].by_scenario.get(scenario, {}),
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
    if config.tasks > most:
        raise OptionError(
            "--tasks",
            f"received {config.tasks}, expected at most {most}: the "
            f"{num_classes} classes of {config.dataset} are split into tasks "
            f"of {config.classes_per_task}",
        )


def parse_hidden(text: str) -> tuple[int, ...]:
    """Reads `"2000,2000"` as `(2000, 2000)`."""
    try:
        return tuple(int(units) for units in text.split(","))
    except ValueError:
        raise OptionError(
            "--hidden",
            f"received {text!r}, expected the units of each hidden layer "
            "separated by commas, as in 2000,2000",
        ) from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_of(option: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        raise OptionError(
            option, f"received {value!r}, expected one of {', '.join(choices)}"
        )


def _at_least_one(option: str, value: int) -> None:
    if not 1 <= value <= LARGEST:
        raise OptionError(
            option,
            f"received {value}, expected a whole number from 1 to {LARGEST}",
        )


def _number(option: str, value: float, above_zero: bool) -> None:
    if above_zero and (value <= 0 or not math.isfinite(value)):
        raise OptionError(
            option, f"received {value}, expected a finite number above 0"
        )
    if value < 0 or not math.isfinite(value):
        raise OptionError(
            option, f"received {value}, expected a finite number of 0 or more"
        )
