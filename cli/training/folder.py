"""A run's folder: may it be used, who uses it, and how a run in it goes on."""

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
from ..files import Path, Record
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
    """Refuses a file that could not be written, or would be lost.

    Args:
        option: The one that names it.
        path: The file.
        endings: Those that its name may have.
        overwrite: Whether it may be replaced.
    """
    path = pathlib.Path(path)
    if path.suffix not in endings:
        raise OptionError(
            option,
            f"received {path}, expected a name in {' or '.join(endings)}",
        )
    if not path.parent.is_dir():
        raise OptionError(
            option, f"there is no folder {path.parent}; make it first"
        )
    if path.exists() and not overwrite:
        raise OptionError(option, f"{path} exists; replace it with --overwrite")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks a folder for this process.

    The operating system releases the lock when the process ends, however it
    ends. The file stays, so that all who wait for it see the same one.

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
        resume: Whether an earlier run in it is to go on.

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
    """A run that ended before its first file leaves no folder."""
    with contextlib.suppress(OSError):
        if path in made and [e.name for e in path.iterdir()] == [LOCK]:
            (path / LOCK).unlink()
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def begin(folder: Path, config: RunConfig, command: str | None) -> None:
    """Makes a folder that of a new run: clears it of an earlier one.

    The configuration comes first: if the disk is full, nothing is lost.
    """
    path = pathlib.Path(folder)
    told = {} if command is None else {"command": command}
    files.write_json(path / CONFIG, {**told, **config.to_dict()})
    files.remove_drafts(path)
    for name in (CHECKPOINT, RESULTS):
        files.remove(path / name)


def read_config(folder: Path) -> tuple[RunConfig, str | None]:
    """Returns the configuration of the run in a folder, and its command.

    Raises:
        OptionError: If there is no run.
        RunError: If its configuration cannot be read.
    """
    path = pathlib.Path(folder) / CONFIG
    try:
        options = files.read_json(path)
        command = options.pop("command", None)
        return RunConfig.from_dict(options), command
    except FileNotFoundError:
        raise OptionError(
            "DIR",
            f"{folder} has no run; name a folder that `keras-si run` has "
            "written",
        ) from None
    except OSError as error:
        problem = f"{path} could not be read ({error.strerror})"
    except files.DamagedFile as error:
        problem = str(error)
    except (OptionError, TypeError, ValueError, AttributeError) as error:
        problem = f"{path} is not the configuration of a run: {error}"
    raise RunError(f"{problem}; start the run again, with --overwrite")


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
    path = pathlib.Path(folder)
    notes: list[str] = []
    written = _read_results(path, notes)
    damaged_results = bool(notes)
    if written is not None:
        _check_same(config, written.config, path / RESULTS)
    found = _read_checkpoint(path, notes)
    if found is not None:
        results, position, variables = found
        _check_same(config, results.config, path / CHECKPOINT)
        if results.trials and results.trials[-1].is_over:
            position, variables = Position(), ()
        return Standing(results, position, variables, notes)
    if damaged_results:
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
    is_over = len(finished) == len(config.methods) * config.seeds
    written.trials = finished
    return Standing(written, notes=notes, is_over=is_over and not notes)


def _read_results(path: pathlib.Path, notes: list[str]) -> Results | None:
    from ..results.results import Results

    if not (path / RESULTS).exists():
        return None
    try:
        return Results.load(path)
    except files.DamagedFile as error:
        notes.append(f"{error.message}; it is not used")
        return None


def _read_checkpoint(
    path: pathlib.Path, notes: list[str]
) -> tuple[Results, Position, Sequence[Any]] | None:
    from ..results.results import Results

    try:
        found = checkpoint.load(path)
        if found is None:
            return None
        results = Results.from_dict(found.results)
    except files.DamagedFile as error:
        notes.append(f"{error.message}; it is not used")
    except ValueError as error:
        notes.append(f"{path / CHECKPOINT} is damaged: {error}; it is not used")
    else:
        return results, found.position, found.variables
    return None


def _check_same(config: RunConfig, other: Record, where: Path) -> None:
    """Refuses to continue a run that has another configuration."""
    ours = files.as_json(config.to_dict())
    for name, value in ours.items():
        if value != other.get(name):
            raise RunError(
                f"{where} is of a run with {name} {other.get(name)}, but "
                f"{CONFIG} has {value}: it is not continued; start again with "
                "--overwrite"
            )


def environment_changed(results: Results, now: Record) -> list[str]:
    """Says in what the run was begun with something else.

    Args:
        results: Those that it has brought so far.
        now: What it is continued with, `versions` and `device`.
    """
    then = {**results.versions, "device": results.device}
    then.pop("data", None)  # Other data are refused.
    current = {**now["versions"], "device": now["device"]}
    return [
        f"the run was begun with {name} {value}, and continues "
        f"{f'with {current[name]}' if name in current else 'without'}: its "
        "results may differ from those of an undisturbed one"
        for name, value in then.items()
        if value != current.get(name)
    ]
