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

from . import config as config_module
from . import distribution, run_folder
from . import output as output_module
from . import resume as resume_module
from .errors import Interrupted, OptionError, RunError
from .presets import DEFAULTS
from .types import Record

if TYPE_CHECKING:
    from .tune import Search


def run(
    benchmark: str,
    preset: str,
    output: str | None,
    overwrite: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Runs a benchmark; the options are those of `options.run_options`."""
    if resume and overwrite:
        raise OptionError("--resume", "cannot be combined with --overwrite")
    if resume and output is None:
        raise OptionError("--resume", "name the run's folder with --output")
    if output is None:
        output = output_module.default_folder(benchmark)
    config = config_module.resolve(
        benchmark, preset, _given(output=output, **options)
    )
    run_folder.train_and_show(config, overwrite, resume)


def resume(folder: str) -> None:
    """Goes on with the run in a folder."""
    config = resume_module.read_config(folder)
    _check_data_dir(config.data_dir)
    run_folder.train_and_show(config, resume=True)


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
    engine: str,
    **options: Any,
) -> None:
    """Searches; the options are those of `options.tune_options`."""
    from . import engines, grid
    from . import tune as tune_module

    if jobs < 1:
        raise OptionError("--jobs", f"received {jobs}, expected 1 or more")
    if options["distribute"] == "multiworker":
        raise OptionError(
            "--distribute",
            "multiworker is not for tune, which runs each setting on one "
            "machine: use --jobs or --engine ray",
        )
    distribution.check(options["distribute"])
    if options["output"] is None:
        options["output"] = output_module.default_folder(f"tune-{benchmark}")
    if engine == "ray" and options["data_dir"] is not None:
        # The cluster's processes work in folders of their own.
        options["data_dir"] = os.path.abspath(options["data_dir"])
    points = grid.points(
        benchmark, preset, _given(**options), strengths, dampings
    )
    engines.check(engine)
    search = tune_module.Search(options["output"], points)
    with output_module.held(search.folder, overwrite=search.goes_on):
        _search(search, engine, jobs)


def _search(search: Search, engine: str, jobs: int) -> None:
    from . import startup

    startup.import_quietly()
    from rich.console import Console
    from rich.text import Text

    from . import search_report

    for problem in search.problems:
        print(f"note: {problem}", file=sys.stderr)
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
    from . import startup

    startup.import_quietly()
    from rich.console import Console
    from rich.text import Text

    from . import figures, files, reading
    from . import page as page_module
    from . import report as report_module

    # One that is named twice is shown once.
    names: dict[str, str] = {}
    for run in runs:
        names.setdefault(os.path.realpath(run), run)
    runs = [*names.values()]
    found = [reading.read(folder) for folder in runs]
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
