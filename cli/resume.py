"""What the folder of an earlier run knows, and whether it can be gone on."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import checkpoint, files
from .config import RunConfig
from .errors import OptionError, RunError
from .output import CONFIG
from .types import Options, Path, Record

if TYPE_CHECKING:
    from .results import Results, Run

# Where a run was written changes nothing in it.
FREE_OPTIONS = ("output",)


@dataclasses.dataclass
class Standing:
    """Where an earlier run stood.

    Args:
        runs: Its `Run`s so far; the last may be under way.
        position: What comes next in that one.
        weights: What its model knew, a file for `model.load_weights`, or
            `None`.
        variables: What its method knew, a file for `numpy.load`, or `None`.
        newest: The newest checkpoint, as `Checkpoints` takes it.
        versions: What it was run with, or `None` if nobody knows.
        notices: What the user should know, a list of one-line texts.
        results: The `Results` of a run that is over, or `None`.
    """

    runs: list[Run] = dataclasses.field(default_factory=list)
    position: checkpoint.Position = dataclasses.field(
        default_factory=checkpoint.Position
    )
    weights: pathlib.Path | None = None
    variables: pathlib.Path | None = None
    newest: checkpoint.Newest = checkpoint.NONE
    versions: Record | None = None
    notices: list[str] = dataclasses.field(default_factory=list)
    results: Results | None = None

    def check_versions(self, versions: Record) -> None:
        """Adds a notice if the run was begun with other versions."""
        for name, version in (self.versions or versions).items():
            if versions.get(name) != version:
                self.notices.append(
                    f"the run was begun with {name} {version}, and goes on "
                    f"with {versions.get(name)}: its results may differ from "
                    "those of an undisturbed one"
                )


def read_config(folder: Path) -> RunConfig:
    """Returns the `RunConfig` of the run in a folder.

    Raises:
        RunError: If there is none.
    """
    path = pathlib.Path(folder) / CONFIG
    if not path.parent.is_dir():
        raise RunError(
            f"there is no folder {folder}; name one that `keras-si run` has "
            "written"
        )
    try:
        return RunConfig.from_dict(
            # The first ones of keras-si have no checksum.
            {
                **files.read_json(path, needs_checksum=False),
                "output": str(folder),
            }
        )
    except OSError as error:
        problem = f"{path} could not be read ({error.strerror})"
    except OptionError as error:
        problem = f"{path}: {error}"
    except files.DamagedFile as error:
        problem = str(error)
    found, _, _ = checkpoint.read(folder)
    try:
        if found is not None:
            return RunConfig.from_dict({**found.config, "output": str(folder)})
    except OptionError as error:
        problem = f"{folder}: {error}"
    raise RunError(
        f"{problem}; give the options of the run again, with --resume"
    )


def standing(folder: Path, config: RunConfig) -> Standing:
    """Returns the `Standing` of the run in a folder, new or not.

    Reads only. What is damaged is named in the notices and not used.
    `check_config` has been called.

    Args:
        folder: The run folder. This process holds its lock.
        config: The `RunConfig` of the run that is to go on.

    Raises:
        OptionError: If the run there has other options.
        RunError: If it cannot be gone on.
    """
    from . import reading, results  # Here: they import Keras.

    folder = pathlib.Path(folder)
    found, newest, problems = checkpoint.read(folder)
    problems += check_config(folder, config)
    finished, versions = [], None
    try:
        written = reading.read(folder)
    except files.DamagedFile as error:
        problems.append(str(error))
    except RunError as error:
        if isinstance(error.__cause__, OSError):
            if (folder / results.RESULTS).exists():
                problems.append(str(error))
        else:
            raise
    else:
        _check_same(config, written.config, folder / results.RESULTS)
        finished = [run for run in written.runs if run.is_over]
        versions = written.versions
        if found is None and _all_over(finished, config):
            return Standing(finished, versions=versions, results=written)
    if found is not None:
        _check_same(config, found.config, folder)
        runs = [reading.read_run(run) for run in found.runs]
        under_way = bool(runs) and not runs[-1].is_over
        return Standing(
            runs,
            found.position if under_way else checkpoint.Position(),
            found.weights if under_way else None,
            found.variables if under_way else None,
            newest,
            found.versions,
            [f"{problem}; it is not used" for problem in problems],
        )
    if not problems and versions is None:
        return Standing(notices=[f"there is no run in {folder} yet"])
    if problems and not finished:
        raise RunError(
            f"{'; '.join(problems)}. Nothing is left to go on from: name "
            "another folder, or start anew with --overwrite"
        )
    return Standing(
        finished,
        versions=versions,
        notices=[
            f"{problem}; what was not finished starts anew"
            for problem in problems
        ],
    )


def _all_over(finished: Sequence[Run], config: RunConfig) -> bool:
    return len(finished) == len(config.methods) * config.seeds


def check_config(folder: Path, config: RunConfig) -> list[str]:
    """Refuses to go on with a run that has another configuration.

    Returns:
        Problems of the file that keep it from being checked, a list.
    """
    path = pathlib.Path(folder) / CONFIG
    try:
        found = files.read_json(path, needs_checksum=False)
        RunConfig.from_dict({**found, "output": config.output})
    except FileNotFoundError:
        return []
    except files.DamagedFile as error:
        return [str(error)]
    except OSError as error:
        return [f"{path} could not be read ({error.strerror})"]
    except OptionError as error:
        return [f"{path}: {error}"]
    _check_same(config, found, path)
    return []


def _check_same(config: RunConfig, other: Options, where: Path) -> None:
    ours = files.as_json(config.to_dict())
    for name in ours:
        if name in FREE_OPTIONS:
            continue
        # Options that an older keras-si did not have.
        default = getattr(RunConfig, name, None)
        if ours[name] != other.get(name, default):
            option = "--" + name.rstrip("s" if name == "methods" else "")
            raise OptionError(
                option.replace("_", "-"),
                f"received {ours[name]}, but the run in {where} has "
                f"{other.get(name, default)}: go on with that, or name "
                "another folder",
            )
