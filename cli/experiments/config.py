"""The resolved options of a run: a preset's values, then those given."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from ..errors import OptionError
from ..files import Options, Record
from ..methods import METHODS
from .presets import BENCHMARKS

OUTPUT_WEIGHTS = ("zeros", "glorot")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# How many images `--method replay` keeps if nothing is said.
MEMORY = 200
HELD_OUT = "the last sixth of the training data, held out"
# Too many tasks of these are refused before anything is loaded.
CLASSES = {
    **{name: 10 for name in ("mnist", "fashion_mnist", "kmnist", "cifar10")},
    "cifar100": 100,
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Every option of a run, as it will be used.

    The command line checks each option by itself; here are the rules that
    several options make together. Of `epochs` (passes over a task's examples)
    and `steps`, one is `None`; so is `memory`, the number of images to replay,
    if no method uses it. `jit` is `"auto"`, `True` or `False`. A run
    that is `held_out` is judged on a part of the training data, which it is
    not trained on, and does not look at the test set.

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
    memory: int | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        for name in self.methods:
            if self.scenario not in METHODS[name].scenarios:
                raise OptionError(
                    "--method",
                    f"{name} cannot be run in the {self.scenario} scenario, "
                    f"only in {' and '.join(METHODS[name].scenarios)}",
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
        """Makes it from what `to_dict` gave, also after a way through JSON."""
        values: Record = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in options.items()
        }
        return cls(**values)


def resolve(benchmark: str, preset: str, given: Options) -> RunConfig:
    """Makes a `RunConfig`: the preset's values, then those of `given`.

    An option that is `None` is not given.
    """
    choice = BENCHMARKS[benchmark]
    _one_of("--preset", preset, choice.presets, f" for {benchmark}")
    given = {name: v for name, v in given.items() if v is not None}
    scenario = given.get("scenario", choice.scenarios[0])
    _one_of("--scenario", scenario, choice.scenarios, f" for {benchmark}")
    if "epochs" in given and "steps" in given:
        raise OptionError(
            "--steps", "received together with --epochs; give one of them"
        )
    methods = tuple(dict.fromkeys(given.get("methods", RunConfig.methods)))
    for option in ("strength", "damping", "memory"):
        users = [m for m in METHODS if option in METHODS[m].uses]
        if option in given and not {*methods} & {*users}:
            raise OptionError(
                f"--{option}",
                f"means nothing to {' and '.join(methods)}, only to "
                f"{', '.join(users)}; leave it out",
            )
    for name in methods:
        if "strength" not in given and METHODS[name].own_strength:
            raise OptionError(
                "--strength",
                f"is missing: the preset's value is for SI, and {name} needs "
                "its own; `keras-si tune` with a wide range of values finds "
                "one",
            )
    charged = [name for name in methods if "strength" in METHODS[name].uses]
    if len(charged) > 1 and any(METHODS[m].own_strength for m in charged):
        raise OptionError(
            "--method",
            f"received {', '.join(charged)}, which need a --strength each; run "
            "them one by one, and compare them by `keras-si report`",
        )
    values = {
        "benchmark": benchmark,
        "preset": preset,
        "scenario": scenario,
        "dataset": choice.dataset,
        **choice.presets[preset].options(scenario),
    }
    if any("memory" in METHODS[name].uses for name in methods):
        values["memory"] = MEMORY
    if given.get("dataset", choice.dataset) != choice.dataset:
        values["tasks"] = choice.tasks_elsewhere or values["tasks"]
    if "epochs" in given or "steps" in given:
        values["epochs"] = values["steps"] = None
    return RunConfig(**{**values, **given, "methods": methods})


def check_tasks(config: RunConfig, num_classes: int) -> None:
    """Refuses more tasks than the classes allow, and too small a memory."""
    splits = BENCHMARKS[config.benchmark].splits_classes
    most = num_classes // config.classes_per_task
    if splits and config.tasks > most:
        raise OptionError(
            "--tasks",
            f"received {config.tasks}, expected at most {most}: the "
            f"{num_classes} classes of {config.dataset} are split into tasks "
            f"of {config.classes_per_task}",
        )
    met = config.classes_per_task if splits else num_classes
    met *= config.tasks - 1
    if config.memory is not None and config.memory < met:
        raise OptionError(
            "--memory",
            f"received {config.memory}, expected at least {met}: an image of "
            f"each class of the {config.tasks - 1} tasks before the last",
        )


def _one_of(
    option: str, value: str, choices: Iterable[str], where: str = ""
) -> None:
    if value not in choices:
        expected = " or ".join(choices)
        raise OptionError(
            option, f"received {value!r}, expected {expected}{where}"
        )


def text(value: object) -> str:
    """Returns the value of an option as it is shown."""
    if isinstance(value, list | tuple):
        return ",".join(map(text, value))
    return "-" if value is None else str(value)
