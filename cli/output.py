"""Where results may be written: checked before anything heavy starts."""

import contextlib
import datetime
import os
import pathlib

from .errors import OptionError
from .lock import LOCK, lock

CONFIG = "config.json"


def default_folder(benchmark):
    """Returns a new name in `runs`, from the date and the time."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return os.path.join("runs", f"{benchmark}-{now}")


@contextlib.contextmanager
def held(output, overwrite=False, resume=False):
    """Makes the folder and holds its lock; removes it if it stays empty.

    Args:
        output: The folder.
        overwrite: Whether an earlier run in it may be replaced.
        resume: Whether an earlier run in it is to go on.

    Raises:
        OptionError: If it cannot be used.
        RunError: If another process uses it.
    """
    path = pathlib.Path(output)
    made = []
    try:
        with contextlib.ExitStack() as stack:
            try:
                if path.exists() and not path.is_dir():
                    raise OptionError(
                        "--output", f"{output} is a file; name a folder"
                    )
                made = [p for p in (path, *path.parents) if not p.exists()]
                path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(path))
            except OSError as error:
                raise OptionError(
                    "--output",
                    f"{output} cannot be written ({error.strerror}); name a "
                    "folder that can",
                ) from error
            if not (overwrite or resume):
                _refuse_contents(path)
            yield
    except BaseException:
        # A run that ended before its first result leaves no empty folder.
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _refuse_contents(path):
    if all(entry.name == LOCK for entry in path.iterdir()):
        return
    raise OptionError(
        "--output",
        f"{path} is not empty; name another folder, go on with the run in it "
        "with --resume, or replace it with --overwrite",
    )


def check_figure(path, overwrite):
    """Refuses a figure that could not be written, or would be lost."""
    if not str(path).strip():
        raise OptionError("--output", "received an empty name")
    path = pathlib.Path(path)
    if path.suffix not in (".png", ".svg"):
        raise OptionError(
            "--output", f"received {path}, expected a name in .png or .svg"
        )
    if not path.parent.is_dir():
        raise OptionError(
            "--output", f"there is no folder {path.parent}; make it first"
        )
    if path.exists() and not overwrite:
        raise OptionError(
            "--output", f"{path} exists; replace it with --overwrite"
        )
