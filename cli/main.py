"""The command line: options become a `RunConfig`, errors become one line.

The only file that knows click. What is heavy is imported inside the
commands, so that `--help` answers at once.
"""

import functools
import os
import sys
import traceback

import click

from . import config as config_module
from . import output as output_module
from .errors import OptionError, RunError
from .methods import METHODS
from .presets import BENCHMARKS

OUR_FILES = "config.json, results.json and average_accuracy.*"
# Since click 8.2; before, click shows the help and raises nothing.
NO_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Main(click.Group):
    """Reports every usage error in one line."""

    def main(self, *args, **kwargs):
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


def _say(message):
    click.echo(f"keras-si: error: {' '.join(message.split())}", err=True)


def _one_line_errors(command):
    """Turns what a command raises into one line and an exit code."""

    @click.option(
        "--debug", is_flag=True, help="Show the traceback of an error."
    )
    @functools.wraps(command)
    def wrapped(*args, debug, **kwargs):
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            if isinstance(error, OptionError | RunError):
                told = click.ClickException(str(error))
                told.exit_code = 2 if isinstance(error, OptionError) else 1
                raise told from error
            lines = str(error).strip().splitlines() or ["no message"]
            raise click.ClickException(
                f"{type(error).__name__}: {lines[0]} (--debug shows more)"
            ) from error

    return wrapped


@click.group(cls=_Main, context_settings={"max_content_width": 80})
@click.version_option(package_name="keras-si", prog_name="keras-si")
def main():
    """Synaptic Intelligence for Keras 3: the paper's experiments."""


@main.group()
def run():
    """Run a benchmark: train task after task, table, figure, JSON."""


def _run_options(benchmark):
    """Adds the options of `run`; the presets name their defaults."""
    choice = BENCHMARKS[benchmark]
    options = [
        click.option(
            "--preset",
            type=click.Choice(list(choice.presets)),
            default=next(iter(choice.presets)),
            show_default=True,
            help="Defaults for the options; `keras-si list` shows them.",
        ),
        click.option(
            "--method",
            "methods",
            type=click.Choice(list(METHODS)),
            multiple=True,
            default=("si", "naive"),
            show_default=True,
            help="Method to run; may be given several times.",
        ),
        click.option("--tasks", type=int, help="Number of tasks."),
        click.option("--epochs", type=int, help="Epochs for each task."),
        click.option("--batch-size", type=int, help="Of the training."),
        click.option(
            "--hidden",
            metavar="UNITS",
            help="Units of each hidden layer, as in 2000,2000.",
        ),
        click.option("--learning-rate", type=float, help="Of Adam."),
        click.option("--strength", type=float, help="The paper's c."),
        click.option("--damping", type=float, help="The paper's xi."),
        click.option(
            "--seed",
            type=int,
            default=0,
            show_default=True,
            help="Decides weights, tasks and the order of the data.",
        ),
        click.option(
            "--seeds",
            type=int,
            default=1,
            show_default=True,
            metavar="N",
            help="Run N seeds, counted up from --seed.",
        ),
        click.option(
            "--data-dir",
            metavar="DIR",
            help="TFDS folder that holds the dataset, or will.",
        ),
        click.option(
            "--dataset",
            default=choice.dataset,
            show_default=True,
            help="Any TFDS image classification dataset.",
        ),
        click.option(
            "--precision",
            type=click.Choice(config_module.PRECISIONS),
            default="float32",
            show_default=True,
            help="Keras dtype policy.",
        ),
        click.option(
            "--jit/--no-jit",
            default=None,
            help="Compile with XLA, or not. [default: Keras decides]",
        ),
        click.option(
            "--distribute",
            type=click.Choice(config_module.DISTRIBUTIONS),
            default="none",
            show_default=True,
            help="mirrored: each batch is shared by all GPUs.",
        ),
        click.option(
            "--output",
            metavar="DIR",
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

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@run.command("pmnist")
@_run_options("pmnist")
@_one_line_errors
def run_pmnist(**options):
    """Permuted MNIST: each task shuffles the pixels in its own way."""
    _run("pmnist", **options)


def _run(benchmark, preset, hidden, jit, output, overwrite, data_dir, **given):
    if hidden is not None:
        hidden = config_module.parse_hidden(hidden)
    if data_dir is not None and not os.path.isdir(data_dir):
        raise OptionError(
            "--data-dir",
            f"received {data_dir}, expected a folder that exists: make it "
            "first if the dataset is to be downloaded to it",
        )
    if output is None:
        output = output_module.default_folder(benchmark)
    config = config_module.resolve(
        benchmark,
        preset,
        {
            **given,
            "hidden": hidden,
            "jit": "auto" if jit is None else jit,
            "data_dir": data_dir,
            "output": output,
        },
    )
    made = output_module.prepare_folder(output, overwrite)
    try:
        results = _train(config)
    except BaseException:
        # A run that ended before its first result leaves no empty folder.
        output_module.remove_empty(made)
        raise
    _show(results, output)


def _train(config):
    from . import progress, startup

    with progress.observer() as observer:
        try:
            startup.import_quietly()
            from . import runner

            return runner.run(config, observer)
        except KeyboardInterrupt:
            where = f"; tasks that were finished are in {config.output}"
            raise RunError(
                "interrupted" + (where if os.listdir(config.output) else "")
            ) from None


def _show(results, output):
    from rich.console import Console
    from rich.text import Text

    from . import report

    # What the user has named is text: not markup, and no :emoji: either.
    console = Console(highlight=False)
    console.print(Text(f"\n{report.accuracy_title(results)}"))
    console.print(report.accuracy_table(results))
    console.print(Text(f"results and figure: {output}"), soft_wrap=True)


@main.command()
@click.argument("runs", metavar="DIR...", nargs=-1, required=True)
@click.option(
    "--output",
    metavar="FILE",
    help="Also draw the runs into one figure, .png or .svg.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@_one_line_errors
def report(runs, output, overwrite):
    """Compare finished runs: a table, and a figure with --output."""
    if output is not None:
        output_module.check_figure(output, overwrite)
    from . import startup

    startup.import_quietly()
    from rich.console import Console

    from . import report as report_module
    from . import results

    labelled = [(folder, results.read(folder)) for folder in runs]
    Console(highlight=False).print(report_module.comparison_table(labelled))
    if output is not None:
        report_module.write_figure(labelled, output)
        click.echo(f"figure: {output}")


@main.command("list")
def list_():
    """List benchmarks, methods and presets, each with its source."""
    from . import listing

    listing.show()
