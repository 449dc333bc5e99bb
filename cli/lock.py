"""One run a folder: the second is refused, and a lost folder is noticed."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from .errors import RunError
from .types import Path

LOCK = ".lock"

# The folders that this process holds: by its absolute path each one's name, as
# it was given, and the open lock file. Of the process, as the operating
# system's locks are.
_held: dict[pathlib.Path, tuple[Path, int]] = {}


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process while it lasts.

    The operating system holds the lock and drops it when the process ends,
    however it ends: what a dead process left behind is taken over.

    Raises:
        RunError: If another process holds it.
    """
    # Not `os.path.abspath`, which takes `..` of a link to be beside the link.
    absolute = pathlib.Path(folder).absolute()
    path = absolute / LOCK
    descriptor = _take(path, folder)
    _held[absolute] = folder, descriptor
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        del _held[absolute]
        with contextlib.suppress(OSError):
            # Not that of a run that made the folder anew.
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def check(path: Path) -> None:
    """Refuses to change a file in a folder that this process has lost.

    A folder that was deleted and made again may be another run's by now.
    Folders that were never locked, and those that are gone, are passed: what
    is then tried fails by itself, or is nobody else's matter.

    Args:
        path: The file, at any depth below the folder.

    Raises:
        RunError: If the lock in the folder is not the one that is held.
    """
    parents = pathlib.Path(path).absolute().parents
    for absolute, (folder, descriptor) in _held.items():
        if absolute not in parents or not absolute.is_dir():
            continue
        if not _is_at(descriptor, absolute / LOCK):
            raise RunError(
                f"{folder} is this run's no longer: its {LOCK} was removed, "
                "or the folder was deleted and made again; nothing more is "
                "written to it. Start the run again, in another folder"
            )


def _take(path: pathlib.Path, folder: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
            # Its holder removed it between our opening and locking it.
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"{folder} is in use by another run, process "
                f"{holder or 'unknown'}; wait until it ends, or name another "
                "folder"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
