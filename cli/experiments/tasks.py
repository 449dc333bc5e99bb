"""A benchmark's tasks: examples as tf.data pipelines.

The images stay in memory once, as bytes, shared by all tasks. The net itself
begins with the bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from ..errors import OptionError
from . import pipelines
from .config import RunConfig, check_tasks
from .data import Data, Split
from .presets import BENCHMARKS

# The net's weights are read once for each batch: large ones save time.
TEST_BATCH_SIZE = 2000


@dataclasses.dataclass(frozen=True)
class Examples:
    """Flat images `(n, features)` uint8 and labels `(n,)` int32."""

    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def of(cls, split: Split) -> Examples:
        """Takes over a `data.Split`, flattening its images."""
        shape = split.images.shape[1:]
        # On the host, whatever the default device: tf.data runs there.
        with tf.device("/CPU:0"):
            flat = split.images.reshape(len(split), math.prod(shape))
            return cls(*map(tf.convert_to_tensor, (flat, split.labels)))

    def __len__(self) -> int:
        return self.labels.shape[0]


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: how its examples become batches of `(pixels, label)`.

    Args:
        index: Position of the task in its benchmark, from 0.
        train_examples, test_examples: The examples; tasks may share them.
        permutation: Which pixel feeds each feature, shape `(features,)`.
        outputs: The outputs of the net that stand for the task's labels.
        batch_size: The number of examples in a training batch; the last one
            may be smaller.
        seed: With `index` and the epoch, it alone decides the order.
    """

    index: int
    train_examples: Examples
    test_examples: Examples
    permutation: np.ndarray
    outputs: tuple[int, ...]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train_examples) // self.batch_size)

    def train(self, epochs: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Returns the batches of the epochs, one epoch after the other.

        Every epoch has every example once, in an order that depends on seed,
        task and epoch alone: with `first_epoch=7` it is epoch 7's.
        """
        rows = self.train_rows(epochs, first_epoch)
        return pipelines.ahead(
            rows, _batch(self.train_examples, self.permutation)
        )

    def train_rows(self, epochs: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Returns which examples each batch of `train` has."""
        return pipelines.shuffled(
            len(self.train_examples),
            self.batch_size,
            [self.seed, self.index, 1],
            range(first_epoch, first_epoch + epochs),
        )

    def sample(self, count: int) -> np.ndarray:
        """Returns training images as the net gets them, `(count, features)`.

        Seed and task alone decide which; all, if there are fewer.
        """
        rng = np.random.default_rng([self.seed, self.index, 2])
        rows = rng.permutation(len(self.train_examples))[:count]
        return self.train_examples.images.numpy()[rows][:, self.permutation]

    @functools.cached_property
    def test(self) -> tf.data.Dataset:
        """The batches of the test set, in its own order."""
        # Made once: TensorFlow takes longer for a pipeline than a small net.
        count = len(self.test_examples)
        size = min(TEST_BATCH_SIZE, count)
        order = tf.range(count, dtype=tf.int32)
        return pipelines.ahead(
            pipelines.slices(order, size, -(-count // size)),
            _batch(self.test_examples, self.permutation),
        )


def outputs_of(tasks: Iterable[Task]) -> tuple[int, ...]:
    """Returns the outputs of all the tasks, in order."""
    return tuple(sorted({out for task in tasks for out in task.outputs}))


def tasks(data: Data, config: RunConfig, seed: int) -> list[Task]:
    """Returns the tasks of the configured benchmark, in order.

    They split the classes: a task is a few classes, in their order. Every
    class has an output of its own; but in the domain scenario, the outputs
    stand for the place in the task, in all tasks (Zenke, Poole & Ganguli 2017,
    sections 4.1 and 4.3; van de Ven & Tolias 2018). Or they permute the
    pixels, in one way for all images of a task (the paper's section 4.2).
    """
    check_tasks(config, data.num_classes)
    splits = BENCHMARKS[config.benchmark].splits_classes
    permutation = np.arange(math.prod(data.train.images.shape[1:]))
    outputs = tuple(range(data.num_classes))
    if not splits:
        parts = Examples.of(data.train), Examples.of(data.test)
    made = []
    for index in range(config.tasks):
        if splits:
            size = config.classes_per_task
            first = index * size
            lowest = 0 if config.scenario == "domain" else first
            outputs = tuple(range(lowest, lowest + size))
            parts = (
                _of_classes(data.train, first, outputs),
                _of_classes(data.test, first, outputs),
            )
        else:
            permutation = pixel_permutation(seed, index, len(permutation))
        made.append(
            Task(index, *parts, permutation, outputs, config.batch_size, seed)
        )
    return made


def pixel_permutation(seed: int, index: int, num_features: int) -> np.ndarray:
    """Returns the permutation of a task; task 0 leaves all in place."""
    if index == 0:
        return np.arange(num_features)
    return np.random.default_rng([seed, index]).permutation(num_features)


def _of_classes(part: Split, first: int, outputs: tuple[int, ...]) -> Examples:
    """Returns the examples of the classes from `first` up, for the outputs."""
    chosen = (part.labels >= first) & (part.labels < first + len(outputs))
    if not chosen.any():
        raise OptionError(
            "--tasks",
            f"the dataset has no examples of the {len(outputs)} classes from "
            f"{first} to train on or to test on; choose fewer tasks",
        )
    labels = part.labels[chosen] - first + outputs[0]
    return Examples.of(Split(part.images[chosen], labels))


def _batch(
    examples: Examples, permutation: np.ndarray
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function: the indices of examples -> a batch of them."""
    moved = (permutation != np.arange(len(permutation))).any()
    order = tf.constant(permutation, tf.int32)

    def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.gather(examples.images, rows)
        if moved:
            pixels = tf.gather(pixels, order, axis=1)
        pixels = tf.ensure_shape(pixels, (None, len(permutation)))
        return pixels, tf.gather(examples.labels, rows)

    return batch
