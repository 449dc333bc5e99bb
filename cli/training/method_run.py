"""One trial: one method with one seed, task after task."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import cast

import keras
import numpy as np

from ..experiments import nets
from ..experiments.config import RunConfig
from ..experiments.mixed import Material, Replay, Union
from ..experiments.tasks import Task, outputs_of
from ..files import Record
from ..methods import METHODS, Method
from ..results.results import Results, Trial
from . import checkpoint
from .checkpoint import Position
from .folder import Standing
from .progress import Progress

# How often, in tasks, to collect what is left of their pipelines: in cycles,
# for which Python by itself looks after some hundred tasks.
TASKS_PER_COLLECTION = 10


class Diverged(Exception):
    """The loss or a weight has turned NaN or infinite."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch {epoch + 1}")


class MethodRun:
    """One method with one seed.

    Args:
        trial: The `Trial` to fill.
        tasks: The tasks, in order.
        image_shape: Height, width and channels.
        config: The `RunConfig`.
        results: The `Results` that the trial is part of.
        progress: Shows how it goes.
        save: Writes the results; with a position and variables, a checkpoint.
        after_task: See `runner.run`.
    """

    def __init__(
        self,
        trial: Trial,
        tasks: Sequence[Task],
        image_shape: Sequence[int],
        config: RunConfig,
        results: Results,
        progress: Progress,
        save: Callable[..., None],
        after_task: Callable[[Trial, int], None],
    ) -> None:
        self.trial, self.tasks, self.image_shape = trial, tasks, image_shape
        self.config, self.results, self.progress = config, results, progress
        self.save, self.after_task = save, after_task
        # So that the variables of all methods have the same names.
        keras.backend.clear_session()
        # After that, which forgets the policy too.
        keras.config.set_dtype_policy(config.precision)
        self.method = METHODS[trial.method](
            strength=config.strength, damping=config.damping
        )
        self.model = self._new_model()

    def run(self, standing: Standing) -> None:
        """Goes from where the trial stands to its end, or until it fails."""
        position = standing.position
        if position == Position():
            self._evaluate_untrained()
        if standing.variables:
            checkpoint.restore(self.model, self.method, standing.variables)
        for task in self.tasks[position.task :]:
            if task.index > position.task:
                position = Position(task.index)
            try:
                self._run_task(task, position)
            except Diverged as error:
                self.trial.failed = (
                    "the loss or a weight turned NaN or infinite in task "
                    f"{task.index + 1}, {error}"
                )
                break
        self.save((Position(), ()))
        self.save()

    def _run_task(self, task: Task, position: Position) -> None:
        self.progress.task_started(self.config, self.trial, task.index)
        started = self.clock = time.perf_counter()
        if position == Position(task.index) and task.index > 0:
            if self.method.new_net_per_task:
                self.model = self._new_model()
            elif self.config.reset_optimizer:
                nets.reset_optimizer(self.model)
        if not position.is_trained:
            self._train(task, position.epoch)
        trained = time.perf_counter()
        self.progress.evaluating()
        self._evaluate(task)
        evaluated = time.perf_counter()
        self.trial.evaluate_seconds += evaluated - trained
        # The checkpoint stays: a kill from here on costs an evaluation.
        self.save()
        self.progress.task_ended(self.trial, task.index, evaluated - started)
        self.after_task(self.trial, task.index)
        if (task.index + 1) % TASKS_PER_COLLECTION == 0:
            gc.collect()

    def _new_model(self) -> keras.Model:
        """Returns the net: the same for every method with this seed."""
        keras.utils.set_random_seed(self.trial.seed)
        mixed = self.config.scenario == "task" and self.method.mixes_tasks
        outputs = [task.outputs for task in self.tasks] if mixed else None
        model = nets.build(
            self.config, self.image_shape, max(outputs_of(self.tasks)) + 1
        )
        nets.compile_classifier(model, self.config, outputs)
        self.method.attach(model)
        return model

    def _train(self, task: Task, first_pass: int) -> None:
        so_far = self.tasks[: task.index + 1]
        learned = learned_with(self.method, so_far, self.config)
        nets.set_active_outputs(self.model, self._active(task, learned.outputs))
        epochs, steps = length(self.config, learned)
        per_pass = learned.steps_per_epoch
        left = epochs * steps - first_pass * per_pass
        if self.config.steps is not None:
            steps = left
        watch = _Watch(
            self.progress,
            first_pass,
            per_pass,
            lambda done: self._save_pass(Position(task.index, done)),
        )
        self.model.fit(
            learned.train(-(-left // per_pass), first_pass),
            epochs=epochs,
            initial_epoch=first_pass if self.config.steps is None else 0,
            steps_per_epoch=steps,
            callbacks=[*self.method.callbacks(), watch],
            shuffle=False,  # The pipeline has done it.
            verbose=0,
        )
        self._check_weights(watch.done)
        self.method.end_task(self.model, task)
        self.trial.record_importance(task.index, self.method.importance())
        self._save_pass(Position(task.index, watch.done + 1, is_trained=True))

    def _save_pass(self, position: Position) -> None:
        self._check_weights(position.epoch - 1)
        self.trial.train_seconds += time.perf_counter() - self.clock
        self.save((position, checkpoint.variables(self.model, self.method)))
        self.clock = time.perf_counter()

    def _check_weights(self, epoch: int) -> None:
        """Ends what has diverged, before it is saved or recorded."""
        # The loss need not show it: ReLU makes 0 of NaN.
        if not all(np.isfinite(w).all() for w in self.model.get_weights()):
            raise Diverged(epoch)

    def _evaluate(self, task: Task) -> None:
        """Fills a row: the tasks met, and for forward transfer the next."""
        accuracy, now = self.trial.accuracy, task.index
        first, last = 0, now + self._measures_forward_transfer()
        if self.method.new_net_per_task:
            # Their nets are gone; nothing has happened to them since.
            accuracy[now, :now] = accuracy[now - 1, :now]
            first = now
        for tested in self.tasks[first : last + 1]:
            accuracy[now, tested.index] = self._accuracy(task, tested)

    def _evaluate_untrained(self) -> None:
        """Measures the net before any task, once for each seed."""
        if not self._measures_forward_transfer():
            return
        for other in self.results.trials:
            known = not np.isnan(other.untrained[-1])
            if other.seed == self.trial.seed and known:
                self.trial.untrained[:] = other.untrained
                return
        for task in self.tasks[1:]:
            self.trial.untrained[task.index] = self._accuracy(task, task)

    def _measures_forward_transfer(self) -> bool:
        # A class never seen is never named; a new net knows no other task.
        return (
            self.config.scenario != "class"
            and not self.method.new_net_per_task
            and len(self.tasks) > 1
        )

    def _active(self, now: Task, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Returns which outputs count; `outputs` are the task's own."""
        if self.config.scenario == "class":
            return outputs_of(self.tasks[: now.index + 1])
        return outputs

    def _accuracy(self, now: Task, tested: Task) -> float:
        """Returns the accuracy on `tested`, `now` being the latest task."""
        nets.set_active_outputs(self.model, self._active(now, tested.outputs))
        return _accuracy(self.model, tested)


class _Watch(keras.callbacks.Callback):
    """Shows each training step; ends what has diverged; saves each pass.

    A pass is an epoch, as Keras counts them; where the length of a task is
    given in steps, all of them are one epoch to Keras, with passes within.
    `save` is called with how many passes are done, after each but the last.
    """

    def __init__(
        self,
        progress: Progress,
        done: int,
        steps_per_pass: int,
        save: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.done, self._steps_per_pass = done, steps_per_pass
        self._progress, self._save = progress, save
        self._epoch = self._steps = 0

    def on_epoch_begin(self, epoch: int, logs: Record | None = None) -> None:
        self._epoch, self._steps = epoch, 0

    def on_train_batch_end(
        self, batch: int, logs: Record | None = None
    ) -> None:
        logs = logs or {}
        # A mean over the epoch so far: it does not recover either. Keras's
        # `TerminateOnNaN` would let `fit` end as if the task had ended.
        if not math.isfinite(logs.get("loss", 0.0)):
            raise Diverged(self.done)
        self._progress.step(self._epoch, logs)
        self._steps += 1
        within = self._steps < self.params["steps"]
        if within and self._steps % self._steps_per_pass == 0:
            self._pass_ended()

    def on_epoch_end(self, epoch: int, logs: Record | None = None) -> None:
        # Here, and not at its last batch: SI's work for it is done by now.
        if epoch + 1 < self.params["epochs"]:
            self._pass_ended()

    def _pass_ended(self) -> None:
        self.done += 1
        # Under JAX, variables are empty while an epoch runs, until the model
        # is asked for.
        self.model  # noqa: B018
        self._save(self.done)


def learned_with(
    method: Method | type[Method], so_far: Sequence[Task], config: RunConfig
) -> Material:
    """Returns what is trained on when the last of these tasks is learned."""
    if len(so_far) == 1 or not method.mixes_tasks:
        return so_far[-1]
    if "memory" in method.uses:
        return Replay(tuple(so_far), cast(int, config.memory))
    return Union(tuple(so_far))


def length(config: RunConfig, learned: Material) -> tuple[int, int]:
    """Returns the epochs of a `fit`, as Keras counts them, and their steps."""
    if config.steps is not None:
        return 1, config.steps
    # One of the two is given.
    return cast(int, config.epochs), learned.steps_per_epoch


def _accuracy(model: keras.Model, task: Task) -> float:
    logs = model.evaluate(task.test, verbose=0, return_dict=True)
    # Back to the count that it is: the metric's mean is a rounded float32.
    count = len(task.test_examples)
    return round(logs["accuracy"] * count) / count
