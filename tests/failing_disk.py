"""A disk whose operations can be made to fail, one at a time."""

import io
import os
import pathlib

import pytest
from keras_si_cli import files

OPERATIONS = ("open", "write", "fsync", "replace", "unlink")


def install(monkeypatch, before):
    """Has `before(operation, path)` called before all that changes a folder.

    The operations, in the order of a write: open, write, fsync (of the file),
    replace, fsync (of the folder); and unlink. What `before` raises happens
    in their place.
    """

    class Raw(io.FileIO):
        def write(self, data):
            before("write", pathlib.Path(self.name))
            return super().write(data)

    def open_(path, mode):
        if mode != "wb":
            return open(path, mode)
        before("open", pathlib.Path(path))
        return io.BufferedWriter(Raw(path, mode))

    fsync, replace, unlink = os.fsync, os.replace, pathlib.Path.unlink

    def fsync_(descriptor):
        before(
            "fsync", pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        )
        fsync(descriptor)

    def replace_(source, target):
        before("replace", pathlib.Path(target))
        replace(source, target)

    def unlink_(path, missing_ok=False):
        before("unlink", path)
        unlink(path, missing_ok)

    monkeypatch.setattr(files, "open", open_, raising=False)
    monkeypatch.setattr(os, "fsync", fsync_)
    monkeypatch.setattr(os, "replace", replace_)
    monkeypatch.setattr(pathlib.Path, "unlink", unlink_)


class Killed(BaseException):
    """Stands for SIGKILL where no code may run after it."""


def is_killed(number, changes, function, *args, **kwargs):
    """Calls a function, which is killed before a change of the folder.

    Args:
        number: How many changes come to pass.
        changes: The operations that count as one.

    Returns:
        Whether it had more changes to make than that.
    """
    left = iter(range(number))

    def kill(operation, path):
        exists = operation != "unlink" or path.exists()
        if operation in changes and exists and next(left, None) is None:
            raise Killed  # Also where the draft would be tidied away.

    with pytest.MonkeyPatch.context() as patch:
        install(patch, kill)
        try:
            function(*args, **kwargs)
        except Killed:
            return True
    return False
