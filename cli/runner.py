"""Every method with every seed, and what is written of it."""

import datetime
import os
import platform
from collections.abc import Sequence

import keras

import keras_si

from . import benchmarks, data, devices, figures, files, models
from .checkpoint import Checkpoints, NoCheckpoints, Position
from .config import RunConfig
from .errors import OptionError
from .method_run import MethodRun, learned_with, length
from .methods import METHODS
from .observer import Observer
from .output import CONFIG, RESULTS
from .results import Results, Run
from .resume import Standing
from .task import Task
from .types import Record


def run(
    config: RunConfig,
    observer: Observer | None = None,
    dataset: data.Data | None = None,
    standing: Standing | None = None,
    resumable: bool = True,
) -> Results:
    """Runs every method with every seed, on the same tasks.

    For one seed, every method meets the same permutations, initial weights
    and order of the data. A run that diverges is marked as failed, and the
    others go on.

    Args:
        config: A `RunConfig`; its output folder exists.
        observer: An `Observer`, or `None`.
        dataset: The `data.Data` to use, or `None`: the configured dataset.
        standing: The `Standing` to go on from, or `None`: the beginning.
        resumable: Whether to write checkpoints.

    Returns:
        The `Results`, which are also in the output folder.
    """
    observer = observer or Observer()
    standing = standing or Standing()
    observer.loading(config.dataset)
    if dataset is None:
        dataset = data.load_all(config.datasets, config.data_dir)
    checksum = dataset.checksum
    dataset = dataset.padded(config.padding)
    # What cannot be done is refused before anything is written or removed.
    models.check_images(config, dataset.train.images.shape[1:])
    tasks = benchmarks.tasks(
        dataset, config, config.seed, devices.on_accelerator()
    )
    now = environment()
    now_versions = {**now["versions"], "data": checksum}
    made_with = standing.made_with_now({**now, "versions": now_versions})
    _check_data(made_with)
    results = Results(
        config.benchmark,
        **made_with[0],
        config=config.to_dict(),
        runs=standing.runs,
        resumed_with=made_with[1:],
        started=standing.started if standing.runs else _now(),
    )
    checkpoints = (Checkpoints if resumable else NoCheckpoints)(
        config.output, config.to_dict(), made_with, standing.newest
    )
    files.remove_drafts(config.output)
    # First of all, so that nothing of another run is left beside ours.
    figures.remove_figures(config.output)
    if not standing.runs:
        checkpoints.remove()
        files.remove(os.path.join(config.output, RESULTS))
    files.write_json(os.path.join(config.output, CONFIG), config.to_dict())
    results.write(config.output)
    if standing.runs:
        figures.write_figures(results, config.output)
    if config.deterministic and devices.on_accelerator():
        devices.be_deterministic()
    _tell_uneven(observer, config, tasks)
    observer.started(config, _count_steps(config, tasks))
    observer.resumed(_count_steps_done(config, tasks, standing))
    previous_policy = keras.config.dtype_policy()
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            if seed > config.seed:
                tasks = benchmarks.tasks(
                    dataset, config, seed, devices.on_accelerator()
                )
            for method in config.methods:
                run_ = results.find(method, seed)
                if run_ is None:
                    run_ = Run.empty(method, seed, len(tasks))
                    results.runs.append(run_)
                if not run_.is_over:
                    MethodRun(
                        run_,
                        tasks,
                        dataset,
                        config,
                        results,
                        checkpoints,
                        observer,
                    )(standing)
                    standing = Standing()
                    figures.write_figures(results, config.output)
    finally:
        keras.config.set_dtype_policy(previous_policy)
    checkpoints.remove()
    observer.finished(results)
    return results


def _tell_uneven(
    observer: Observer, config: RunConfig, tasks: Sequence[Task]
) -> None:
    """Notices batches of which the replicas get unequal shares."""
    sizes = {
        size
        for task in tasks
        for size in (
            min(config.batch_size, len(task.train_examples)),
            len(task.train_examples) % config.batch_size,
        )
    }
    found = devices.uneven(config.distribute, sorted(sizes))
    if found is not None:
        size, replicas = found
        observer.notice(
            f"a batch of {size} has no equal parts for {replicas} replicas, "
            "and Keras weighs their means alike: the steps differ a little "
            "from those of one device"
        )


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
    for run in standing.runs:
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
    # Runs of the first keras-si do not know theirs.
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
    return {"versions": versions(), "device": devices.name()}


def versions() -> Record:
    """Returns what a run is made with, for its results."""
    return {
        "keras_si": keras_si.__version__,
        "keras": keras.__version__,
        **devices.versions(),
        "python": platform.python_version(),
    }
