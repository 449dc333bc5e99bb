"""The options that `run` and `tune` have both, and their types."""

import functools
import math
import re
from typing import Any

import click

from .experiments.config import MEMORY, OUTPUT_WEIGHTS, PRECISIONS
from .experiments.presets import BENCHMARKS, SCENARIOS
from .methods import METHODS

PRESETS = list(dict.fromkeys(p for b in BENCHMARKS.values() for p in b.presets))


class Number(click.FloatRange):
    """A number of a range, and a finite one."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not finite.", param, ctx)
        return number


class Several(click.ParamType):  # type: ignore[type-arg]
    """Values separated by commas, each of one type."""

    name = "list"

    def __init__(self, of: Any) -> None:
        self.of = of

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        return tuple(self.of(part, param, ctx) for part in value.split(","))


class DatasetName(click.ParamType):  # type: ignore[type-arg]
    """What TFDS can find; it may have a /configuration and a :version."""

    name = "name"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*(/[\w+.-]+)?(:[0-9.*]+)?", value):
            self.fail(
                f"{value!r} is no TFDS name, like cifar10, emnist/letters or "
                "mnist:3.0.1.",
                param,
                ctx,
            )
        return str(value)


COUNT = click.IntRange(1)
FILE, FOLDER = click.Path(dir_okay=False), click.Path(file_okay=False)
STRENGTH, POSITIVE = Number(min=0), Number(min=0, min_open=True)
STRENGTHS, DAMPINGS = Several(STRENGTH), Several(POSITIVE)


def option(flag: str, kind: Any, text: str, **more: Any) -> Any:
    return click.option(flag, type=kind, help=text, **more)


def methods(*default: str) -> Any:
    return click.option(
        "--method",
        "methods",
        type=click.Choice(list(METHODS)),
        multiple=True,
        default=default,
        help="Method to run; may be given several times.",
    )


# Where no default is shown, it is the preset's.
PROTOCOL = (
    click.argument("benchmark", type=click.Choice(list(BENCHMARKS))),
    option(
        "--preset",
        click.Choice(PRESETS),
        "Defaults for the options; `keras-si list` shows them.",
        default=PRESETS[0],
    ),
    option(
        "--scenario",
        click.Choice(list(SCENARIOS)),
        "What the net knows about the task; `keras-si list` explains each.  "
        "[default: the paper's]",
    ),
    option("--tasks", COUNT, "Number of tasks."),
    option("--epochs", COUNT, "Epochs for each task."),
    option(
        "--steps", COUNT, "Training steps for each task, in place of epochs."
    ),
    option("--batch-size", COUNT, "Training batch size."),
    option(
        "--hidden",
        Several(COUNT),
        "Units of each hidden dense layer, as in 2000,2000.",
        metavar="UNITS,...",
    ),
    option("--learning-rate", POSITIVE, "Adam's learning rate."),
    option(
        "--reset-optimizer/--keep-optimizer",
        bool,
        "Zero Adam's state between tasks, or keep it.",
        default=None,
    ),
    option(
        "--output-weights",
        click.Choice(OUTPUT_WEIGHTS),
        "Initial weights of the output layer.",
    ),
    option(
        "--padding",
        click.IntRange(0, 100),  # At most 60 times the memory for MNIST.
        "Black pixels to add on each side of the images.",
    ),
    option(
        "--memory",
        COUNT,
        "Images of earlier tasks that replay keeps, in all.  "
        f"[default: {MEMORY}]",
    ),
    option(
        "--seed",
        click.IntRange(0, 2**31),  # Keras takes 32 bits.
        "Decides weights, tasks and the order of the data.",
        default=0,
    ),
    option("--seeds", COUNT, "Number of seeds, from --seed up.", default=1),
    option(
        "--dataset",
        DatasetName(),
        "A TFDS image classification dataset, with images of one size.  "
        "[default: the benchmark's]",
    ),
    option(
        "--data-dir",
        click.Path(exists=True, file_okay=False),
        "TFDS data folder; a missing dataset is downloaded to it.",
    ),
    option(
        "--precision",
        click.Choice(PRECISIONS),
        "Keras dtype policy.",
        default=PRECISIONS[0],
    ),
    option(
        "--jit/--no-jit",
        bool,
        "Compile with XLA, or not.  [default: Keras decides]",
        default=None,
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Make runs on a GPU reproducible, and slower; runs on CPUs always "
        "are.",
    ),
)


def protocol(command: Any) -> Any:
    """Adds what `run` and `tune` have both to a command."""
    return functools.reduce(lambda c, add: add(c), reversed(PROTOCOL), command)
