"""What the folder of an earlier run knows, and whether it can be gone on."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import files
from ..errors import OptionError, RunError, counted
from ..experiments.config import RunConfig
from ..files import Options, Path, Record
from ..results import RESULTS
from . import checkpoint
from .output import CONFIG

if TYPE_CHECKING:
    from ..results.results import Results, Trial


@dataclasses.dataclass
class Standing:
    """Where an earlier run stood.

    Args:
        runs: Its `Trial`s so far; the last may be under way.
        position: What comes next in that one.
        files: What its model and method knew, for `model_state.restore`.
        newest: The newest checkpoint, as `Checkpoints` takes it.
        made_with: What `runs` were made with, as in `Checkpoint`.
        started: As in `Results`.
        notices: What the user should know, a list of one-line texts.
        results: The `Results` of a run that is over, or `None`.
    """

    trials: list[Trial] = dataclasses.field(default_factory=list)
    position: checkpoint.Position = dataclasses.field(
        default_factory=checkpoint.Position
    )
    files: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    newest: checkpoint.Newest = checkpoint.NONE
    made_with: list[Record] = dataclasses.field(default_factory=list)
    started: str | None = None
    notices: list[str] = dataclasses.field(default_factory=list)
    results: Results | None = None

    def made_with_now(self, environment: Record) -> list[Record]:
        """Returns what the run is made with if it goes on with that."""
        if not self.trials:
            return [environment]
        known = environment in self.made_with
        return self.made_with + ([] if known else [environment])

    def check_environment(self, environment: Record) -> None:
        """Adds notices if the run was begun with something else."""
        began = self.made_with_now(environment)[0]
        now = {**environment["versions"], "device": environment["device"]}
        then = {**began["versions"], "device": began["device"]}
        then.pop("data", None)  # Not loaded yet; what differs is refused.
        for name, value in then.items():
            if value != now.get(name):
                goes_on = f"with {now[name]}" if name in now else "without"
                self.notices.append(
                    f"the run was begun with {name} {value}, and goes on "
                    f"{goes_on}: its results may differ from those of an "
                    "undisturbed one"
                )


def read_config(folder: Path) -> RunConfig:
    """Returns the `RunConfig` of the run in a folder.

    Raises:
        OptionError: If there is no run.
        RunError: If its configuration cannot be read.
    """
    path = pathlib.Path(folder) / CONFIG
    if not path.parent.is_dir():
        raise OptionError(
            "DIR",
            f"there is no folder {folder}; name one that `keras-si run` has "
            "written",
        )
    if not (path.exists() or checkpoint.exists(path.parent)):
        raise OptionError(
            "DIR",
            f"{folder} holds no run; name a folder that `keras-si run` has "
            "written",
        )
    try:
        return RunConfig.from_dict(_options(files.read_json(path)))
    except OSError as error:
        problem = f"{path} could not be read ({error.strerror})"
    except OptionError as error:
        problem = f"{path}: {error}"
    except files.DamagedFile as error:
        problem = str(error)
    found, _, _ = checkpoint.read(folder)
    try:
        if found is not None:
            return RunConfig.from_dict(found.config)
    except OptionError as error:
        problem = f"{folder}: {error}"
    raise RunError(f"{problem}; start the run again, with --overwrite")


def read_command(folder: Path) -> str | None:
    """Returns what the run in a folder was started with, if that is known."""
    try:
        content = files.read_json(pathlib.Path(folder) / CONFIG)
    except (OSError, files.DamagedFile):
        return None
    command = content.get("command")
    return command if isinstance(command, str) else None


def _options(content: Record) -> Options:
    """Returns what `config.json` holds, without the command."""
    return {name: v for name, v in content.items() if name != "command"}


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
    from ..results.results import Trial

    folder = pathlib.Path(folder)
    found, newest, problems = checkpoint.read(folder)
    problems += check_config(folder, config)
    written, more_problems = _read_results(folder)
    problems += more_problems
    finished = []
    if written is not None:
        _check_same(config, written.config, folder / RESULTS)
        finished = [run for run in written.trials if run.is_over]
        if found is None and _all_over(finished, config):
            return Standing(
                finished,
                notices=[f"{problem}; it is not used" for problem in problems],
                results=written,
            )
    made_with = [] if written is None else written.made_with
    started = None if written is None else written.started
    if found is not None:
        _check_same(config, found.config, folder)
        runs = [Trial.from_dict(run) for run in found.trials]
        made_with = made_with or found.made_with
        notices = [f"{problem}; it is not used" for problem in problems]
        if sum(run.is_over for run in runs) >= len(finished):
            under_way = bool(runs) and not runs[-1].is_over
            return Standing(
                runs,
                found.position if under_way else checkpoint.Position(),
                found.files if under_way else {},
                newest,
                made_with,
                started,
                notices + _steps_back(folder, runs, found.position, written),
            )
        # It is of a run that is finished by now.
    elif written is None and not problems:
        return Standing(notices=[f"there is no run in {folder} yet"])
    elif problems and not finished:
        raise RunError(
            f"{'; '.join(problems)}. Nothing is left to go on from: name "
            "another folder, or start anew with --overwrite"
        )
    else:
        notices = [
            f"{problem}; what was not finished starts anew"
            for problem in problems
        ]
    if not problems:
        notices = _steps_back(folder, finished, checkpoint.Position(), written)
    return Standing(
        finished,
        newest=newest,
        made_with=made_with,
        started=started,
        notices=notices,
    )


def _read_results(
    folder: pathlib.Path,
) -> tuple[Results | None, list[str]]:
    """Returns the `Results` in a folder, or `None`, and a list of problems."""
    from ..results.results import Results

    try:
        return Results.load(folder), []
    except files.DamagedFile as error:
        return None, [str(error)]
    except RunError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        there = (folder / RESULTS).exists()
        return None, [str(error)] if there else []


def _steps_back(
    folder: pathlib.Path,
    runs: Sequence[Trial],
    position: checkpoint.Position,
    written: Results | None,
) -> list[str]:
    """Says where less is left of a run than its results know of.

    As if checkpoints were deleted by hand: nothing else shows it.
    """
    notices = []
    for run in [] if written is None else written.trials:
        if run.is_over:
            continue
        name = f"{run.method} seed {run.seed}"
        ours = [r for r in runs if (r.method, r.seed) == (run.method, run.seed)]
        if not ours:
            notices.append(
                f"there is no checkpoint of {name} in {folder}: it starts anew"
            )
        # The results are written first.
        elif run.tasks_done > position.task + position.is_trained:
            notices.append(
                f"{folder} knows {counted(run.tasks_done, 'task')} of {name}, "
                f"but its checkpoint is of task {position.task + 1}: it goes "
                "on there"
            )
    return notices


def _all_over(finished: Sequence[Trial], config: RunConfig) -> bool:
    return len(finished) == len(config.methods) * config.seeds


def check_config(folder: Path, config: RunConfig) -> list[str]:
    """Refuses to go on with a run that has another configuration.

    Returns:
        Problems of the file that keep it from being checked, a list.
    """
    path = pathlib.Path(folder) / CONFIG
    try:
        found = _options(files.read_json(path))
        RunConfig.from_dict(found)
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
        if ours[name] != other.get(name):
            option = "--" + name.rstrip("s" if name == "methods" else "")
            raise OptionError(
                option.replace("_", "-"),
                f"received {ours[name]}, but the run in {where} has "
                f"{other.get(name)}: go on with that, or name "
                "another folder",
            )
