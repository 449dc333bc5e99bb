"""The task loop: fit a task, evaluate on the tasks met, write it down."""

import math
import os
import platform
import time

import keras
import numpy as np
import tensorflow as tf

import keras_si

from . import benchmarks, data, files, models, report
from .checkpoint import Checkpoints, Position
from .methods import METHODS
from .observer import Observer
from .output import CONFIG
from .results import Results, Run
from .resume import Standing


class _Diverged(Exception):
    """The loss or a weight has turned NaN or infinite."""

    def __init__(self, epoch):
        super().__init__(f"epoch {epoch + 1}")


class _Batches(keras.callbacks.Callback):
    """Tells the observer of each training step; ends what has diverged."""

    def __init__(self, observer):
        super().__init__()
        self._observer = observer
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        logs = logs or {}
        # A mean over the epoch so far: it does not recover either.
        if not math.isfinite(logs.get("loss", 0.0)):
            raise _Diverged(self._epoch)
        self._observer.batch_ended(self._epoch, logs)


class _EpochSaver(keras.callbacks.Callback):
    """Calls `save(epoch)` when an epoch has ended that is not the last."""

    def __init__(self, save):
        super().__init__()
        self._save = save

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 < self.params["epochs"]:
            self._save(epoch + 1)


def run(config, observer=None, dataset=None, standing=None):
    """Runs every method with every seed, on the same tasks.

    For one seed, every method meets the same permutations, initial weights
    and order of the data. A run that diverges is marked as failed, and the
    others go on.

    Args:
        config: A `RunConfig`; its output folder exists.
        observer: An `Observer`, or `None`.
        dataset: The `data.Data` to use, or `None`: the configured dataset.
        standing: The `Standing` to go on from, or `None`: the beginning.

    Returns:
        The `Results`, which are also in the output folder.
    """
    observer = observer or Observer()
    standing = standing or Standing()
    observer.loading(config.dataset)
    if dataset is None:
        dataset = data.load(config.dataset, config.data_dir)
    results = Results(
        config.benchmark, versions(), _device(), config.to_dict(), []
    )
    results.runs = standing.runs
    checkpoints = Checkpoints(
        config.output, config.to_dict(), results.versions, standing.newest
    )
    files.remove_drafts(config.output)
    # First of all, so that nothing of another run is left beside ours.
    report.remove_figures(config.output)
    if not standing.runs:
        checkpoints.remove()
    files.write_json(os.path.join(config.output, CONFIG), config.to_dict())
    results.write(config.output)
    if config.deterministic and _on_accelerator():
        tf.config.experimental.enable_op_determinism()
    previous_policy = keras.config.dtype_policy()
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            tasks = benchmarks.tasks(dataset, config, seed, _on_accelerator())
            if seed == config.seed:
                observer.started(config, tasks[0].steps_per_epoch)
                observer.resumed(_epochs_done(config, standing))
            for method in config.methods:
                run_ = results.find(method, seed)
                if run_ is not None and run_.is_over:
                    continue
                if run_ is None:
                    run_ = Run.empty(method, seed, len(tasks))
                    results.runs.append(run_)
                _Running(
                    run_, tasks, dataset, config, results, checkpoints, observer
                ).go(standing)
                standing = Standing()
                report.write_figures(results, config.output)
    finally:
        keras.config.set_dtype_policy(previous_policy)
    report.write_figures(results, config.output)
    checkpoints.remove()
    observer.finished(results)
    return results


def _epochs_done(config, standing):
    """Returns how many epochs of the whole need not be trained again."""
    over = sum(run.is_over for run in standing.runs)
    position = standing.position
    return (over * config.tasks + position.task) * config.epochs + (
        position.epoch
    )


