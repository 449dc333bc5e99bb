"""A search over strength and damping: an Optuna study that processes share.

Of two trials of one setting the one with the lower number counts, as long as
its process lives: processes need no other agreement.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import multiprocessing
import os
import pathlib
import re
import secrets
import socket
import warnings
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from . import files
from .errors import OptionError
from .experiments.config import RunConfig
from .methods import METHODS

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from .experiments.data import Data
    from .results.results import Trial

# Strength and damping by name, where the method uses them.
Setting: TypeAlias = dict[str, float]
# What is searched, and what does not change the result of a setting.
NOT_PROTOCOL = ("strength", "damping", "preset", "data_dir")
# Without --strength, the search goes up and down by this factor.
REACH = 100.0
# A setting that is given up is behind by more than this.
MARGIN = 0.01
# Seconds between signs of life to a database, of which two may be missing; and
# for which a trial may be without the name of its process.
HEARTBEAT = NAMELESS = 60


class NotNeeded(Exception):
    """Another process tries the setting, or the last one of the search."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What a command asks for; each of its processes gets it.

    Args:
        config: The protocol, with the value of what is not `given`.
        given: The values to try, by `"strength"` and `"damping"`.
        trials: How many settings to search besides.
        storage: A journal file or a database URL.
        folder: The folder for the results.
    """

    config: RunConfig
    given: dict[str, Sequence[float]]
    trials: int
    storage: str
    folder: pathlib.Path

    @property
    def is_file(self) -> bool:
        return "://" not in self.storage

    @property
    def protocol(self) -> dict[str, Any]:
        options = self.config.to_dict()
        kept = {n: v for n, v in options.items() if n not in NOT_PROTOCOL}
        return dict(files.as_json(kept))

    @property
    def _values(self) -> dict[str, Sequence[float]]:
        return {
            name: self.given[name] or (getattr(self.config, name),)
            for name in METHODS[self.config.methods[0]].uses
            if name in self.given
        }

    @property
    def settings(self) -> list[Setting]:
        """Every given strength with every given damping."""
        grid = itertools.product(*self._values.values())
        return [dict(zip(self._values, chosen, strict=True)) for chosen in grid]

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """The lowest and the highest value to search."""
        limits = {name: (min(v), max(v)) for name, v in self._values.items()}
        if limits and not self.given["strength"]:
            c = self.config.strength
            limits["strength"] = (c / REACH, c * REACH)
        return limits

    def study(self, data: str | None = None) -> optuna.Study:
        """Opens or makes the study; ties it to the protocol and the data."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            study = optuna.create_study(
                storage=self._storage(),
                study_name="keras-si",
                direction="maximize",
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(n_startup_trials=5),
            )
        except Exception as error:  # Each database has errors of its own.
            where = re.sub("//.*@", "//", self.storage)  # without a password
            reason = f"{where} cannot be used: {error!r}"
            raise OptionError("--storage", reason.splitlines()[0]) from error
        now = {**self.protocol, **({"data": data} if data else {})}
        found = study.user_attrs.get("protocol", now)
        different = [
            f"{name} {found.get(name)}, now {now[name]}"
            for name in now
            if found.get(name) != now[name]
        ]
        if different:
            raise OptionError(
                "--output" if self.is_file else "--storage",
                f"has another protocol ({'; '.join(different)}); name another",
            )
        if data is not None:
            study.set_user_attr("protocol", now)
        return study

    def _storage(self) -> optuna.storages.BaseStorage:
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend

        if self.is_file:
            return JournalStorage(JournalFileBackend(self.storage))
        for _ in range(3):  # Processes that make the tables at once may fail.
            with contextlib.suppress(Exception):
                return RDBStorage(self.storage, heartbeat_interval=HEARTBEAT)
        return RDBStorage(self.storage, heartbeat_interval=HEARTBEAT)


def setting_of(trial: FrozenTrial) -> Setting:
    """Returns the setting of a trial, also of one that waits."""
    return dict(trial.user_attrs.get("given") or trial.params)


