"""Files that are all there or not at all."""

import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeAlias

from .errors import RunError

Path: TypeAlias = str | os.PathLike[str]
# Options by the names of `RunConfig`.
Options: TypeAlias = Mapping[str, Any]
# A JSON object, and what becomes one.
Record: TypeAlias = dict[str, Any]

# How the names of files begin that are being written.
DRAFT = ".draft-"


class DamagedFile(RunError):
    """A file is not what was written, or was never ours."""

    def __init__(self, path: Path, problem: object) -> None:
        super().__init__(f"{path} is damaged: {problem}")
        self.path, self.problem = path, problem


def write_atomically(
    path: Path, content: bytes | Callable[[IO[bytes]], object]
) -> None:
    """Replaces a file in one step: a reader sees the old or the new one.

    Args:
        path: The file.
        content: Bytes, or a callable that writes to the binary file it is
            given.

    Raises:
        RunError: If it could not be written. The old file is as it was.
    """
    path = pathlib.Path(path)
    draft = path.with_name(f"{DRAFT}{os.getpid()}.{path.name}")
    try:
        with open(draft, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove_quietly(draft)
        raise RunError(
            f"{path} could not be written ({_reason(error, path)}); make "
            "room, or see that its folder is there and can be written"
        ) from error
    except BaseException:
        _remove_quietly(draft)
        raise


def _sync_folder(path: Path) -> None:
    """Waits until the disk knows a new name, too: a power cut may follow."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_quietly(path: pathlib.Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # The error that is being told matters more.


def _reason(error: OSError, path: pathlib.Path) -> str:
    if not path.parent.is_dir():
        return "its folder is gone"
    return error.strerror or str(error)


def remove(path: Path) -> None:
    """Removes a file of a run, if it is there.

    Raises:
        RunError: If it cannot be.
    """
    path = pathlib.Path(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{path} could not be removed ({error.strerror}); see that its "
            "folder can be written"
        ) from error


def remove_drafts(folder: Path) -> None:
    """Removes what runs that were killed while writing have left."""
    for draft in pathlib.Path(folder).glob(f"{DRAFT}*"):
        remove(draft)


def write_json(path: Path, content: Record) -> None:
    """Writes a JSON object. NaN becomes null."""
    text = json.dumps(as_json(content), indent=1, allow_nan=False)
    # A row of a matrix on one line, for those who read the file.
    text = re.sub(r"\[[^][{}]*\]", _on_one_line, text)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> Record:
    """Reads a JSON object.

    Raises:
        OSError: If the file cannot be read.
        DamagedFile: If it is no JSON object.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise DamagedFile(path, "it is nested too deeply") from error
    except ValueError as error:
        raise DamagedFile(path, error) from error
    if not isinstance(content, dict):
        raise DamagedFile(path, "it holds no JSON object")
    return content


def check_schema(
    path: Path,
    found: Any,
    expected: int,
    problem: str,
) -> None:
    """Refuses a file of a newer keras-si, and one that is none of ours.

    Args:
        path: The file.
        found: Its schema, whatever it is.
        expected: The one that is written.
        problem: What is wrong if `found` is none.

    Raises:
        RunError: If it is newer.
        DamagedFile: If it is none that is read.
    """
    if type(found) is int and found > expected:
        raise RunError(
            f"{path} has schema {found}, this keras-si reads {expected}; "
            "update keras-si"
        )
    if type(found) is not int or found < expected:
        raise DamagedFile(path, problem)


def file_record(path: Path) -> Record:
    """Returns size and checksum of a file, for `check_file`.

    Raises:
        OSError: If it cannot be read.
    """
    size = os.path.getsize(path)
    return {"size": size, "checksum": file_checksum(path)}


def check_file(path: Path, expected: Record) -> None:
    """Raises `DamagedFile` unless the file is that of the `file_record`."""
    try:
        size = os.path.getsize(path)
        if size != expected["size"]:
            raise DamagedFile(
                path, f"it has {size} bytes, expected {expected['size']}"
            )
        if file_checksum(path) != expected["checksum"]:
            raise DamagedFile(path, "its checksum does not fit")
    except OSError as error:
        raise DamagedFile(path, error.strerror) from error


def file_checksum(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _on_one_line(match: re.Match[str]) -> str:
    return re.sub(r"\n *", " ", match[0]).replace("[ ", "[").replace(" ]", "]")


def as_json(value: Any) -> Any:
    """Returns what comes back when `value` is written as JSON and read."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
