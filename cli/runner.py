"""The task loop: fit a task, evaluate on the tasks met, write it down."""

import os
import platform
import time

import keras
import numpy as np
import tensorflow as tf

import keras_si

from . import benchmarks, data, figures, models
from .methods import METHODS
from .observer import Observer
from .results import CONFIG, Results, Run, write_json
from .task import Union, outputs_of


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
        dataset = data.load_all(config.datasets, config.data_dir)
    results = Results(
        config.benchmark, _versions(), _device(), config.to_dict(), []
    )
    figures.remove_figures(config.output)
    # First of all, so that nothing of an earlier run is left beside ours.
    results.write(config.output)
    write_json(os.path.join(config.output, CONFIG), config.to_dict())
    previous_policy = keras.config.dtype_policy()
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            tasks = benchmarks.tasks(dataset, config, seed, _on_accelerator())
            if seed == config.seed:
                observer.started(config, _count_steps(config, tasks))
            for method in config.methods:
                run_ = Run.empty(method, seed, len(tasks))
                results.runs.append(run_)
                _MethodRun(run_, tasks, dataset, config, results, observer)()
                figures.write_figures(results, config.output)
    finally:
        keras.config.set_dtype_policy(previous_policy)
    observer.finished(results)
    return results


class _MethodRun:
    """One method with one seed, task after task."""

    def __init__(self, run_, tasks, dataset, config, results, observer):
        self.run = run_
        self.tasks = tasks
        self.image_shape = dataset.train.images.shape[1:]
        self.config = config
        self.results = results
        self.observer = observer
        # Also the names of variables start anew, so that methods can be
        # compared.
        keras.backend.clear_session()
        # After that, which forgets the policy too.
        keras.config.set_dtype_policy(config.precision)
        self.method = METHODS[run_.method](config)
        self.model = self._new_model()

    def __call__(self):
        self._evaluate_untrained()
        for task in self.tasks:
            self._run_task(task)

    def _run_task(self, task):
        self.observer.task_started(self.run.method, self.run.seed, task.index)
        started = time.perf_counter()
        self._prepare(task)
        self._train(task)
        trained = time.perf_counter()
        self.observer.task_trained()
        self._evaluate(task)
        evaluated = time.perf_counter()
        self.run.train_seconds += trained - started
        self.run.evaluate_seconds += evaluated - trained
        self.results.write(self.config.output)
        self.observer.task_ended(self.run, task.index, evaluated - started)

    def _new_model(self):
        """Returns the net: the same for every method with this seed."""
        keras.utils.set_random_seed(self.run.seed)
        model = models.build(
            self.config,
            self.image_shape,
            max(outputs_of(self.tasks)) + 1,
            from_bytes=self.tasks[0].as_bytes,
        )
        mixed = self.config.scenario == "task" and self.method.mixes_tasks
        outputs = [task.outputs for task in self.tasks] if mixed else None
        models.compile_classifier(model, self.config, outputs)
        self.method.attach(model)
        return model

    def _prepare(self, task):
        """Between two tasks: what the next one starts from."""
        if task.index == 0:
            return
        if self.method.new_net_per_task:
            self.model = self._new_model()
        elif self.config.reset_optimizer:
            models.reset_optimizer(self.model)

    def _train(self, task):
        so_far = self.tasks[: task.index + 1]
        learned = _learned(self.method, so_far)
        models.set_permutation(self.model, learned.permutation)
        models.set_active_outputs(
            self.model,
            outputs_of(so_far)
            if self.config.scenario == "class"
            else learned.outputs,
        )
        epochs, steps = _length(self.config, learned)
        self.model.fit(
            learned.train(-(-epochs * steps // learned.steps_per_epoch)),
            epochs=epochs,
            steps_per_epoch=steps,
            callbacks=[*self.method.callbacks(), _Batches(self.observer)],
            shuffle=False,  # The pipeline has done it.
            verbose=0,
        )
        self.method.end_task(self.model)

    def _evaluate(self, task):
        """Fills a row: the tasks met, and for forward transfer the next."""
        accuracy, now = self.run.accuracy, task.index
        first = 0
        if self.method.new_net_per_task:
            # Their nets are gone; nothing has happened to them since.
            accuracy[now, :now] = accuracy[now - 1, :now]
            first = now
        last = now + 1 if self._measures_forward_transfer() else now
        for tested in self.tasks[first : last + 1]:
            accuracy[now, tested.index] = self._accuracy(task, tested)

    def _evaluate_untrained(self):
        """Measures the net before any task, once for each seed."""
        if not self._measures_forward_transfer():
            return
        for run_ in self.results.runs:
            if run_.seed == self.run.seed and not np.isnan(run_.untrained[-1]):
                self.run.untrained[:] = run_.untrained
                return
        for task in self.tasks[1:]:
            self.run.untrained[task.index] = self._accuracy(task, task)

    def _measures_forward_transfer(self):
        # What a class never seen brings, is nothing; and a new net knows
        # nothing of the tasks before.
        return (
            self.config.scenario != "class"
            and not self.method.new_net_per_task
            and len(self.tasks) > 1
        )

    def _accuracy(self, now, tested):
        """Returns the accuracy on `tested`, `now` being the latest task."""
        models.set_active_outputs(
            self.model,
            outputs_of(self.tasks[: now.index + 1])
            if self.config.scenario == "class"
            else tested.outputs,
        )
        return _accuracy(self.model, tested)


def _learned(method, so_far):
    """Returns what is trained on when the last of these tasks is learned."""
    return Union(tuple(so_far)) if method.mixes_tasks else so_far[-1]


def _length(config, learned):
    """Returns the epochs of a `fit`, as Keras counts them, and their steps."""
    if config.steps is None:
        return config.epochs, learned.steps_per_epoch
    return 1, config.steps


def _count_steps(config, tasks):
    """Returns the training steps of all methods and seeds."""
    total = 0
    for name in config.methods:
        for index in range(len(tasks)):
            learned = _learned(METHODS[name], tasks[: index + 1])
            epochs, steps = _length(config, learned)
            total += epochs * steps
    return total * config.seeds


def _accuracy(model, task):
    models.set_permutation(model, task.permutation)
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
