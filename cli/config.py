"""The resolved options of a run, each checked without importing Keras."""

import dataclasses
import math
import re

from .errors import OptionError
from .methods import METHODS
from .presets import BENCHMARKS

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
DISTRIBUTIONS = ("none", "mirrored")
# keras.utils.set_random_seed takes 32 bits.
MAX_SEED = 2**32 - 1
# What TFDS can find: name, then /configuration and :version if they matter.
DATASET = re.compile(
    r"[a-z][a-z0-9_]*(/[A-Za-z0-9_+.-]+)?"
    r"(:([0-9]+|\*)(\.([0-9]+|\*)){2})?"
)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Every option of a run, as it will be used.

    Args:
        benchmark: A name in `presets.BENCHMARKS`.
        preset: The preset that the other values started from.
        methods: Names in `methods.METHODS`, in the order they are run.
        tasks, epochs, batch_size: Counts; `epochs` is for each task.
        hidden: Units of each hidden layer.
        learning_rate: Of Adam.
        strength, damping: The paper's c and xi.
        seed: The first seed.
        seeds: How many runs of each method, with seeds counted up.
        dataset: A TFDS name.
        data_dir: The TFDS folder to look in, or `None`.
        precision: A Keras dtype policy.
        jit: `"auto"` (Keras decides), `True` or `False`.
        output: The folder for the results.
        distribute: `"none"`, or `"mirrored"`: over all GPUs of the machine.
    """

    benchmark: str
    preset: str
    methods: tuple[str, ...]
    tasks: int
    epochs: int
    batch_size: int
    hidden: tuple[int, ...]
    learning_rate: float
    strength: float
    damping: float
    seed: int
    seeds: int
    dataset: str
    data_dir: str | None
    precision: str
    jit: bool | str
    output: str
    distribute: str = "none"

    def __post_init__(self):
        _one_of("benchmark", self.benchmark, BENCHMARKS)
        presets = BENCHMARKS[self.benchmark].presets
        _one_of("--preset", self.preset, presets)
        for method in self.methods:
            _one_of("--method", method, METHODS)
        if len(set(self.methods)) != len(self.methods):
            raise OptionError(
                "--method",
                f"received {', '.join(self.methods)}; name each method once",
            )
        _one_of("--precision", self.precision, PRECISIONS)
        _one_of("--distribute", self.distribute, DISTRIBUTIONS)
        for name in ("tasks", "epochs", "batch_size", "seeds"):
            _at_least_one(_option(name), getattr(self, name))
        if not self.hidden:
            raise OptionError("--hidden", "name at least one layer, as in 100")
        for units in self.hidden:
            _at_least_one("--hidden", units)
        _number("--learning-rate", self.learning_rate, above_zero=True)
        _number("--strength", self.strength, above_zero=False)
        _number("--damping", self.damping, above_zero=True)
        if self.seed < 0 or self.seed + self.seeds - 1 > MAX_SEED:
            raise OptionError(
                "--seed",
                f"received {self.seed} for {self.seeds} run(s), expected "
                f"seeds from 0 to {MAX_SEED}",
            )
        if not self.dataset.strip():
            raise OptionError("--dataset", "received an empty name")
        if not DATASET.fullmatch(self.dataset):
            raise OptionError(
                "--dataset",
                f"received {self.dataset!r}, expected a TFDS name in "
                "lower-case letters, digits and underscores, as in cifar10, "
                "emnist/letters or mnist:3.0.1",
            )
        if not self.output.strip():
            raise OptionError("--output", "received an empty name")

    def to_dict(self):
        """Returns the options as JSON can hold them."""
        return dataclasses.asdict(self)


def resolve(benchmark, preset, given):
    """Makes a `RunConfig`: the preset's values, then what was given.

    Args:
        benchmark: Name of the benchmark.
        preset: Name of the preset.
        given: Options by the names of `RunConfig`; `None` is not given.
    """
    _one_of("benchmark", benchmark, BENCHMARKS)
    _one_of("--preset", preset, BENCHMARKS[benchmark].presets)
    values = {
        "benchmark": benchmark,
        "preset": preset,
        "dataset": BENCHMARKS[benchmark].dataset,
        "data_dir": None,
        **BENCHMARKS[benchmark].presets[preset].values,
    }
    values.update({k: v for k, v in given.items() if v is not None})
    return RunConfig(**values)


def parse_hidden(text):
    """Reads `"2000,2000"` as `(2000, 2000)`."""
    try:
        return tuple(int(units) for units in text.split(","))
    except ValueError:
        raise OptionError(
            "--hidden",
            f"received {text!r}, expected the units of each hidden layer "
            "separated by commas, as in 2000,2000",
        ) from None


def _option(name):
    return "--" + name.replace("_", "-")


def _one_of(option, value, choices):
    if value not in choices:
        raise OptionError(
            option, f"received {value!r}, expected one of {', '.join(choices)}"
        )


def _at_least_one(option, value):
    if value < 1:
        raise OptionError(
            option, f"received {value}, expected a whole number of 1 or more"
        )


def _number(option, value, above_zero):
    if above_zero and (value <= 0 or not math.isfinite(value)):
        raise OptionError(
            option, f"received {value}, expected a finite number above 0"
        )
    if value < 0 or not math.isfinite(value):
        raise OptionError(
            option, f"received {value}, expected a finite number of 0 or more"
        )
