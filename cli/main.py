"""The command line: options become a `RunConfig`, errors become one line.

With `options`, the only file that knows click. What is heavy is imported
inside the commands, so that `--help` answers at once.
"""

import functools
import os
import shlex
import sys
import traceback

import click

from . import config as config_module
from . import output as output_module
from . import resume as resume_module
from .errors import Interrupted, OptionError, RunError
from .options import SeveralValues, run_options, tune_options

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
                told.exit_code = error.exit_code
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


@run.command("pmnist")
@run_options("pmnist")
@_one_line_errors
def run_pmnist(**options):
    """Permuted MNIST: each task shuffles the pixels in its own way."""
    _run("pmnist", **options)


@run.command("smnist")
@run_options("smnist")
@_one_line_errors
def run_smnist(**options):
    """Split MNIST: each task is a pair of digits."""
    _run("smnist", **options)


@run.command("scifar")
@run_options("scifar")
@_one_line_errors
def run_scifar(**options):
    """Split CIFAR: CIFAR-10, then tens of classes of CIFAR-100.

    With --dataset cifar10, or any other dataset: pairs of its classes.
    """
    _run("scifar", **options)


@main.group()
def tune():
    """Search for strength and damping; the test set is not looked at."""


@tune.command("pmnist", cls=SeveralValues)
@tune_options("pmnist")
@_one_line_errors
def tune_pmnist(**options):
    """Permuted MNIST: try each --strength with each --damping."""
    _tune("pmnist", **options)


@tune.command("smnist", cls=SeveralValues)
@tune_options("smnist")
@_one_line_errors
def tune_smnist(**options):
    """Split MNIST: try each --strength with each --damping."""
    _tune("smnist", **options)


@tune.command("scifar", cls=SeveralValues)
@tune_options("scifar")
@_one_line_errors
def tune_scifar(**options):
    """Split CIFAR: try each --strength with each --damping."""
    _tune("scifar", **options)


def _run(benchmark, preset, output, overwrite, resume, **options):
    if resume and overwrite:
        raise OptionError("--resume", "cannot be combined with --overwrite")
    if resume and output is None:
        raise OptionError("--resume", "name the run's folder with --output")
    if output is None:
        output = output_module.default_folder(benchmark)
    config = config_module.resolve(
        benchmark, preset, _given(output=output, **options)
    )
    _run_in_folder(config, overwrite, resume)


def _given(hidden, jit, data_dir, **given):
    """Returns options by the names of `RunConfig`."""
    if hidden is not None:
        hidden = config_module.parse_hidden(hidden)
    _check_data_dir(data_dir)
    return {
        **given,
        "hidden": hidden,
        "jit": "auto" if jit is None else jit,
        "data_dir": data_dir,
    }


def _check_data_dir(data_dir):
    if data_dir is not None and not os.path.isdir(data_dir):
        raise OptionError(
            "--data-dir",
            f"received {data_dir}, expected a folder that exists: make "
            "it first if the dataset is to be downloaded to it",
        )


def _run_in_folder(config, overwrite=False, resume=False):
    with output_module.held(config.output, overwrite, resume):
        if resume:
            resume_module.check_config(config.output, config)
        results = _train(config, resume)
    _show(results, config.output)
    failed = [run for run in results.runs if run.failed is not None]
    if failed:
        raise RunError(
            "; ".join(f"{r.method} seed {r.seed}: {r.failed}" for r in failed)
        )


def _train(config, resume):
    from . import progress, startup

    with progress.observer() as observer:
        try:
            startup.import_quietly()
            from . import runner

            standing = None
            if resume:
                standing = resume_module.standing(config.output, config)
                standing.check_versions(runner.versions())
                for notice in standing.notices:
                    observer.notice(notice)
            return runner.run(config, observer, standing=standing)
        except KeyboardInterrupt:
            how = ""
            if os.path.exists(
                os.path.join(config.output, output_module.CONFIG)
            ):
                folder = shlex.quote(config.output)
                how = f"; to go on: keras-si resume {folder}"
            raise Interrupted(f"interrupted{how}") from None


def _tune(benchmark, preset, strengths, dampings, jobs, engine, **options):
    from . import engines, grid
    from . import tune as tune_module

    if jobs < 1:
        raise OptionError("--jobs", f"received {jobs}, expected 1 or more")
    if options["output"] is None:
        options["output"] = output_module.default_folder(f"tune-{benchmark}")
    points = grid.points(
        benchmark, preset, _given(**options), strengths, dampings
    )
    engines.check(engine)
    search = tune_module.Search(options["output"], points)
    with output_module.held(search.folder, overwrite=search.goes_on):
        _search(search, engine, jobs)


def _search(search, engine, jobs):
    from . import startup

    startup.import_quietly()
    from rich.console import Console
    from rich.text import Text

    from . import search_report

    console = Console(highlight=False)
    lines = search_report.Lines(search, console)
    try:
        search.run(engine, jobs, lines.finished)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; to go on: the same command with --output "
            f"{shlex.quote(str(search.folder))}"
        ) from None
    console.print(search_report.table(search))
    for line in search_report.notes(search):
        console.print(Text(line), soft_wrap=True)
    search_report.write_heat_map(search)


def _show(results, output):
    from rich.console import Console
    from rich.text import Text

    from . import report

    # What the user has named is text: not markup, and no :emoji: either.
    console = Console(highlight=False)
    console.print(Text(f"\n{report.accuracy_title(results)}"))
    console.print(report.accuracy_table(results))
    for line in report.notes(results):
        console.print(Text(line))
    console.print(Text(f"results and figures: {output}"), soft_wrap=True)


@main.command()
@click.argument("folder", metavar="DIR")
@_one_line_errors
def resume(folder):
    """Go on with the run in DIR, which was interrupted.

    It ends with the accuracies that it would have had without interruption,
    on the same machine. At most one epoch is trained again.
    """
    config = resume_module.read_config(folder)
    _check_data_dir(config.data_dir)
    _run_in_folder(config, resume=True)


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
    from rich.text import Text

    from . import figures, reading
    from . import report as report_module

    labelled = [(folder, reading.read(folder)) for folder in runs]
    console = Console(highlight=False)
    console.print(report_module.comparison_table(labelled))
    for line in report_module.comparison_notes(labelled):
        console.print(Text(line))
    if output is not None:
        figures.write_figure(labelled, output)
        click.echo(f"figure: {output}")


@main.command("list")
def list_():
    """List benchmarks, methods and presets, each with its source."""
    from . import listing

    listing.show()
