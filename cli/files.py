"""Files that are written whole or not at all; JSON."""

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
    """A file is not as it was written, or keras-si never wrote it."""

    def __init__(self, path: Path, problem: object) -> None:
        super().__init__(f"{path} is damaged: {problem}")
        self.problem = problem


def write_atomically(
    path: Path, content: bytes | Callable[[IO[bytes]], object]
) -> None:
    """Replaces a file in one step: a reader sees the old or the new one.

    Args:
        path: The file.
        content: Bytes, or a callable that writes to an open binary file.

    Raises:
        RunError: If the file could not be written. The old one is as it was.
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
        # The disk must have the new name, too: a power cut may follow.
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException as error:
        try:
            draft.unlink(missing_ok=True)
        except OSError:
            pass  # The first error says more.
        if not isinstance(error, OSError):
            raise
        raise RunError(
            f"{path} could not be written ({error.strerror or error}); check "
            "that the disk has space, and that the folder exists and can be "
            "written"
        ) from error


def write_json(path: Path, content: Record) -> None:
    """Writes a JSON object. NaN becomes null."""
    text = json.dumps(as_json(content), indent=1, allow_nan=False)
    # A row of a matrix on one line, for those who read the file.
    text = re.sub(r"\[[^][{}]*\]", _on_one_line, text)
    write_atomically(path, (text + "\n").encode())


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


def read_json(path: Path) -> Record:
    """Reads a JSON object.

    Raises:
        OSError: If the file cannot be read.
        DamagedFile: If it is no JSON object.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, error) from error
    if not isinstance(content, dict):
        raise DamagedFile(path, "it has no JSON object")
    return content
