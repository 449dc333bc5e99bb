"""One run, from an empty folder to a finished one."""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import TYPE_CHECKING

from ..errors import Interrupted, OptionError, RunError
from ..experiments.config import RunConfig

if TYPE_CHECKING:
    from .folder import Standing


def train(
    config: RunConfig,
    folder: str,
    overwrite: bool = False,
    resume: bool = False,
    command: str | None = None,
) -> None:
    """Trains a run in its folder, or continues it, and shows the results.

    Args:
        config: The `RunConfig`.
        folder: The run folder.
        overwrite: Whether an earlier run in the folder may be replaced.
        resume: Whether the run in the folder continues.
        command: What it was started with.

    Raises:
        RunError: If a method has diverged; the others are kept.
        Interrupted: If the user has pressed Ctrl-C.
    """
    from . import folder as folder_module
    from . import progress as progress_module
    from . import start

    start.check_backend()
    with folder_module.held(folder, overwrite, resume):
        try:
            with progress_module.Progress() as progress:
                start.import_quietly(deterministic=config.deterministic)
                from . import runner

                standing = folder_module.Standing()
                if resume:
                    standing = folder_module.standing(folder, config)
                    _say_what_changed(folder, standing)
                results = standing.results
                if results is None or not standing.is_over:
                    results = runner.run(
                        config,
                        folder,
                        progress=progress,
                        standing=standing,
                        command=command,
                    )
        except KeyboardInterrupt:
            how = ""
            # What stands there may be the run that was to be replaced.
            with contextlib.suppress(OptionError, RunError):
                if folder_module.read_config(folder)[0] == config:
                    how = (
                        f"; to continue: keras-si resume {shlex.quote(folder)}"
                    )
            raise Interrupted(f"interrupted{how}") from None
    progress_module.show(results, folder)
    failed = [trial for trial in results.trials if trial.failed is not None]
    if failed:
        raise RunError(
            "; ".join(f"{t.method} seed {t.seed}: {t.failed}" for t in failed)
        )


def _say_what_changed(folder: str, standing: Standing) -> None:
    from . import start

    notes = standing.notes
    if standing.is_over:
        notes = [f"the run in {folder} is over: nothing is left to train"]
    elif standing.results is not None:
        begun = standing.results
        now = {**start.versions(), "device": start.device()}
        notes += [
            f"the run was begun with {name} {value}, and continues with "
            f"{now.get(name, 'none')}: its results may differ from those of "
            "an undisturbed one"
            for name, value in {
                **begun.versions,
                "device": begun.device,
            }.items()
            # Other data are refused.
            if name != "data" and value != now.get(name)
        ]
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)
