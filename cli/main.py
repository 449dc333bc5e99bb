"""The command line: commands and their help; errors become one line.

With `options` and `manual`, the only file that knows click.
"""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import click

from . import commands, manual
from .errors import OptionError, RunError
from .options import PATH, SeveralValues, run_options, tune_options

# Since click 8.2; before, click shows the help and raises nothing.
NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Main(manual.Group):
    """Reports every usage error in one line."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        try:
            # Commands that click itself ends, as --help, return their code.
            code = super().main(*args, **kwargs)
        except NO_ARGUMENTS as error:
            click.echo(error.format_message())
            code = error.exit_code
        except click.ClickException as error:
            hint = ""
            if isinstance(error, click.UsageError) and error.ctx is not None:
                hint = f" (see {error.ctx.command_path} --help)"
            _say(f"{error.format_message()}{hint}")
            code = error.exit_code
        except click.Abort:
            _say("interrupted")
            code = 130
        sys.exit(code if isinstance(code, int) else 0)


def _say(message: str) -> None:
    click.echo(f"keras-si: error: {' '.join(message.split())}", err=True)


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what a command raises into one line and an exit code."""

    @click.option(
        "--debug", is_flag=True, help="Show the traceback of an error."
    )
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            if isinstance(error, OptionError | RunError):
                told = click.ClickException(str(error))
                told.exit_code = error.exit_code  # type: ignore[misc]
                raise told from error
            lines = str(error).strip().splitlines() or ["no message"]
            raise click.ClickException(
                f"{type(error).__name__}: {lines[0]} (--debug shows more)"
            ) from error

    return wrapped


@click.group(
    cls=_Main,
    context_settings={"max_content_width": 80},
    epilog=manual.MAIN,
)
@click.version_option(package_name="keras-si", prog_name="keras-si")
def main() -> None:
    """Synaptic Intelligence for Keras 3: the paper's experiments."""


@main.group(cls=manual.Group, epilog=manual.RUN_GROUP)
def run() -> None:
    """Run a benchmark: train task after task, table, figure, JSON."""


@run.command("pmnist", epilog=manual.run("pmnist"))
@run_options("pmnist")
@_one_line_errors
def run_pmnist(**options: Any) -> None:
    """Permuted MNIST: each task shuffles the pixels in its own way.

    Trains each method on one task after the other, and tests it on all tasks
    so far after each. With one seed, the methods meet the same tasks, initial
    weights and order of the data.
    """
    commands.run("pmnist", **options)


@run.command("smnist", epilog=manual.run("smnist"))
@run_options("smnist")
@_one_line_errors
def run_smnist(**options: Any) -> None:
    """Split MNIST: each task is a pair of digits.

    Trains each method on one task after the other, and tests it on all tasks
    so far after each. What the net is told of them is the --scenario.
    """
    commands.run("smnist", **options)


@run.command("scifar", epilog=manual.run("scifar"))
@run_options("scifar")
@_one_line_errors
def run_scifar(**options: Any) -> None:
    """Split CIFAR: CIFAR-10, then tens of classes of CIFAR-100.

    With --dataset cifar10, or any other dataset: pairs of its classes.
    """
    commands.run("scifar", **options)


@main.group(cls=manual.Group, epilog=manual.TUNE_GROUP)
def tune() -> None:
    """Search for strength and damping; the test set is not looked at."""


@tune.command("pmnist", cls=SeveralValues, epilog=manual.tune("pmnist"))
@tune_options("pmnist")
@_one_line_errors
def tune_pmnist(**options: Any) -> None:
    """Permuted MNIST: try each --strength with each --damping.

    Trains on the first five sixths of the training data and judges on the
    rest; the test set is not looked at. Ends with the best setting.
    """
    commands.tune("pmnist", **options)


@tune.command("smnist", cls=SeveralValues, epilog=manual.tune("smnist"))
@tune_options("smnist")
@_one_line_errors
def tune_smnist(**options: Any) -> None:
    """Split MNIST: try each --strength with each --damping.

    Trains on the first five sixths of the training data and judges on the
    rest; the test set is not looked at. Ends with the best setting.
    """
    commands.tune("smnist", **options)


@tune.command("scifar", cls=SeveralValues, epilog=manual.tune("scifar"))
@tune_options("scifar")
@_one_line_errors
def tune_scifar(**options: Any) -> None:
    """Split CIFAR: try each --strength with each --damping.

    Trains on the first five sixths of the training data and judges on the
    rest; the test set is not looked at. Ends with the best setting.
    """
    commands.tune("scifar", **options)


@main.command(epilog=manual.RESUME)
@click.argument("folder", metavar="DIR", type=PATH)
@_one_line_errors
def resume(folder: str) -> None:
    """Go on with the run in DIR, which was interrupted.

    On the same machine it ends with the accuracies that it would have had
    without interruption: on CPUs always, on GPUs if it is --deterministic. At
    most one epoch is trained again.
    """
    commands.resume(folder)


@main.command(epilog=manual.REPORT)
@click.argument("runs", metavar="DIR...", nargs=-1, required=True, type=PATH)
@click.option(
    "--output",
    metavar="FILE",
    help="Also draw the runs into one figure, .png or .svg.",
)
@click.option(
    "--html",
    metavar="FILE",
    help="Also write all there is to see of the runs into one page, "
    "which needs no network.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@_one_line_errors
def report(
    runs: tuple[str, ...],
    output: str | None,
    html: str | None,
    overwrite: bool,
) -> None:
    """Compare finished runs: a table; with options, a figure and a page."""
    commands.report(runs, output, html, overwrite)


@main.command("list", epilog=manual.LIST)
def list_() -> None:
    """List benchmarks, methods and presets, each with its source."""
    from . import listing

    listing.show()
