"""A run in its folder: trained or gone on with, alone or beside others."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import tempfile
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from . import distribution
from . import output as output_module
from . import resume as resume_module
from .config import RunConfig
from .errors import Interrupted, RunError
from .observer import Observer

if TYPE_CHECKING:
    from .results import Results


def train_and_show(
    config: RunConfig,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Trains a run in its folder, or goes on with it, and shows the results.

    Args:
        config: Its `RunConfig`.
        overwrite: Whether an earlier run in the folder may be replaced.
        resume: Whether it is to go on.

    Raises:
        RunError: If a method has diverged; the others are kept.
    """
    worker = distribution.check(config.distribute)
    if worker.index:
        results = _work_beside_the_first(config, resume, worker)
    else:
        with output_module.held(config.output, overwrite, resume):
            if resume:
                resume_module.check_config(config.output, config)
            results = _train(config, resume, worker, config.output)
        show(results, config.output)
    failed = [run for run in results.runs if run.failed is not None]
    if failed:
        raise RunError(
            "; ".join(f"{r.method} seed {r.seed}: {r.failed}" for r in failed)
        )


def _work_beside_the_first(
    config: RunConfig, resume: bool, worker: distribution.Worker
) -> Results:
    """Trains in step with worker 0, and leaves its folder alone."""
    print(
        f"worker {worker.index} of {worker.count}, counted from 0: worker 0 "
        "shows and keeps the results",
        flush=True,
    )
    # What is saved of a model here is nobody's: but all must save, since
    # some of it is gathered from all.
    with tempfile.TemporaryDirectory() as folder:
        return _train(config, resume, worker, folder)


def _train(
    config: RunConfig,
    resume: bool,
    worker: distribution.Worker,
    output: str,
) -> Results:
    from . import progress, startup, workers

    observing: AbstractContextManager[Observer] = progress.observer()
    if worker.index:
        observing = contextlib.nullcontext(Observer())
    in_step: AbstractContextManager[object] = contextlib.nullcontext()
    before = _written_config(config)
    with observing as observer:
        try:
            if worker.count > 1:
                observer.notice(f"waiting until all {worker.count} workers run")
            startup.import_quietly(
                distribute=config.distribute,
                deterministic=config.deterministic,
            )
            from . import runner

            standing = None
            if resume:
                standing = resume_module.standing(config.output, config)
            if worker.count > 1:
                in_step = workers.telling_of_lost_ones()
            with in_step:
                if worker.count > 1:
                    workers.check_same(config, runner.versions(), standing)
                if standing is not None:
                    if standing.results is None:
                        standing.check_environment(runner.environment())
                    for notice in standing.notices:
                        observer.notice(notice)
                    if standing.results is not None:
                        observer.notice(
                            f"the run in {config.output} is over: there is "
                            "nothing left to train"
                        )
                        return standing.results
                return runner.run(
                    dataclasses.replace(config, output=output),
                    observer,
                    standing=standing,
                )
        except KeyboardInterrupt:
            how = ""
            # What stands there may be the run that was to be replaced.
            now = _written_config(config)
            changed = now is not None and (resume or now != before)
            if changed and not worker.index:
                folder = shlex.quote(config.output)
                how = f"; to go on: keras-si resume {folder}"
            raise Interrupted(f"interrupted{how}") from None


def _written_config(
    config: RunConfig,
) -> tuple[int, int] | None:
    """Returns which file `config.json` is, or `None` if there is none.

    Every run writes a new one, even if it holds the same.
    """
    try:
        found = os.stat(os.path.join(config.output, output_module.CONFIG))
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def show(results: Results, output: str) -> None:
    """Prints the table of a run, its notes and where its files are."""
    from rich.console import Console
    from rich.text import Text

    from . import report

    # What the user has named is text: not markup, and no :emoji: either.
    console = Console(highlight=False)
    console.print(Text(f"\n{report.accuracy_title(results)}"))
    console.print(report.accuracy_table(results))
    console.print()
    for line in report.notes(results):
        console.print(Text(line))
    console.print(Text(f"results and figures: {output}"), soft_wrap=True)
