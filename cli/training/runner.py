"""Every method with every seed, and what is written of it."""

import datetime
import os
import platform
from collections.abc import Callable, Sequence

import keras

import keras_si

from .. import files
from ..errors import OptionError
from ..experiments import data, nets
from ..experiments import tasks as tasks_module
from ..experiments.config import RunConfig
from ..experiments.task import Task
from ..files import Path, Record
from ..methods import METHODS
from ..results import RESULTS, figures
from ..results.results import Results, Trial
from . import start
from .checkpoint import Checkpoints, NoCheckpoints, Position
from .method_run import MethodRun, learned_with, length
from .observer import Observer
from .output import CONFIG
from .resume import Standing


def run(
    config: RunConfig,
    folder: Path | None = None,
    *,
    observer: Observer | None = None,
    dataset: data.Data | None = None,
    standing: Standing | None = None,
    after_task: Callable[[Trial, int], None] = lambda *_: None,
    command: str | None = None,
) -> Results:
    """Runs every method with every seed, on the same tasks.

    For one seed, every method meets the same permutations, initial weights
    and order of the data. A trial that diverges is marked as failed, and the
    others go on.

    Args:
        config: A `RunConfig`.
        folder: An existing folder for the results, figures and checkpoints;
            `None` writes nothing.
        observer: An `Observer`, or `None`.
        dataset: The `data.Data` to use, or `None`: the configured dataset.
        standing: The `Standing` to go on from, or `None`: the beginning.
        after_task: Called with the `Trial` under way and the index of the
            task that was just evaluated and written. What it raises ends the
            run and is passed on.
        command: What the run was started with, or `None`.

    Returns:
        The `Results`, which are also in the folder.
    """
    observer = observer or Observer()
    standing = standing or Standing()
    observer.loading(config.dataset)
    if dataset is None:
        dataset = data.load_all(
            config.datasets, config.data_dir, config.held_out
        )
    checksum = dataset.checksum
    dataset = dataset.padded(config.padding)
    # What cannot be done is refused before anything is written or removed.
    nets.check_images(config, dataset.train.images.shape[1:])
    tasks = tasks_module.tasks(
        dataset, config, config.seed, start.on_accelerator()
    )
    now = environment()
    now_versions = {**now["versions"], "data": checksum}
    made_with = standing.made_with_now({**now, "versions": now_versions})
    _check_data(made_with)
    results = Results(
        config.benchmark,
        **made_with[0],
        config=config.to_dict(),
        trials=standing.trials,
        resumed_with=made_with[1:],
        started=standing.started if standing.trials else _now(),
        command=command,
    )

    def save_results() -> None:
        if folder is not None:
            results.save(folder)

    def draw() -> None:
        if folder is not None:
            figures.write_figures(results, folder)

    checkpoints: Checkpoints = NoCheckpoints("", {}, [])
    if folder is not None:
        checkpoints = Checkpoints(
            folder, config.to_dict(), made_with, standing.newest
        )
        _begin(folder, checkpoints, standing, config, results.command)
        save_results()
        if standing.trials:
            draw()
    if config.deterministic and start.on_accelerator():
        start.be_deterministic()
    observer.started(config, _count_steps(config, tasks))
    observer.resumed(_count_steps_done(config, tasks, standing))
    previous_policy = keras.config.dtype_policy()
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            if seed > config.seed:
                tasks = tasks_module.tasks(
                    dataset, config, seed, start.on_accelerator()
                )
            for method in config.methods:
                trial = results.find(method, seed)
                if trial is None:
                    trial = Trial.empty(method, seed, len(tasks))
                    results.trials.append(trial)
                if not trial.is_over:
                    MethodRun(
                        trial,
                        tasks,
                        dataset,
                        config,
                        results,
                        checkpoints,
                        observer,
                        save_results,
                        after_task,
                    )(standing)
                    standing = Standing()
                    draw()
    finally:
        keras.config.set_dtype_policy(previous_policy)
    checkpoints.remove()
    observer.finished(results)
    return results


def _begin(
    folder: Path,
    checkpoints: Checkpoints,
    standing: Standing,
    config: RunConfig,
    command: str | None,
) -> None:
    """Clears a folder of what is not this run's; writes the configuration."""
    files.remove_drafts(folder)
    # First of all, so that nothing of another run is left beside ours.
    figures.remove_figures(folder)
    if not standing.trials:
        checkpoints.remove()
        files.remove(os.path.join(folder, RESULTS))
    told = {} if command is None else {"command": command}
    files.write_json(os.path.join(folder, CONFIG), {**told, **config.to_dict()})


def _count_steps(config: RunConfig, tasks: Sequence[Task]) -> int:
    """Returns the training steps of all methods and seeds."""
    total = 0
    for name in config.methods:
        for index in range(len(tasks)):
            learned = learned_with(METHODS[name], tasks[: index + 1])
            epochs, steps = length(config, learned)
            total += epochs * steps
    return total * config.seeds


def _count_steps_done(
    config: RunConfig, tasks: Sequence[Task], standing: Standing
) -> int:
    """Returns how many of them need not be taken again."""
    total = 0
    for run in standing.trials:
        at = standing.position
        if run.is_over:
            at = Position(len(tasks))
        for index in range(min(at.task + 1, len(tasks))):
            learned = learned_with(METHODS[run.method], tasks[: index + 1])
            epochs, steps = length(config, learned)
            if index < at.task or at.is_trained:
                total += epochs * steps
            else:
                total += at.epoch * learned.steps_per_epoch
    return total


def _check_data(made_with: Sequence[Record]) -> None:
    """Refuses to go on with another dataset than the run was begun with."""
    known = {made["versions"].get("data") for made in made_with} - {None}
    if len(known) > 1:
        raise OptionError(
            "--data-dir",
            "the images or labels found are not those that the run was begun "
            "with: their checksums differ. Go on with the same data, or name "
            "another folder",
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def environment() -> Record:
    """Returns what a run is made with, as its files hold it."""
    return {"versions": versions(), "device": start.device()}


def versions() -> Record:
    """Returns what a run is made with, for its results."""
    return {
        "keras_si": keras_si.__version__,
        "keras": keras.__version__,
        **start.versions(),
        "python": platform.python_version(),
    }