class _Running:
    """One method with one seed, on its way through the tasks."""

    def __init__(
        self, run_, tasks, dataset, config, results, checkpoints, observer
    ):
        self._run = run_
        self._tasks = tasks
        self._config = config
        self._results = results
        self._checkpoints = checkpoints
        self._observer = observer
        # Also the names of variables start anew, so that methods can be
        # compared.
        keras.backend.clear_session()
        # After that, which forgets the policy too.
        keras.config.set_dtype_policy(config.precision)
        keras.utils.set_random_seed(run_.seed)
        self._model = models.dense_net(
            tasks[0].num_features,
            config.hidden,
            dataset.num_classes,
            from_bytes=tasks[0].as_bytes,
        )
        models.compile_classifier(self._model, config)
        self._method = METHODS[run_.method](config)
        self._clock = time.perf_counter()

    def go(self, standing):
        """Trains from where the run stood to its end, or until it fails."""
        position = standing.position
        if standing.weights is not None:
            self._restore(standing.weights)
        for task in self._tasks[position.task :]:
            self._observer.task_started(
                self._run.method, self._run.seed, task.index
            )
            started = time.perf_counter()
            epoch = position.epoch if task.index == position.task else 0
            try:
                self._train(task, epoch)
            except _Diverged as error:
                self._run.failed = (
                    "the loss or a weight turned NaN or infinite in task "
                    f"{task.index + 1}, {error}"
                )
                break
            self._evaluate(task)
            self._save(Position(task.index + 1), trained=False)
            self._observer.task_ended(
                self._run, task.index, time.perf_counter() - started
            )
        self._results.write(self._config.output)
        self._checkpoints.between_runs(self._records())

    def _restore(self, weights):
        for callback in self._method.callbacks():
            # SI's state is part of the optimizer that it attaches.
            callback.set_model(self._model)
        self._model.optimizer.build(self._model.trainable_variables)
        self._model.load_weights(weights)

    def _train(self, task, first_epoch):
        epochs = self._config.epochs
        self._clock = time.perf_counter()
        if first_epoch < epochs:
            _meet(self._model, task)
            self._model.fit(
                task.train(epochs - first_epoch, first_epoch=first_epoch),
                epochs=epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=task.steps_per_epoch,
                callbacks=[
                    *self._method.callbacks(),
                    _Batches(self._observer),
                    # Last: SI's own work for the epoch is done then.
                    _EpochSaver(
                        lambda epoch: self._save(Position(task.index, epoch))
                    ),
                ],
                shuffle=False,  # The pipeline has done it.
                verbose=0,
            )
            self._save(Position(task.index, epochs))
        self._observer.task_trained()

    def _evaluate(self, task):
        started = time.perf_counter()
        for met in self._tasks[: task.index + 1]:
            self._run.accuracy[task.index, met.index] = _accuracy(
                self._model, met
            )
        self._run.evaluate_seconds += time.perf_counter() - started
        self._results.write(self._config.output)

    def _save(self, position, trained=True):
        """Saves the run; with `trained`, also what training has changed."""
        if trained:
            # The loss need not show it: ReLU makes 0 of NaN.
            if not all(np.isfinite(w).all() for w in self._model.get_weights()):
                raise _Diverged(position.epoch - 1)
            self._run.train_seconds += time.perf_counter() - self._clock
            self._checkpoints.save(self._records(), position, self._model)
            self._clock = time.perf_counter()
        else:
            self._checkpoints.update(self._records(), position)

    def _records(self):
        return [run.to_dict() for run in self._results.runs]


def _meet(model, task):
    """Tells a net that begins with the bytes which permutation is next."""
    if task.as_bytes:
        model.layers[0].permutation.assign(task.permutation)


def _accuracy(model, task):
    _meet(model, task)
    logs = model.evaluate(task.test(), verbose=0, return_dict=True)
    # Back to the count that it is: the metric's mean is a rounded float32.
    count = len(task.test_examples)
    return round(logs["accuracy"] * count) / count


def versions():
    """Returns what a run is made with, for its results."""
    return {
        "keras_si": keras_si.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
    }


def _on_accelerator():
    return bool(tf.config.list_physical_devices("GPU"))


def _device():
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux alone.
        cores = len(affinity(0)) if affinity else os.cpu_count()
        return f"CPU, {cores} cores"
    details = tf.config.experimental.get_device_details(gpus[0])
    return f"GPU, {details.get('device_name', gpus[0].name)}"