def counting(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials but the ones not needed or of dead processes."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.name != "FAIL"]


def in_order(search: Search) -> list[FrozenTrial]:
    """Returns the counting trials by their settings, each setting once."""
    trials: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in counting(search.study()):
        setting = setting_of(trial)
        if setting.keys() == search.limits.keys():  # Else it has just begun.
            trials.setdefault(tuple(setting.values()), trial)
    return [trials[setting] for setting in sorted(trials)]


def best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Returns the finished trial with the highest accuracy, if there is one."""
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return max(finished, key=lambda t: t.value or 0.0, default=None)


def _searched(trials: Sequence[FrozenTrial]) -> int:
    return sum("given" not in trial.user_attrs for trial in trials)


@contextlib.contextmanager
def named_process(search: Search) -> Iterator[str]:
    """Names this process; locks a file of that name where it needs one."""
    from filelock import FileLock

    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    path = pathlib.Path(f"{search.storage}.{name}")
    if not search.is_file:  # Optuna gives a database signs of life.
        yield name
        return
    with FileLock(path):
        try:
            yield name
        finally:
            path.unlink()


def _is_dead(search: Search, trial: FrozenTrial) -> bool:
    """Whether a trial's process has ended: its lock or file is gone."""
    from filelock import FileLock, Timeout

    name = trial.user_attrs.get("process")
    if name is None:
        began = trial.datetime_start or datetime.datetime.min
        return (datetime.datetime.now() - began).total_seconds() > NAMELESS
    if not search.is_file:
        return False  # Optuna has found the dead ones.
    path = pathlib.Path(f"{search.storage}.{name}")
    if path.exists() and name.rsplit("-", 2)[0] == socket.gethostname():
        with contextlib.suppress(Timeout), FileLock(path, timeout=0):
            path.unlink()
    return not path.exists()


def is_left(search: Search, study: optuna.Study) -> bool:
    """Frees trials of dead processes, queues what is given; is one left?"""
    import optuna
    from optuna.exceptions import UpdateFinishedTrialError

    optuna.storages.fail_stale_trials(study)
    for trial in counting(study):
        if trial.state.name == "RUNNING" and _is_dead(search, trial):
            # Another process may do the same at this moment.
            with contextlib.suppress(UpdateFinishedTrialError):
                failed = optuna.trial.TrialState.FAIL
                study.tell(trial.number, state=failed, skip_if_finished=True)
    trials = counting(study)
    known = [setting_of(trial) for trial in trials]
    missing = [setting for setting in search.settings if setting not in known]
    for setting in missing:
        study.enqueue_trial(setting, user_attrs={"given": setting})
    waiting = [trial for trial in trials if trial.state.name == "WAITING"]
    return bool(missing or waiting) or _searched(trials) < search.trials


def attempt(
    search: Search, data: Data, process: str, trial: optuna.Trial
) -> float:
    """Trains one setting; returns its accuracy on held-out training data."""
    import optuna

    from .training import runner

    trial.set_user_attr("process", process)
    given = trial.user_attrs.get("given", {})
    setting: dict[str, Any] = {}
    for name, (low, high) in search.limits.items():
        # A value that another command has given may lie outside.
        value = given.get(name, low)
        low, high = min(low, value), max(high, value)
        setting[name] = trial.suggest_float(name, low, high, log=True)
    earlier = [t for t in counting(trial.study) if t.number < trial.number]
    if given:
        needed = given not in [setting_of(other) for other in earlier]
    else:
        needed = _searched(earlier) < search.trials
    if not needed:
        raise NotNeeded
    config = dataclasses.replace(search.config, **setting)
    seeds: dict[int, Trial] = {}

    def after_task(run: Trial, task: int) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise KeyboardInterrupt  # Nobody else would end this process.
        seeds[run.seed] = run
        mean = fmean(run.average_accuracy[task] for run in seeds.values())
        end = len(seeds) * config.tasks - 1
        step = end - config.tasks + 1 + task
        trial.report(mean, step)
        is_last = step + 1 == config.seeds * config.tasks
        if not is_last and is_hopeless(trial.study, mean, step, end):
            trial.set_user_attr("given_up", f"after task {task + 1}")
            raise optuna.TrialPruned

    results = runner.run(config, dataset=data, after_task=after_task)
    parts = [f"-{name}-{value!r}" for name, value in setting.items()]
    folder = search.folder / "".join([*config.methods, *parts])
    folder.mkdir(exist_ok=True)
    results.save(folder)
    for run in results.trials:
        if run.failed is not None:
            trial.set_user_attr("given_up", f"seed {run.seed}: {run.failed}")
            raise optuna.TrialPruned
    spread = results.spread(config.methods[0], "final_average_accuracy")
    trial.set_user_attr("spread", spread)
    return float(spread["mean"])


def is_hopeless(study: optuna.Study, mean: float, step: int, end: int) -> bool:
    """Whether a setting is behind the best one, at its step and its end.

    Average accuracy mostly falls, and settings overtake each other meanwhile.
    (Optuna's MedianPruner takes a trial's highest value: the first task's.)
    """
    leader = best(counting(study))
    values = {} if leader is None else leader.intermediate_values
    return mean + MARGIN < min(values.get(step, 0), values.get(end, 0))
