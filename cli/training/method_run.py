"""One trial: one method with one seed, task after task."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from ..experiments import nets
from ..experiments.config import RunConfig
from ..experiments.mixed import Material, Replay, Union
from ..experiments.tasks import Task, outputs_of
from ..methods import METHODS
from ..results.results import Results, Trial
from . import checkpoint
from .checkpoint import Checkpoint, Position
from .progress import Progress

# How often, in tasks, to collect what is left of their pipelines: in cycles,
# for which Python by itself looks after some hundred tasks.
TASKS_PER_COLLECTION = 10


class Diverged(Exception):
    """The loss or a weight has turned NaN or infinite."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch {epoch + 1}")


@dataclasses.dataclass
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

    trial: Trial
    tasks: Sequence[Task]
    image_shape: Sequence[int]
    config: RunConfig
    results: Results
    progress: Progress
    save: Callable[..., None]
    after_task: Callable[[Trial, int], None]

    def __post_init__(self) -> None:
        # The variables of all methods have the same names after this, which
        # forgets the policy too.
        keras.backend.clear_session()
        keras.config.set_dtype_policy(self.config.precision)
        self.method = METHODS[self.trial.method](
            strength=self.config.strength, damping=self.config.damping
        )
        self.model = self._new_model()

    def run(self, begun: Checkpoint) -> None:
        """Goes from where the trial stands to its end, or until it fails."""
        position = begun.position
        if position == Position():
            self._evaluate_untrained()
        if begun.variables:
            checkpoint.restore(self.model, self.method, begun.variables)
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
        self.save(Position())
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

    def _train(self, task: Task, first_epoch: int) -> None:
        learned: Material = task
        so_far = tuple(self.tasks[: task.index + 1])
        if self.method.mixes_tasks and task.index > 0:
            learned = Union(so_far)
            if "memory" in self.method.uses:
                learned = Replay(so_far, self.config.memory or 0)
        nets.set_active_outputs(self.model, self._active(task, learned.outputs))
        epochs, steps = self.config.epochs or 1, learned.steps_per_epoch
        passes = epochs
        if self.config.steps is not None:  # To Keras, they are one epoch.
            steps = self.config.steps
            passes = -(-steps // learned.steps_per_epoch)
        watch = _Watch(
            self.progress,
            lambda done: self._save_model(Position(task.index, done)),
        )
        self.model.fit(
            learned.train(passes - first_epoch, first_epoch),
            epochs=epochs,
            initial_epoch=first_epoch,
            steps_per_epoch=steps,
            callbacks=[*self.method.callbacks(), watch],
            shuffle=False,  # The pipeline has done it.
            verbose=0,
        )
        self._check_weights(epochs)
        self.method.end_task(self.model, task)
        self.trial.record_importance(self.method.importance())
        self._save_model(Position(task.index, epochs, is_trained=True))

    def _save_model(self, position: Position) -> None:
        self._check_weights(position.epoch)
        self.trial.train_seconds += time.perf_counter() - self.clock
        self.save(position, checkpoint.variables(self.model, self.method))
        self.clock = time.perf_counter()

    def _check_weights(self, epochs_done: int) -> None:
        """Ends what has diverged, before it is saved or recorded."""
        # The loss need not show it: ReLU makes 0 of NaN.
        if not all(np.isfinite(w).all() for w in self.model.get_weights()):
            raise Diverged(epochs_done - 1)

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
        # A class never seen cannot be predicted; a new net has no past.
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
    """Shows each step; ends what has diverged; calls `save` after an epoch.

    `save` gets the number of epochs done, after each but the last.
    """

    def __init__(self, progress: Progress, save: Callable[[int], None]) -> None:
        super().__init__()
        self._progress, self._save, self._epoch = progress, save, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # A mean over the epoch so far: it does not recover either. Keras's
        # `TerminateOnNaN` would let `fit` end as if the task had ended.
        if not math.isfinite(logs.get("loss", 0.0)):
            raise Diverged(self._epoch)
        steps = self.params["epochs"] * self.params["steps"]
        self._progress.step(self._epoch, logs, 1 / steps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 < self.params["epochs"]:
            # Under JAX, variables are empty while an epoch runs, until the
            # model is asked for.
            self.model  # noqa: B018
            self._save(epoch + 1)


def _accuracy(model: keras.Model, task: Task) -> float:
    logs = model.evaluate(task.test, verbose=0, return_dict=True)
    # Back to the count that it is: the metric's mean is a rounded float32.
    count = len(task.test_examples)
    return round(logs["accuracy"] * count) / count
