"""The options of the commands, as click has them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import click

from .experiments.config import OUTPUT_WEIGHTS, PRECISIONS
from .experiments.presets import (
    BENCHMARKS,
    DEFAULTS,
    METHODS_RUN,
    METHODS_TUNED,
)
from .manual import Command
from .methods import METHODS

# What `click.option` gives: a decorator.
Option: TypeAlias = Callable[[Any], Any]
# For completion in shells; what is there is checked elsewhere.
PATH = click.Path(readable=False)
OUR_FILES = "config.json, results.json and the figures"


def run_options(benchmark: str) -> Option:
    """Adds the options of `run`; the presets name their defaults."""
    return _adding(
        [
            *_protocol(benchmark),
            _method(METHODS_RUN),
            click.option("--strength", type=float, help="The paper's c."),
            click.option("--damping", type=float, help="The paper's xi."),
            *_place(benchmark),
            click.option(
                "--output",
                metavar="DIR",
                type=PATH,
                help="Folder for the results. "
                f"[default: runs/{benchmark}-<date>-<time>]",
            ),
            click.option(
                "--overwrite",
                is_flag=True,
                help=f"Replace {OUR_FILES} of an earlier run in the folder; "
                "other files stay.",
            ),
        ]
    )


def tune_options(benchmark: str) -> Option:
    """Adds the options of `tune`: those of `run`, and several values."""
    return _adding(
        [
            *_protocol(benchmark),
            _method(METHODS_TUNED),
            click.option(
                "--strength",
                "strengths",
                type=float,
                multiple=True,
                metavar="C...",
                help="The paper's c: the values to try. "
                "[default: the preset's]",
            ),
            click.option(
                "--damping",
                "dampings",
                type=float,
                multiple=True,
                metavar="XI...",
                help="The paper's xi: the values to try. "
                "[default: the preset's]",
            ),
            *_place(benchmark),
            click.option(
                "--jobs",
                type=int,
                default=1,
                show_default=True,
                help="How many settings to run at once on a machine; they "
                "share its cores.",
            ),
            click.option(
                "--output",
                metavar="DIR",
                type=PATH,
                help="Folder for the search; one that holds it already goes "
                f"on. [default: runs/tune-{benchmark}-<date>-<time>]",
            ),
        ]
    )


class SeveralValues(Command):
    """A command whose options may be given several values at once.

    `--strength 1 2` is read as `--strength 1 --strength 2`.
    """

    several = ("--strength", "--damping")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._one_by_one(args))

    def _one_by_one(self, args: list[str]) -> list[str]:
        option, has_value, spread = None, False, []
        for arg in args:
            name, _, value = arg.partition("=")
            if name in self.several:
                option, has_value = name, bool(value)
            elif option and _is_number(arg):
                if has_value:
                    spread.append(option)
                has_value = True
            else:
                option = None
            spread.append(arg)
        return spread


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _protocol(benchmark: str) -> list[Option]:
    """What is learned, with which net, and how."""
    choice = BENCHMARKS[benchmark]
    options = [
        click.option(
            "--preset",
            type=click.Choice(list(choice.presets)),
            default=next(iter(choice.presets)),
            show_default=True,
            help="Defaults for the options; `keras-si list` shows them.",
        )
    ]
    if len(choice.scenarios) > 1:
        options.append(
            click.option(
                "--scenario",
                type=click.Choice(choice.scenarios),
                default=choice.scenarios[0],
                show_default=True,
                help="What the net is told, and what it must tell apart; "
                "`keras-si list` explains them.",
            )
        )
    return [
        *options,
        click.option("--tasks", type=int, help="Number of tasks."),
        click.option(
            "--padding",
            type=int,
            metavar="PIXELS",
            help="Add so many black pixels on each side of the images.",
        ),
        click.option("--epochs", type=int, help="Epochs for each task."),
        click.option(
            "--steps", type=int, help="Training steps a task, not epochs."
        ),
        click.option("--batch-size", type=int, help="Of the training."),
        click.option(
            "--hidden",
            metavar="UNITS",
            help="Units of each hidden dense layer, as in 2000,2000.",
        ),
        click.option("--learning-rate", type=float, help="Of Adam."),
        click.option(
            "--reset-optimizer/--keep-optimizer",
            default=None,
            help="Zero Adam's state between tasks, or keep it.",
        ),
        click.option(
            "--output-weights",
            type=click.Choice(OUTPUT_WEIGHTS),
            help="How the weights of the outputs start.",
        ),
    ]


def _method(default: tuple[str, ...]) -> Option:
    return click.option(
        "--method",
        "methods",
        type=click.Choice(list(METHODS)),
        multiple=True,
        default=default,
        show_default=True,
        help="Method to run; may be given several times.",
    )


def _place(benchmark: str) -> list[Option]:
    """Seeds, data and the machine."""
    return [
        click.option(
            "--seed",
            type=int,
            default=DEFAULTS["seed"],
            show_default=True,
            help="Decides weights, tasks and the order of the data.",
        ),
        click.option(
            "--seeds",
            type=int,
            default=DEFAULTS["seeds"],
            show_default=True,
            metavar="N",
            help="Run N seeds, counted up from --seed.",
        ),
        click.option(
            "--data-dir",
            metavar="DIR",
            type=PATH,
            help="TFDS folder that holds the dataset, or will.",
        ),
        click.option(
            "--dataset",
            default=BENCHMARKS[benchmark].dataset,
            show_default=True,
            help="A TFDS image classification dataset, with images of one "
            "size.",
        ),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default=DEFAULTS["precision"],
            show_default=True,
            help="Keras dtype policy.",
        ),
        click.option(
            "--jit/--no-jit",
            default=None,
            help="Compile with XLA, or not. [default: Keras decides]",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            help="The same results run after run on a GPU too, where that "
            "takes longer; on CPUs it is always so.",
        ),
    ]


def _adding(options: list[Option]) -> Option:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
