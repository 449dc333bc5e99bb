"""Where results may be written: checked before anything heavy starts."""

import contextlib
import datetime
import os
import pathlib
from collections.abc import Iterator, Sequence

from ..errors import OptionError
from ..files import DRAFT, Path
from ..results import RESULTS
from . import checkpoint
from .lock import LOCK, lock

CONFIG = "config.json"
FIGURES = (".png", ".svg")
PAGES = (".html", ".htm")
DATE = "%Y%m%d-%H%M%S"


def default_folder(benchmark: str) -> str:
    """Returns a new name in `runs`, from the date and the time."""
    now = datetime.datetime.now().strftime(DATE)
    return os.path.join("runs", f"{benchmark}-{now}")


@contextlib.contextmanager
def held(
    output: Path, overwrite: bool = False, resume: bool = False
) -> Iterator[None]:
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
    made: list[pathlib.Path] = []
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
            if not (overwrite or (resume and _holds_run(path))):
                _refuse_contents(path)
            yield
    except BaseException:
        # A run that ended before its first result leaves no empty folder.
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _holds_run(path: pathlib.Path) -> bool:
    """Whether a run has begun there, however little is left of it."""
    begun = [path / CONFIG, path / RESULTS, *path.glob(f"{DRAFT}*")]
    return checkpoint.exists(path) or any(file.exists() for file in begun)


def _refuse_contents(path: pathlib.Path) -> None:
    if all(entry.name == LOCK for entry in path.iterdir()):
        return
    raise OptionError(
        "--output",
        f"{path} is not empty; name another folder, go on with the run in it "
        f"by `keras-si resume {path}` if it holds one, or replace it with "
        "--overwrite",
    )


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
    if not str(path).strip():
        raise OptionError(option, "received an empty name")
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
