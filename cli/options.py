"""The options that `run` and `tune` have both, and their types."""

import math
from collections.abc import Callable
from typing import Any

import click

from .experiments import config
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


COUNT, FOLDER = click.IntRange(1), click.Path(file_okay=False)
STRENGTH, POSITIVE = Number(min=0), Number(min=0, min_open=True)


def option(flag: str, kind: Any, text: str, **more: Any) -> Any:
    return click.option(flag, type=kind, help=text, **more)


def _adding(*options: Any) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def methods(*default: str) -> Any:
    return click.option(
        "--method",
        "methods",
        type=click.Choice(list(METHODS)),
        multiple=True,
        default=default,
        help="Method to run; may be given several times.",
    )


# What `run` and `tune` have both; where no default is shown, the preset's.
protocol = _adding(
    click.argument("benchmark", type=click.Choice(list(BENCHMARKS))),
    option(
        *("--preset", click.Choice(PRESETS)),
        "Defaults for the options; `keras-si list` shows them.",
        default=PRESETS[0],
    ),
    option(
        *("--scenario", click.Choice(list(SCENARIOS))),
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
        *("--hidden", Several(COUNT)),
        "Units of each hidden dense layer, as in 2000,2000.",
        metavar="UNITS,...",
    ),
    option("--learning-rate", POSITIVE, "Adam's learning rate."),
    click.option(
        "--reset-optimizer/--keep-optimizer",
        default=None,
        help="Zero Adam's state between tasks, or keep it.",
    ),
    option(
        *("--output-weights", click.Choice(config.OUTPUT_WEIGHTS)),
        "How the weights of the outputs start.",
    ),
    option(
        # Images of MNIST's size take 60 times their memory at most.
        *("--padding", click.IntRange(0, 100)),
        "Add so many black pixels on each side of the images.",
    ),
    option(
        *("--memory", COUNT),
        "Images of earlier tasks that replay keeps, in all.  "
        f"[default: {config.MEMORY}]",
    ),
    option(
        *("--seed", click.IntRange(0, config.MAX_SEED)),
        "Decides weights, tasks and the order of the data.",
        default=0,
    ),
    option(
        "--seeds", COUNT, "Number of seeds, counted up from --seed.", default=1
    ),
    option(
        *("--dataset", str),
        "A TFDS image classification dataset, with images of one size.  "
        "[default: the benchmark's]",
    ),
    option(
        *("--data-dir", click.Path(exists=True, file_okay=False)),
        "TFDS data folder; a missing dataset is downloaded to it.",
    ),
    option(
        *("--precision", click.Choice(config.PRECISIONS)),
        "Keras dtype policy.",
        default=config.PRECISIONS[0],
    ),
    click.option(
        "--jit/--no-jit",
        default=None,
        help="Compile with XLA, or not.  [default: Keras decides]",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Make runs on a GPU reproducible, and slower; runs on CPUs always "
        "are.",
    ),
)
