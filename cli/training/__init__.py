"""One run, from an empty folder to a finished one."""

from __future__ import annotations

import contextlib
import shlex
import sys

from ..errors import Interrupted, OptionError, RunError
from ..experiments.config import RunConfig
from . import folder as folders
from . import start


def train(
    config: RunConfig,
    folder: str,
    overwrite: bool = False,
    resume: bool = False,
    command: str | None = None,
) -> None:
    """Trains a run in its folder, or continues it, and shows the results.

    `command` is what it was started with. Raises `RunError` if a method has
    diverged, and `Interrupted` after Ctrl-C.
    """
    from . import progress as progress_module

    start.check_backend()
    with folders.locked_folder(folder, overwrite, resume):
        try:
            with progress_module.Progress() as progress:
                start.import_quietly(deterministic=config.deterministic)
                from . import checkpoint, runner

                begun, notes = (
                    checkpoint.find(folder, config)
                    if resume
                    else (checkpoint.Checkpoint(), [])
                )
                results = begun.results
                if results is not None and results.is_over:
                    notes += [f"the run in {folder} is over"]
                    runner.complete(results, folder)
                for note in notes:
                    print(f"note: {note}", file=sys.stderr, flush=True)
                if results is None or not results.is_over:
                    results = runner.run(
                        config,
                        folder,
                        progress=progress,
                        begun=begun,
                        command=command,
                    )
        except KeyboardInterrupt:
            how = ""
            # What stands there may be the run that was to be replaced.
            with contextlib.suppress(OptionError, RunError):
                if folders.read_config(folder)[0] == config:
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
