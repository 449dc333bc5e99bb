"""The training examples of several tasks, mixed; they train as a `Task`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from . import pipelines
from .data import Split
from .tasks import Examples, Task, outputs_of

# What is trained on when a task is learned.
Material: TypeAlias = "Task | Union | Replay"


@dataclasses.dataclass(frozen=True)
class Union:
    """The training examples of several tasks, mixed; it trains as a `Task`.

    An epoch has every example of every task once, each seen through the
    permutation of its own task.
    """

    tasks: tuple[Task, ...]

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._starts[-1] // self.tasks[0].batch_size)

    @property
    def outputs(self) -> tuple[int, ...]:
        return outputs_of(self.tasks)

    @property
    def _starts(self) -> np.ndarray:
        """Where each task's rows start in the union, and where all end."""
        return np.cumsum([0, *(len(t.train_examples) for t in self.tasks)])

    def train(self, epochs: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Returns the batches of the epochs, as `Task.train` does."""
        last = self.tasks[-1]
        rows = pipelines.shuffled(
            int(self._starts[-1]),
            last.batch_size,
            [last.seed, last.index, 1],
            range(first_epoch, first_epoch + epochs),
        )
        return pipelines.ahead(rows, self.batch())

    def batch(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """Returns a function: rows, counted over all tasks -> their batch."""
        examples, offsets = self._stored()
        starts = tf.constant(self._starts[1:-1], tf.int32)
        offsets = tf.constant(offsets, tf.int32)
        permutations = tf.constant(
            np.stack([task.permutation for task in self.tasks]), tf.int32
        )

        def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            tasks = tf.searchsorted(starts, rows, side="right")
            rows = rows + tf.gather(offsets, tasks)
            pixels = tf.gather(examples.images, rows)
            own = tf.gather(permutations, tasks)
            pixels = tf.gather(pixels, own, axis=1, batch_dims=1)
            pixels = tf.ensure_shape(pixels, (None, permutations.shape[1]))
            return pixels, tf.gather(examples.labels, rows)

        return batch

    def _stored(self) -> tuple[Examples, list[int]]:
        """Returns all examples, each once, and what leads there from a row."""
        parts = [task.train_examples for task in self.tasks]
        if all(part is parts[0] for part in parts):
            return parts[0], [-start for start in self._starts[:-1]]
        with tf.device("/CPU:0"):
            images = tf.concat([part.images for part in parts], 0)
            labels = tf.concat([part.labels for part in parts], 0)
        return Examples(images, labels), [0] * len(parts)


@dataclasses.dataclass(frozen=True)
class Replay:
    """The last task, mixed with a memory of the others; it trains as a `Task`.

    Each batch is one of the last task alone, in its order, and after it as
    many images of the memory, drawn at random for each batch. So there are as
    many steps as for the task alone, and the loss, a mean over the batch,
    weighs task and memory alike (Chaudhry et al. 2019, experience replay).

    Args:
        tasks: The tasks so far, two or more.
        size: How many images the memory may have; see `memory`.
    """

    tasks: tuple[Task, ...]
    size: int

    @property
    def steps_per_epoch(self) -> int:
        return self.tasks[-1].steps_per_epoch

    @property
    def outputs(self) -> tuple[int, ...]:
        return outputs_of(self.tasks)

    def train(self, epochs: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Returns the batches of the epochs, as `Task.train` does."""
        *earlier, last = self.tasks
        kept = memory(earlier, self.size)
        count = sum(len(task.train_examples) for task in kept)
        seed = tf.constant(pipelines.seed_of([last.seed, last.index, 4]))

        def with_memory(step: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
            # By the number of the step since the task began: what is drawn
            # does not depend on where `train` begins.
            drawn = tf.random.stateless_uniform(
                tf.shape(rows),
                tf.stack([seed, step]),
                maxval=count,
                dtype=tf.int32,
                alg="philox",
            )
            return tf.concat([rows + count, drawn], 0)

        rows = last.train_rows(epochs, first_epoch)
        rows = rows.enumerate(first_epoch * self.steps_per_epoch)
        return pipelines.ahead(
            rows.map(with_memory), Union((*kept, last)).batch()
        )


def memory(tasks: Sequence[Task], size: int) -> list[Task]:
    """Returns tasks with no more training images than a memory has of them.

    The memory has at most `size` images in all. Each class of each task has
    the same share, rounded down; in the domain scenario and in permuted MNIST,
    where tasks share their labels, a label is another class in each task. Each
    class has an order of its images, by seed and task, of which the first are
    kept: when the shares shrink, images leave and none return.
    """
    share = size // sum(len(task.outputs) for task in tasks)
    return [
        dataclasses.replace(task, train_examples=_first(task, share))
        for task in tasks
    ]


def _first(task: Task, share: int) -> Examples:
    images, labels = (
        each.numpy()
        for each in (task.train_examples.images, task.train_examples.labels)
    )
    rng = np.random.default_rng([task.seed, task.index, 3])
    order = rng.permutation(len(labels))
    rows = np.concatenate(
        [order[labels[order] == label][:share] for label in task.outputs]
    )
    return Examples.of(Split(images[rows], labels[rows]))
