"""One method with one seed, task after task."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import cast

import keras
import numpy as np

from ..experiments import nets
from ..experiments.config import RunConfig
from ..experiments.data import Data
from ..experiments.task import Task, Union, outputs_of
from ..files import Record
from ..methods import METHODS, Method
from ..results.results import Results, Trial
from . import model_state
from .checkpoint import Checkpoints, Position
from .observer import Observer
from .resume import Standing
from .watching import Batches, Diverged, Passes

# How often, in tasks, to look for what is left of their pipelines: it is in
# cycles, for which Python by itself looks after some hundred tasks.
TASKS_PER_COLLECTION = 10


class MethodRun:
    """One method with one seed, task after task.

    Args:
        run: The `Trial` to fill.
        tasks: The tasks, in order.
        dataset: The `data.Data` they come from.
        config: The `RunConfig`.
        results: The `Results` that the run is part of.
        checkpoints: The `Checkpoints` of the run folder.
        observer: The `Observer`.
        save_results: Writes the results to where they belong.
        after_task: See `runner.run`.
    """

    def __init__(
        self,
        run: Trial,
        tasks: Sequence[Task],
        dataset: Data,
        config: RunConfig,
        results: Results,
        checkpoints: Checkpoints,
        observer: Observer,
        save_results: Callable[[], None],
        after_task: Callable[[Trial, int], None],
    ) -> None:
        self.run = run
        self.tasks = tasks
        self.image_shape = dataset.train.images.shape[1:]
        self.config = config
        self.results = results
        self.checkpoints = checkpoints
        self.observer = observer
        self.save_results = save_results
        self.after_task = after_task
        # Also the names of variables start anew, so that methods can be
        # compared.
        keras.backend.clear_session()
        # After that, which forgets the policy too.
        keras.config.set_dtype_policy(config.precision)
        self.method = METHODS[run.method](
            strength=config.strength, damping=config.damping
        )
        self.model = self._new_model()

    def __call__(self, standing: Standing) -> None:
        """Goes from where the run stood to its end, or until it fails."""
        position = standing.position
        if position.is_start:
            self._evaluate_untrained()
        if standing.files:
            model_state.restore(self.model, self.method, standing.files)
        for task in self.tasks[position.task :]:
            if task.index > position.task:
                position = Position(task.index)
            try:
                self._run_task(task, position)
            except Diverged as error:
                self.run.failed = (
                    "the loss or a weight turned NaN or infinite in task "
                    f"{task.index + 1}, {error}"
                )
                break
        self.save_results()
        self.checkpoints.between_runs(self._records())

    def _run_task(self, task: Task, position: Position) -> None:
        self.observer.task_started(self.run.method, self.run.seed, task.index)
        started = self.clock = time.perf_counter()
        if position.epoch == 0:
            self._prepare(task)
        if not position.is_trained:
            self._train(task, position.epoch)
        trained = time.perf_counter()
        self.observer.task_trained()
        self._evaluate(task)
        evaluated = time.perf_counter()
        self.run.evaluate_seconds += evaluated - trained
        self.save_results()
        # The model is as it was saved when it was trained.
        self.checkpoints.update(self._records(), Position(task.index + 1))
        self.observer.task_ended(self.run, task.index, evaluated - started)
        self.after_task(self.run, task.index)
        if (task.index + 1) % TASKS_PER_COLLECTION == 0:
            gc.collect()

    def _save_pass(self, position: Position) -> None:
        self._check_weights(position.epoch - 1)
        self._save(position)

    def _check_weights(self, epoch: int) -> None:
        """Ends what has diverged, before it is saved or recorded."""
        # The loss need not show it: ReLU makes 0 of NaN.
        if not all(np.isfinite(w).all() for w in self.model.get_weights()):
            raise Diverged(epoch)

    def _save(self, position: Position) -> None:
        """Saves the run and all it knows."""
        self.run.train_seconds += time.perf_counter() - self.clock
        self.checkpoints.save(
            self._records(),
            position,
            model_state.variables(self.model, self.method),
        )
        self.clock = time.perf_counter()

    def _records(self) -> list[Record]:
        return [run.to_dict() for run in self.results.trials]

    def _new_model(self) -> keras.Model:
        """Returns the net: the same for every method with this seed."""
        keras.utils.set_random_seed(self.run.seed)
        mixed = self.config.scenario == "task" and self.method.mixes_tasks
        outputs = [task.outputs for task in self.tasks] if mixed else None
        model = nets.build(
            self.config,
            self.image_shape,
            max(outputs_of(self.tasks)) + 1,
            from_bytes=self.tasks[0].as_bytes,
        )
        nets.compile_classifier(model, self.config, outputs)
        self.method.attach(model)
        return model

    def _prepare(self, task: Task) -> None:
        """Between two tasks: what the next one starts from."""
        if task.index == 0:
            return
        if self.method.new_net_per_task:
            self.model = self._new_model()
        elif self.config.reset_optimizer:
            nets.reset_optimizer(self.model)

    def _train(self, task: Task, first_pass: int) -> None:
        so_far = self.tasks[: task.index + 1]
        learned = learned_with(self.method, so_far)
        nets.set_permutation(self.model, learned.permutation)
        nets.set_active_outputs(self.model, self._active(task, learned.outputs))
        epochs, steps = length(self.config, learned)
        per_pass = learned.steps_per_epoch
        left = epochs * steps - first_pass * per_pass
        if self.config.steps is not None:
            steps = left
        passes = Passes(
            first_pass,
            per_pass,
            lambda done: self._save_pass(Position(task.index, done)),
        )
        self.model.fit(
            learned.train(-(-left // per_pass), first_pass),
            epochs=epochs,
            initial_epoch=first_pass if self.config.steps is None else 0,
            steps_per_epoch=steps,
            callbacks=[
                *self.method.callbacks(),
                Batches(self.observer, passes),
                passes,
            ],
            shuffle=False,  # The pipeline has done it.
            verbose=0,
        )
        self._check_weights(passes.done)
        self.method.end_task(self.model)
        self.run.record_importance(task.index, self.method.importance())
        self._save(Position(task.index, passes.done + 1, is_trained=True))

    def _evaluate(self, task: Task) -> None:
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

    def _evaluate_untrained(self) -> None:
        """Measures the net before any task, once for each seed."""
        if not self._measures_forward_transfer():
            return
        for other in self.results.trials:
            if other.seed == self.run.seed and not np.isnan(
                other.untrained[-1]
            ):
                self.run.untrained[:] = other.untrained
                return
        for task in self.tasks[1:]:
            self.run.untrained[task.index] = self._accuracy(task, task)

    def _measures_forward_transfer(self) -> bool:
        # What a class never seen brings, is nothing; and a new net knows
        # nothing of the tasks before.
        return (
            self.config.scenario != "class"
            and not self.method.new_net_per_task
            and len(self.tasks) > 1
        )

    def _active(self, now: Task, outputs: tuple[int, ...]) -> tuple[int, ...]:
        """Returns which outputs count, `outputs` being those concerned."""
        if self.config.scenario == "class":
            return outputs_of(self.tasks[: now.index + 1])
        return outputs

    def _accuracy(self, now: Task, tested: Task) -> float:
        """Returns the accuracy on `tested`, `now` being the latest task."""
        nets.set_active_outputs(self.model, self._active(now, tested.outputs))
        return _accuracy(self.model, tested)


def learned_with(
    method: Method | type[Method], so_far: Sequence[Task]
) -> Task | Union:
    """Returns what is trained on when the last of these tasks is learned."""
    return Union(tuple(so_far)) if method.mixes_tasks else so_far[-1]


def length(config: RunConfig, learned: Task | Union) -> tuple[int, int]:
    """Returns the epochs of a `fit`, as Keras counts them, and their steps."""
    if config.steps is not None:
        return 1, config.steps
    # One of the two is given.
    return cast(int, config.epochs), learned.steps_per_epoch


def _accuracy(model: keras.Model, task: Task) -> float:
    nets.set_permutation(model, task.permutation)
    logs = model.evaluate(task.test(), verbose=0, return_dict=True)
    # Back to the count that it is: the metric's mean is a rounded float32.
    count = len(task.test_examples)
    return round(logs["accuracy"] * count) / count
