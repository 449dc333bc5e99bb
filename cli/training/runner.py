"""Every method with every seed, and what is written of it."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras

from ..errors import RunError
from ..experiments import data
from ..experiments import tasks as tasks_module
from ..experiments.config import RunConfig
from ..files import Path
from ..results import RESULTS, figures
from ..results.results import Results, Trial
from . import checkpoint as checkpoints
from . import folder as folders
from . import start
from .checkpoint import Checkpoint, Position
from .method_run import MethodRun
from .progress import Progress


def run(
    config: RunConfig,
    folder: Path | None = None,
    *,
    progress: Progress | None = None,
    dataset: data.Data | None = None,
    begun: Checkpoint | None = None,
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
        begun: Where the run in the folder stands, or `None`: it is new.
        after_task: Called with the `Trial` under way and the index of the
            task that was just evaluated and written. What it raises ends the
            run and is passed on.
        command: What the run was started with, or `None`.

    Returns:
        The `Results`, which are also in the folder.
    """
    progress = progress or Progress(quiet=True)
    begun = begun or Checkpoint()
    progress.loading(config.dataset)
    if dataset is None:
        dataset = data.load_all(
            config.datasets, config.data_dir, config.held_out
        )
    # What cannot be done is refused before anything is written or removed.
    results = _results(config, dataset, begun.results, command)
    dataset = dataset.padded(config.padding)
    image_shape = dataset.train.images.shape[1:]
    tasks = tasks_module.tasks(dataset, config, config.seed)
    if folder is not None and begun.results is None:
        folders.begin(folder, config, command)
        figures.remove_figures(folder)

    def save(
        position: Position | None = None, variables: Sequence[Any] = ()
    ) -> None:
        if folder is not None and position is not None:
            checkpoint = Checkpoint(results, position, variables)
            checkpoints.save(checkpoint, folder)
        elif folder is not None:
            results.save(folder)

    def draw() -> None:
        if folder is not None and results.trials:
            figures.write_figures(results, folder)

    save()
    draw()
    seeds = range(config.seed, config.seed + config.seeds)
    progress.started(
        len(seeds) * len(config.methods) * config.tasks,
        sum(trial.tasks_done for trial in results.trials),
    )
    previous_policy = keras.config.dtype_policy()
    try:
        for seed in seeds:
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
                        image_shape,
                        config,
                        results,
                        progress,
                        save,
                        after_task,
                    ).run(begun)
                    begun = Checkpoint()
                    draw()
    finally:
        keras.config.set_dtype_policy(previous_policy)
    if folder is not None:
        folders.finish(folder)
    return results


def complete(results: Results, folder: Path) -> None:
    """Draws and tidies up what a run was killed at, when all was trained."""
    if folders.has_checkpoint(folder):
        figures.write_figures(results, folder)
        folders.finish(folder)


def _results(
    config: RunConfig,
    dataset: data.Data,
    begun: Results | None,
    command: str | None,
) -> Results:
    """Returns the results so far; refuses other data than were begun with."""
    versions = {**start.versions(), "data": dataset.checksum}
    device, now = start.device(), datetime.datetime.now(datetime.UTC)
    if begun is None:
        return Results(
            config.benchmark,
            versions,
            device,
            config.to_dict(),
            started=now.isoformat(timespec="seconds"),
            command=command,
        )
    if begun.versions.get("data") != versions["data"]:
        raise RunError(
            "the images or labels found differ from those that the run was "
            "begun with. Continue with the same data, or start again with "
            "--overwrite"
        )
    made_with = {"versions": versions, "device": device}
    if made_with != begun.made_with[0]:
        print(
            "note: the run was begun with other versions or on another device "
            f"(see {RESULTS}); its results may differ from those of an "
            "undisturbed one",
            file=sys.stderr,
            flush=True,
        )
    if made_with not in begun.made_with:
        begun.resumed_with.append(made_with)
    return begun
