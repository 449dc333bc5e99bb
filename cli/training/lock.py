"""One run a folder: the second is refused."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from ..errors import RunError
from ..files import Path

LOCK = ".lock"


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
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            # Not that of a run that made the folder anew.
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


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
