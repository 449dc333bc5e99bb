"""Where results may be written: checked before anything heavy starts."""

import contextlib
import datetime
import os
import pathlib

from .errors import OptionError


def default_folder(benchmark):
    """Returns a new name in `runs`, from the date and the time."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return os.path.join("runs", f"{benchmark}-{now}")


def prepare_folder(output, overwrite):
    """Makes the folder and tries it.

    Returns:
        The folders that were made for it, the innermost first, as
        `remove_empty` takes them.
    """
    path = pathlib.Path(output)
    made = []
    try:
        if path.exists() and not path.is_dir():
            raise OptionError("--output", f"{output} is a file; name a folder")
        made = [p for p in (path, *path.parents) if not p.exists()]
        path.mkdir(parents=True, exist_ok=True)
        if not overwrite and any(path.iterdir()):
            raise OptionError(
                "--output",
                f"{output} is not empty; name another folder, or replace "
                "the earlier run in it with --overwrite",
            )
        probe = path / f".keras-si.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        remove_empty(made)
        raise OptionError(
            "--output",
            f"{output} cannot be written ({error.strerror}); name a folder "
            "that can",
        ) from error
    return made


def remove_empty(folders):
    """Removes those of the folders that are empty, in the order given."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


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
