"""A run's folder: may it be used, who uses it, and which run is in it."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import shlex
from collections.abc import Iterator, Sequence

import filelock

from .. import files
from ..errors import OptionError, RunError
from ..experiments.config import RunConfig
from ..files import Path
from ..results import RESULTS

CONFIG, CHECKPOINT, LOCK = "config.json", "checkpoint.npz", ".lock"
AGAIN = "start the run again, with --overwrite"


def default_folder(name: str) -> str:
    """Returns a new name in `runs`, from the date and the time."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return os.path.join("runs", f"{name}-{now}")


def check_file(
    option: str, path: Path, endings: Sequence[str], overwrite: bool
) -> None:
    """Refuses a file that could not be written, or would be lost."""
    path = pathlib.Path(path)
    if path.suffix not in endings:
        problem = f"received {path}, expected a name in {' or '.join(endings)}"
    elif not path.parent.is_dir():
        problem = f"there is no folder {path.parent}; make it first"
    elif path.exists() and not overwrite:
        problem = f"{path} exists; replace it with --overwrite"
    else:
        return
    raise OptionError(option, problem)


def check_results(paths: Sequence[Path]) -> None:
    """Refuses folders without results, before anything heavy is imported."""
    for path in map(pathlib.Path, paths):
        if path.is_dir() and not (path / RESULTS).exists():
            raise OptionError(
                "DIR",
                f"{path} has no {RESULTS}; name a folder that `keras-si run` "
                "has written",
            )


@contextlib.contextmanager
def locked_folder(
    folder: Path, overwrite: bool = False, resume: bool = False
) -> Iterator[None]:
    """Makes a folder and locks it; removes it again if it stays empty.

    The operating system releases the lock when the process ends, however it
    ends. The file stays, so all who want the lock see the same one. An earlier
    run in the folder is refused, except to `overwrite` or to `resume` it.
    """
    path = pathlib.Path(folder)
    is_new = not path.exists()
    lock = filelock.FileLock(path / LOCK, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise RunError(
            f"{folder} is in use by another process; wait until it ends, or "
            "name another folder"
        ) from None
    except OSError as error:
        raise OptionError(
            "--output",
            f"{folder} cannot be written ({error.strerror}); name a folder "
            "that can",
        ) from error
    try:
        used = any(entry.name != LOCK for entry in path.iterdir())
        if used and not overwrite and not resume:
            raise OptionError(
                "--output",
                f"{folder} is not empty; name another folder, continue the "
                f"run in it by `keras-si resume {shlex.quote(str(folder))}` if "
                "it has one, or replace it with --overwrite",
            )
        yield
    finally:
        if is_new and [entry.name for entry in path.iterdir()] == [LOCK]:
            (path / LOCK).unlink()
            path.rmdir()
        lock.release()


def begin(folder: Path, config: RunConfig, command: str | None) -> None:
    """Makes a folder a new run's: clears it of an earlier one.

    The configuration comes first: if the disk is full, nothing is lost.
    """
    path = pathlib.Path(folder)
    files.write_json(path / CONFIG, {"command": command, **config.to_dict()})
    for name in (CHECKPOINT, RESULTS):
        (path / name).unlink(missing_ok=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has not come to its end."""
    return (pathlib.Path(folder) / CHECKPOINT).exists()


def finish(folder: Path) -> None:
    """Removes what a finished run has no use for."""
    path = pathlib.Path(folder)
    for each in (path / CHECKPOINT, *path.glob(f"{files.DRAFT}*")):
        each.unlink(missing_ok=True)


def read_config(folder: Path) -> tuple[RunConfig, str | None]:
    """Returns the configuration of the run in a folder, and its command."""
    path = pathlib.Path(folder) / CONFIG
    if not path.exists():
        raise OptionError(
            "DIR",
            f"{folder} has no run; name a folder that `keras-si run` has "
            "written",
        )
    try:
        options = files.read_json(path)
        command = options.pop("command", None)
        return RunConfig.from_dict(options), command
    except files.DamagedFile as error:
        raise files.DamagedFile(path, f"{error.problem}; {AGAIN}") from error
    except (OptionError, OSError, LookupError, TypeError) as error:
        raise files.DamagedFile(path, f"{error}; {AGAIN}") from error
