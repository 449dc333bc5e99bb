"""What the commands do, from their options to what they print.

Options are checked first. What is heavy is imported where it is used, so that
`--help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import Interrupted, OptionError, RunError
from .experiments import config as config_module
from .experiments.presets import DEFAULTS
from .files import Record
from .training import output as output_module
from .training import resume as resume_module
from .training import run_folder, start

if TYPE_CHECKING:
    from .tune import Search


def run(
    benchmark: str,
    preset: str,
    output: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Runs a benchmark; the options are those of `options.run_options`."""
    if output is None:
        output = output_module.default_folder(benchmark)
    if not output.strip():
        raise OptionError("--output", "received an empty name")
    config = config_module.resolve(benchmark, preset, _given(**options))
    command = shlex.join(["keras-si", *sys.argv[1:]])
    run_folder.train_and_show(config, output, overwrite, command=command)


def resume(folder: str) -> None:
    """Goes on with the run in a folder."""
    config = resume_module.read_config(folder)
    _check_data_dir(config.data_dir)
    run_folder.train_and_show(config, folder, resume=True)


def _given(
    hidden: str | None, jit: bool | None, data_dir: str | None, **given: Any
) -> Record:
    """Returns options by the names of `RunConfig`."""
    if hidden is not None:
        given["hidden"] = config_module.parse_hidden(hidden)
    _check_data_dir(data_dir)
    return {
        **given,
        "jit": DEFAULTS["jit"] if jit is None else jit,
        "data_dir": data_dir,
    }


def _check_data_dir(data_dir: str | None) -> None:
    if data_dir is not None and not os.path.isdir(data_dir):
        raise OptionError(
            "--data-dir",
            f"received {data_dir!r}, expected a folder that exists: make "
            "it first if the dataset is to be downloaded to it",
        )


def tune(
    benchmark: str,
    preset: str,
    strengths: Sequence[float],
    dampings: Sequence[float],
    jobs: int,
    output: str | None,
    **options: Any,
) -> None:
    """Searches; the options are those of `options.tune_options`."""
    from . import grid
    from . import tune as tune_module

    if jobs < 1:
        raise OptionError("--jobs", f"received {jobs}, expected 1 or more")
    if output is None:
        output = output_module.default_folder(f"tune-{benchmark}")
    if not output.strip():
        raise OptionError("--output", "received an empty name")
    start.check_backend()
    points = grid.points(
        benchmark, preset, _given(**options), strengths, dampings
    )
    search = tune_module.Search(output, points)
    with output_module.held(search.folder, overwrite=search.goes_on):
        _search(search, jobs)


def _search(search: Search, jobs: int) -> None:
    start.import_quietly()
    from rich.console import Console
    from rich.text import Text

    from . import search_report

    for problem in search.problems:
        print(f"note: {problem}", file=sys.stderr)
    console = Console(highlight=False)
    lines = search_report.Lines(search, console)
    try:
        search.run(jobs, lines.finished)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; to go on: the same command with --output "
            f"{shlex.quote(str(search.folder))}"
        ) from None
    console.print(search_report.table(search))
    for line in search_report.notes(search):
        console.print(Text(line), soft_wrap=True)
    drawn = " and heat map" if search_report.write_heat_map(search) else ""
    console.print(Text(f"search{drawn}: {search.folder}"), soft_wrap=True)
    if not search.bests:
        raise RunError(
            "no setting was finished: each diverged, or has a seed that did; "
            "try a lower --learning-rate or smaller values of --strength"
        )


def _labels(runs: Sequence[str]) -> Sequence[str]:
    """Returns the runs' names without the folders that they share."""
    if len(runs) == 1:
        return runs
    paths = [os.path.abspath(run) for run in runs]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared) for path in paths]


def report(
    runs: Sequence[str],
    output: str | None,
    html: str | None,
    overwrite: bool,
) -> None:
    """Compares runs; draws them into `output`, and into the page `html`.

    Both are files, and left out if they are not given.
    """
    for option, path, endings in (
        ("--output", output, output_module.FIGURES),
        ("--html", html, output_module.PAGES),
    ):
        if path is not None:
            output_module.check_file(option, path, endings, overwrite)
    for run in runs:
        if not os.path.exists(run):
            raise OptionError(
                "DIR",
                f"there is no {run}; name a folder that `keras-si run` has "
                "written",
            )
    start.import_quietly()
    from rich.console import Console
    from rich.text import Text

    from . import files
    from .results import figures
    from .results import page as page_module
    from .results import tables as report_module
    from .results.results import Results

    # One that is named twice is shown once.
    names: dict[str, str] = {}
    for run in runs:
        names.setdefault(os.path.realpath(run), run)
    runs = [*names.values()]
    found = [Results.load(folder) for folder in runs]
    labelled = list(zip(_labels(runs), found, strict=True))
    console = Console(highlight=False)
    console.print(report_module.comparison_table(labelled, console.width))
    console.print()
    for line in report_module.comparison_notes(labelled):
        console.print(Text(line))
    if output is not None:
        figures.write_figure(labelled, output)
        print(f"figure: {output}")
    if html is not None:
        files.write_atomically(html, page_module.page(labelled).encode())
        print(f"page: {html}")
