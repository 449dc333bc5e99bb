"""A run in its folder: trained or gone on with, alone or beside others."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from ..errors import Interrupted, RunError
from ..experiments.config import RunConfig
from . import output as output_module
from . import resume as resume_module
from . import start

if TYPE_CHECKING:
    from ..results.results import Results


def train_and_show(
    config: RunConfig,
    folder: str,
    overwrite: bool = False,
    resume: bool = False,
    command: str | None = None,
) -> None:
    """Trains a run in its folder, or goes on with it, and shows the results.

    Args:
        config: Its `RunConfig`.
        folder: The run folder.
        overwrite: Whether an earlier run in the folder may be replaced.
        resume: Whether it is to go on.
        command: What a new run was started with.

    Raises:
        RunError: If a method has diverged; the others are kept.
    """
    start.check_backend()
    with output_module.held(folder, overwrite, resume):
        if resume:
            resume_module.check_config(folder, config)
            command = resume_module.read_command(folder)
        results = _train(config, folder, resume, command)
    show(results, folder)
    failed = [trial for trial in results.trials if trial.failed is not None]
    if failed:
        raise RunError(
            "; ".join(f"{t.method} seed {t.seed}: {t.failed}" for t in failed)
        )


def _train(
    config: RunConfig, folder: str, resume: bool, command: str | None
) -> Results:
    from . import progress

    before = _written_config(folder)
    with progress.observer() as observer:
        try:
            start.import_quietly(deterministic=config.deterministic)
            from . import runner

            standing = None
            if resume:
                standing = resume_module.standing(folder, config)
                if standing.results is None:
                    standing.check_environment(runner.environment())
                for notice in standing.notices:
                    observer.notice(notice)
                if standing.results is not None:
                    observer.notice(
                        f"the run in {folder} is over: there is nothing left "
                        "to train"
                    )
                    return standing.results
            return runner.run(
                config,
                folder,
                observer=observer,
                standing=standing,
                command=command,
            )
        except KeyboardInterrupt:
            how = ""
            # What stands there may be the run that was to be replaced.
            now = _written_config(folder)
            if now is not None and (resume or now != before):
                how = f"; to go on: keras-si resume {shlex.quote(folder)}"
            raise Interrupted(f"interrupted{how}") from None


def _written_config(folder: str) -> tuple[int, int] | None:
    """Returns which file `config.json` is, or `None` if there is none.

    Every run writes a new one, even if it holds the same.
    """
    try:
        found = os.stat(os.path.join(folder, output_module.CONFIG))
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def show(results: Results, output: str) -> None:
    """Prints the table of a run, its notes and where its files are."""
    from rich.console import Console
    from rich.text import Text

    from ..results import tables

    # What the user has named is text: not markup, and no :emoji: either.
    console = Console(highlight=False)
    console.print(Text(f"\n{tables.accuracy_title(results)}"))
    console.print(tables.accuracy_table(results))
    console.print()
    for line in tables.notes(results):
        console.print(Text(line))
    console.print(Text(f"results and figures: {output}"), soft_wrap=True)
