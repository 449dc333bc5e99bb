"""Every method with every seed, and what is written of it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import keras

from ..errors import RunError
from ..experiments import data, nets
from ..experiments import tasks as tasks_module
from ..experiments.config import RunConfig
from ..experiments.tasks import Task
from ..files import Path
from ..methods import METHODS
from ..results import figures
from ..results.results import Results, Trial
from . import folder as folder_module
from . import start
from .checkpoint import Checkpoint, Position
from .folder import Standing
from .method_run import MethodRun, learned_with, length
from .progress import Progress


def run(
    config: RunConfig,
    folder: Path | None = None,
    *,
    progress: Progress | None = None,
    dataset: data.Data | None = None,
    standing: Standing | None = None,
    after_task: Callable[[Trial, int], None] = lambda *_: None,
    command: str | None = None,
) -> Results:
    """Runs every method with every seed, on the same tasks.

    For one seed, every method meets the same permutations, initial weights
    and order of the data. A trial that diverges is marked as failed, and the
    others continue.

    Args:
        config: A `RunConfig`.
        folder: An existing folder for the results, figures and checkpoints;
            `None` writes nothing.
        progress: Shows how it goes; `None` shows nothing.
        dataset: The `data.Data` to use, or `None`: the configured dataset.
        standing: Where the run in the folder stands, or `None`: it is new.
        after_task: Called with the `Trial` under way and the index of the
            task that was just evaluated and written. What it raises ends the
            run and is passed on.
        command: What the run was started with, or `None`.

    Returns:
        The `Results`, which are also in the folder.
    """
    progress = progress or Progress(quiet=True)
    standing = standing or Standing()
    progress.loading(config.dataset)
    if dataset is None:
        dataset = data.load_all(
            config.datasets, config.data_dir, config.held_out
        )
    # What cannot be done is refused before anything is written or removed.
    results = _results(config, dataset, standing, command)
    dataset = dataset.padded(config.padding)
    nets.check_images(config, dataset.train.images.shape[1:])
    tasks = tasks_module.tasks(dataset, config, config.seed)
    if folder is not None and standing.results is None:
        folder_module.begin(folder, config, results.command)
        figures.remove_figures(folder)

    def save(checkpoint: tuple[Position, Sequence[Any]] | None = None) -> None:
        if folder is not None and checkpoint is not None:
            Checkpoint(results.to_dict(), *checkpoint).save(folder)
        elif folder is not None:
            results.save(folder)

    def draw() -> None:
        if folder is not None and results.trials:
            figures.write_figures(results, folder)

    save()
    draw()
    if config.deterministic:
        start.be_deterministic()
    progress.started(*_count_steps(config, tasks, standing))
    previous_policy = keras.config.dtype_policy()
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            if seed > config.seed:
                tasks = tasks_module.tasks(dataset, config, seed)
            for method in config.methods:
                trial = results.find(method, seed)
                if trial is None:
                    trial = Trial.empty(method, seed, len(tasks))
                    results.trials.append(trial)
                if not trial.is_over:
                    MethodRun(
                        trial,
                        tasks,
                        dataset.train.images.shape[1:],
                        config,
                        results,
                        progress,
                        save,
                        after_task,
                    ).run(standing)
                    standing = Standing()
                    draw()
    finally:
        keras.config.set_dtype_policy(previous_policy)
    if folder is not None:
        folder_module.finish(folder)
    return results


def _results(
    config: RunConfig,
    dataset: data.Data,
    standing: Standing,
    command: str | None,
) -> Results:
    """Returns the results so far; refuses other data than were begun with."""
    versions = {**start.versions(), "data": dataset.checksum}
    device, now = start.device(), datetime.datetime.now(datetime.UTC)
    if standing.results is None:
        return Results(
            *(config.benchmark, versions, device, config.to_dict(), []),
            started=now.isoformat(timespec="seconds"),
            command=command,
        )
    results = standing.results
    if results.versions.get("data") != versions["data"]:
        raise RunError(
            "the images or labels found are not those that the run was begun "
            "with: their checksums differ. Continue with the same data, or "
            "start again with --overwrite"
        )
    made_with = {"versions": versions, "device": device}
    if made_with not in results.made_with:
        results.resumed_with.append(made_with)
    return results


def _count_steps(
    config: RunConfig, tasks: Sequence[Task], standing: Standing
) -> tuple[int, int]:
    """Returns the training steps of all trials, and how many are done."""
    total = done = 0
    for seed in range(config.seed, config.seed + config.seeds):
        for name in config.methods:
            trial = standing.results and standing.results.find(name, seed)
            at = standing.position if trial else Position()
            if trial and trial.is_over:
                at = Position(len(tasks))
            for index in range(len(tasks)):
                so_far = tasks[: index + 1]
                learned = learned_with(METHODS[name], so_far, config)
                epochs, steps = length(config, learned)
                total += epochs * steps
                if index < at.task or (index == at.task and at.is_trained):
                    done += epochs * steps
                elif index == at.task:
                    done += at.epoch * learned.steps_per_epoch
    return total, done
