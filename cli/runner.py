"""The task loop: fit a task, evaluate on the tasks met, write it down."""

import os
import platform
import time

import keras
import tensorflow as tf

import keras_si

from . import benchmarks, data, models, report
from .methods import METHODS
from .observer import Observer
from .results import CONFIG, Results, Run, write_json


class _Batches(keras.callbacks.Callback):
    """Tells the observer of each training step."""

    def __init__(self, observer):
        super().__init__()
        self._observer = observer
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._observer.batch_ended(self._epoch, logs or {})


def run(config, observer=None, dataset=None):
    """Runs every method with every seed, on the same tasks.

    For one seed, every method meets the same permutations, initial weights
    and order of the data.

    Args:
        config: A `RunConfig`; its output folder exists.
        observer: An `Observer`, or `None`.
        dataset: The `data.Data` to use, or `None`: the configured dataset.

    Returns:
        The `Results`, which are also in the output folder.
    """
    observer = observer or Observer()
    observer.loading(config.dataset)
    if dataset is None:
        dataset = data.load(config.dataset, config.data_dir)
    results = Results(
        config.benchmark, _versions(), _device(), config.to_dict(), []
    )
    report.remove_figures(config.output)
    # First of all, so that nothing of an earlier run is left beside ours.
    results.write(config.output)
    write_json(os.path.join(config.output, CONFIG), config.to_dict())
    previous_policy = keras.config.dtype_policy()
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            tasks = benchmarks.tasks(dataset, config, seed, _on_accelerator())
            if seed == config.seed:
                observer.started(config, tasks[0].steps_per_epoch)
            for method in config.methods:
                run_ = Run.empty(method, seed, len(tasks))
                results.runs.append(run_)
                _run_method(run_, tasks, dataset, config, results, observer)
                report.write_figures(results, config.output)
    finally:
        keras.config.set_dtype_policy(previous_policy)
    observer.finished(results)
    return results


def _run_method(run_, tasks, dataset, config, results, observer):
    # Also the names of variables start anew, so that methods can be compared.
    keras.backend.clear_session()
    # After that, which forgets the policy too.
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(run_.seed)
    with _strategy(config).scope():
        model = models.dense_net(
            tasks[0].num_features,
            config.hidden,
            dataset.num_classes,
            from_bytes=tasks[0].as_bytes,
        )
        models.compile_classifier(model, config)
    method = METHODS[run_.method](config)
    for task in tasks:
        observer.task_started(run_.method, run_.seed, task.index)
        started = time.perf_counter()
        _meet(model, task)
        model.fit(
            task.train(config.epochs),
            epochs=config.epochs,
            steps_per_epoch=task.steps_per_epoch,
            callbacks=[*method.callbacks(), _Batches(observer)],
            shuffle=False,  # The pipeline has done it.
            verbose=0,
        )
        trained = time.perf_counter()
        observer.task_trained()
        for met in tasks[: task.index + 1]:
            run_.accuracy[task.index, met.index] = _accuracy(model, met)
        evaluated = time.perf_counter()
        run_.train_seconds += trained - started
        run_.evaluate_seconds += evaluated - trained
        results.write(config.output)
        observer.task_ended(run_, task.index, evaluated - started)


def _strategy(config):
    if config.distribute == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


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


def _versions():
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
