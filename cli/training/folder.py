"""A run's folder: may it be used, who uses it, and where the run stands."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import filelock

from .. import files
from ..errors import OptionError, RunError
from ..experiments.config import RunConfig
from ..files import Path
from ..results import RESULTS
from . import checkpoint
from .checkpoint import CHECKPOINT, Position

if TYPE_CHECKING:
    from ..results.results import Results

CONFIG = "config.json"
LOCK = ".lock"


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


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks a folder for this process.

    The operating system releases the lock when the process ends, however it
    ends. The file stays, so that all who want the lock see the same one.

    Raises:
        RunError: If another process uses the folder.
    """
    try:
        with filelock.FileLock(pathlib.Path(folder) / LOCK, timeout=0):
            yield
    except filelock.Timeout:
        raise RunError(
            f"{folder} is in use by another process; wait until it ends, or "
            "name another folder"
        ) from None


@contextlib.contextmanager
def held(
    folder: Path, overwrite: bool = False, resume: bool = False
) -> Iterator[None]:
    """Makes a folder and locks it; removes it again if it stays empty.

    Args:
        folder: The folder.
        overwrite: Whether an earlier run in it may be replaced.
        resume: Whether an earlier run in it continues.

    Raises:
        OptionError: If it cannot be used.
        RunError: If another process uses it.
    """
    path = pathlib.Path(folder)
    made = [p for p in (path, *path.parents) if not p.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_if_empty, path, made)
        try:
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(path))
        except OSError as error:
            raise OptionError(
                "--output",
                f"{folder} cannot be written ({error.strerror}); name a "
                "folder that can",
            ) from error
        used = any(entry.name != LOCK for entry in path.iterdir())
        if used and not overwrite and not resume:
            raise OptionError(
                "--output",
                f"{folder} is not empty; name another folder, continue the "
                f"run in it by `keras-si resume {folder}` if it has one, or "
                "replace it with --overwrite",
            )
        yield


def _remove_if_empty(path: pathlib.Path, made: list[pathlib.Path]) -> None:
    with contextlib.suppress(OSError):
        if path in made and [e.name for e in path.iterdir()] == [LOCK]:
            (path / LOCK).unlink()
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def begin(folder: Path, config: RunConfig, command: str | None) -> None:
    """Makes a folder a new run's: clears it of an earlier one.

    The configuration comes first: if the disk is full, nothing is lost.
    """
    told = {} if command is None else {"command": command}
    path = pathlib.Path(folder)
    files.write_json(path / CONFIG, {**told, **config.to_dict()})
    for name in (CHECKPOINT, RESULTS):
        files.remove(path / name)


def finish(folder: Path) -> None:
    """Removes what a finished run has no use for."""
    path = pathlib.Path(folder)
    for name in (path / CHECKPOINT, *path.glob(f"{files.DRAFT}*")):
        files.remove(name)


def read_config(folder: Path) -> tuple[RunConfig, str | None]:
    """Returns the configuration of the run in a folder, and its command.

    Raises:
        OptionError: If there is no run.
        RunError: If its configuration cannot be read.
    """
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
    except (OptionError, RunError, *checkpoint.ERRORS) as error:
        raise RunError(
            f"{path} is not the configuration of a run: {error}; start the "
            "run again, with --overwrite"
        ) from error


@dataclasses.dataclass
class Standing:
    """Where the run in a folder stands.

    Args:
        results: What it has brought so far, or `None`: nothing. The last
            trial may be under way.
        position: What comes next in that one.
        variables: What its model and method knew, for `checkpoint.restore`.
        notes: What was found damaged, and what is done about it.
        is_over: Whether there is nothing left to do.
    """

    results: Results | None = None
    position: Position = Position()
    variables: Sequence[Any] = ()
    notes: list[str] = dataclasses.field(default_factory=list)
    is_over: bool = False


def standing(folder: Path, config: RunConfig) -> Standing:
    """Finds out where the run in a folder stands. Writes nothing.

    The checkpoint knows it. Without a good one, the trials that are finished
    are in the results, and the others start from their beginning.

    Raises:
        RunError: If nothing is left that could be trusted, or it is of a run
            with other options.
    """
    from ..results.results import Results

    path = pathlib.Path(folder)
    notes: list[str] = []
    written = found = saved = None
    try:
        written = Results.load(path) if (path / RESULTS).exists() else None
    except files.DamagedFile as error:
        notes.append(f"{error}; it is not used")
    has_damaged_results = bool(notes)
    try:
        found = checkpoint.load(path)
        saved = Results.from_dict(found.results) if found else None
    except files.DamagedFile as error:
        notes.append(f"{error}; it is not used")
    except ValueError as error:
        notes.append(f"{path / CHECKPOINT} is damaged: {error}; it is not used")
    for results in (written, saved):
        if results is not None:
            _check_same(config, results)
    if found is not None and saved is not None:
        if saved.trials and saved.trials[-1].is_over:
            return Standing(saved, notes=notes)
        return Standing(saved, found.position, found.variables, notes)
    if has_damaged_results:
        raise RunError(
            f"{'; '.join(notes)}. Nothing is left to continue from: name "
            "another folder, or start again with --overwrite"
        )
    if written is None:
        return Standing(notes=notes)
    finished = [trial for trial in written.trials if trial.is_over]
    if len(finished) < len(written.trials):
        notes.append(
            f"there is no good {CHECKPOINT} in {path}: what was not finished "
            "starts from its beginning"
        )
    written.trials = finished
    is_over = len(finished) == len(config.methods) * config.seeds
    return Standing(written, notes=notes, is_over=is_over)


def _check_same(config: RunConfig, other: Results) -> None:
    """Refuses to continue a run that has another configuration."""
    for name, value in files.as_json(config.to_dict()).items():
        if value != other.config.get(name):
            raise RunError(
                f"the folder has files of a run with {name} "
                f"{other.config.get(name)}, but {CONFIG} has {value}: start "
                "again with --overwrite"
            )
