"""The command line: what each command calls.

What is heavy is imported inside the commands, after the options have been
checked: `--help` and a wrong option answer at once.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import click

from . import options
from .errors import Interrupted
from .experiments import config
from .options import option


class _Main(click.Group):
    """Says in one line what is wrong; Ctrl-C ends with 130."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _in_one_line():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        message = " ".join(error.format_message().split())
        where = error.ctx.command_path if error.ctx else "keras-si"
        short = click.ClickException(f"{message} (see {where} --help)")
        short.exit_code = error.exit_code  # type: ignore[misc]
        raise short from None


@click.group(
    cls=_Main,
    context_settings={"max_content_width": 80, "show_default": True},
    epilog="""\b
Examples:
  keras-si run pmnist
  keras-si run --help
  keras-si list

\b
Exit codes:
  0    All is done.
  1    The work failed, or a method diverged; what was finished is kept.
  2    An option or an argument is wrong; nothing was started.
  130  Ctrl-C.

\b
Tab completion in bash:
  eval "$(_KERAS_SI_COMPLETE=bash_source keras-si)"
""",
)
@click.version_option(package_name="keras-si", prog_name="keras-si")
def main() -> None:
    """Synaptic Intelligence for Keras 3: the paper's experiments."""


@main.command(
    epilog="""\b
Examples:
  keras-si run pmnist
  keras-si run pmnist --preset paper --seeds 3 --output paper
  keras-si run pmnist --tasks 2 --hidden 100
  keras-si run pmnist --dataset fashion_mnist

\b
SI between its bounds:
  keras-si run smnist --method naive --method si --method joint

\b
Files, in the folder of --output:
  config.json          Every option, as it was used, and the command.
  results.json         Every accuracy after every task, and the summary.
  average_accuracy.*   The figure, .png and .svg.
  accuracy_per_task.*  A small figure for each task, .png and .svg.
  checkpoint.npz       Where the run stands, until it is over.
"""
)
@options.protocol
@options.methods("si", "naive")
@option(
    "--strength", options.STRENGTH, "SI's c; the strength of l2; EWC's lambda."
)
@option("--damping", options.POSITIVE, "SI's xi.")
@option(
    "--output",
    options.FOLDER,
    "Folder for the results.  [default: runs/BENCHMARK-<time>]",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an earlier run in the folder; files of your own stay.",
)
def run(
    benchmark: str,
    preset: str,
    output: str | None,
    overwrite: bool,
    **given: Any,
) -> None:
    """Run a benchmark: train task after task; table, figures, JSON.

    Trains each method on one task after the other, and tests it on all tasks
    so far after each. With one seed, the methods meet the same tasks, initial
    weights and order of the data.

    pmnist is permuted MNIST: each task shuffles the pixels in its own way.
    smnist is split MNIST: each task is a pair of digits. scifar is split
    CIFAR: CIFAR-10, then CIFAR-100, ten classes at a time.
    """
    resolved = config.resolve(benchmark, preset, given)
    from . import training
    from .training import folder

    output = output or folder.default_folder(benchmark)
    command = shlex.join(["keras-si", *sys.argv[1:]])
    training.train(resolved, output, overwrite, command=command)


@main.command(
    epilog="""\b
Example:
  keras-si resume runs/pmnist-20250131-120000
"""
)
@click.argument("folder", metavar="DIR", type=options.FOLDER)
def resume(folder: str) -> None:
    """Continue the run in DIR, which was interrupted.

    On the same machine it ends with the accuracies that it would have had
    without interruption: on CPUs always, on GPUs if it is --deterministic. At
    most one epoch is trained again; with --steps, one task.
    """
    from . import training
    from .training import folder as folder_module

    resolved, command = folder_module.read_config(folder)
    training.train(resolved, folder, resume=True, command=command)


@main.command(
    epilog="""\b
Examples:
  keras-si report runs/pmnist-*
  keras-si report with-si with-l2 --output comparison.png
  keras-si report runs/pmnist-* --html report.html
"""
)
@click.argument(
    "runs",
    metavar="DIR...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True),
)
@option("--output", options.FILE, "Also draw the runs into this .png or .svg.")
@option("--html", options.FILE, "Also write a page, which needs no network.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def report(
    runs: tuple[str, ...],
    output: str | None,
    html: str | None,
    overwrite: bool,
) -> None:
    """Compare finished runs: a table; with options, a figure and a page.

    Runs that differ in the seed alone become one, with a band.
    """
    from .training import folder, start

    if output is not None:
        folder.check_file("--output", output, (".png", ".svg"), overwrite)
    if html is not None:
        folder.check_file("--html", html, (".html", ".htm"), overwrite)
    folder.check_results(runs)
    start.import_quietly()
    from rich.console import Console
    from rich.text import Text

    from . import files
    from .results import compare, figures, tables
    from .results import page as page_module

    labelled = compare.load(runs)
    console = Console(highlight=False)
    console.print(tables.comparison_table(labelled))
    console.print()
    for line in tables.comparison_notes(labelled):
        console.print(Text(line))
    if output is not None:
        figures.save(figures.average_figure(labelled), output)
        print(f"figure: {output}")
    if html is not None:
        files.write_atomically(html, page_module.page(labelled).encode())
        print(f"page: {html}")


@main.command(
    epilog="""\b
Examples:
  keras-si tune pmnist --strength 0.1,1,10
  keras-si tune smnist --strength 0.1,1,10 --damping 0.001,0.01 --jobs 2
  keras-si tune smnist --trials 30 --output search
"""
)
@options.protocol
@options.methods("si")
@option("--strength", options.STRENGTHS, "Values to try.", metavar="C,...")
@option("--damping", options.DAMPINGS, "Values to try.", metavar="XI,...")
@option(
    "--trials", click.IntRange(0), "Settings to try beyond these.", default=0
)
@option("--jobs", options.COUNT, "How many processes to start here.", default=1)
@option(
    "--storage",
    str,
    "Journal file or database URL that processes and machines share.  "
    "[default: a journal in the folder]",
)
@option(
    "--output",
    options.FOLDER,
    "Folder for the search.  [default: runs/tune-BENCHMARK-<time>]",
)
def tune(
    benchmark: str,
    preset: str,
    strength: tuple[float, ...] | None,
    damping: tuple[float, ...] | None,
    output: str | None,
    trials: int,
    jobs: int,
    storage: str | None,
    **given: Any,
) -> None:
    """Search for strength and damping; the test set is not looked at.

    Trains on the first five sixths of the training data and judges on the
    rest. Tries each --strength with each --damping, then --trials more within
    their range. The same command with the same --output or --storage continues
    a search, also from several shells or machines at once.
    """
    for name, values in (("strength", strength), ("damping", damping)):
        given[name] = values and values[0]
    resolved = config.resolve(benchmark, preset, given)
    from . import tune as tune_module
    from .training import folder, start

    start.check_backend()
    tune_module.tune(
        resolved,
        strengths=strength or (),
        dampings=damping or (),
        trials=trials,
        jobs=jobs,
        storage=storage,
        output=output or folder.default_folder(f"tune-{benchmark}"),
        arguments=sys.argv[2:],
    )


@main.command("list", epilog="\b\nExample:\n  keras-si list\n")
def list_() -> None:
    """List benchmarks, methods and presets, each with its source."""
    from . import listing

    listing.show()
