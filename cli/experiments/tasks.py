"""A benchmark's tasks: examples as tf.data pipelines.

The images stay in memory once, as bytes, shared by all tasks. A pipeline
deals in indices until a batch is put together; only then are the bytes
gathered and permuted, the whole batch at a time, on threads of their own and
ahead of the training step. The net itself begins with the bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from ..errors import OptionError
from .config import RunConfig, check_tasks
from .data import Data, Split
from .presets import BENCHMARKS

# The net's weights are read once for each batch: large ones save time.
TEST_BATCH_SIZE = 2000
_BATCHES_AHEAD = 4


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
    """One task; `Union` trains on it, alone or with others.

    Args:
        index: Position of the task in its benchmark, from 0.
        train_examples, test_examples: The examples; tasks may share them.
        permutation: Which pixel feeds each feature, shape `(features,)`.
        outputs: The outputs of the net that stand for the task's labels.
        batch_size: Of the training batches; the last one may be smaller.
        seed: With `index` and the epoch, it alone decides the order.
    """

    index: int
    train_examples: Examples
    test_examples: Examples
    permutation: np.ndarray
    outputs: tuple[int, ...]
    batch_size: int
    seed: int

    def sample(self, count: int) -> np.ndarray:
        """Returns training images as the net gets them, `(count, features)`.

        Seed and task alone decide which; all, if there are fewer.
        """
        rng = np.random.default_rng([self.seed, self.index, 2])
        rows = rng.permutation(len(self.train_examples))[:count]
        return self.train_examples.images.numpy()[rows][:, self.permutation]

    @functools.cached_property
    def test(self) -> tf.data.Dataset:
        """The batches `(pixels, label)` of the test set, in its own order."""
        # Made once: TensorFlow takes longer for a pipeline than a small net.
        count = len(self.test_examples)
        size = min(TEST_BATCH_SIZE, count)
        order = tf.range(count, dtype=tf.int32)
        indices = _slices(order, size, -(-count // size))
        return _ahead(indices, _batch(self.test_examples, self.permutation))


@dataclasses.dataclass(frozen=True)
class Union:
    """The training examples of one task, or of several, mixed.

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
        """Returns the batches `(pixels, label)` of one epoch after the other.

        Their order depends on the seed, the last task and the epoch alone:
        with `first_epoch=7` it starts with that of epoch 7.
        """
        last = self.tasks[-1]
        rows = _shuffled(
            int(self._starts[-1]),
            last.batch_size,
            [last.seed, last.index, 1],
            range(first_epoch, first_epoch + epochs),
        )
        if len(self.tasks) > 1:
            return _ahead(rows, self._batch())
        return _ahead(rows, _batch(last.train_examples, last.permutation))

    def _batch(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """Returns what makes a batch of several tasks' rows."""
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


def outputs_of(tasks: Iterable[Task]) -> tuple[int, ...]:
    """Returns the outputs of all the tasks, in order."""
    return tuple(sorted({out for task in tasks for out in task.outputs}))


def tasks(data: Data, config: RunConfig, seed: int) -> list[Task]:
    """Returns the tasks of the configured benchmark, in order.

    They split the classes: a task is a few classes, in their order. Every
    class has an output of its own; but in the domain scenario, the outputs
    stand for the place in the task, in all tasks (Zenke, Poole & Ganguli 2017,
    sections 4.1 and 4.3; van de Ven & Tolias 2018). Or they permute the
    pixels, in one way for all images of a task (the former, section 4.2).
    """
    splits = BENCHMARKS[config.benchmark].splits_classes
    permutation = np.arange(math.prod(data.train.images.shape[1:]))
    outputs = tuple(range(data.num_classes))
    if splits:
        check_tasks(config, data.num_classes)
    else:
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
    """Returns what makes a batch of indices."""
    moved = (permutation != np.arange(len(permutation))).any()
    order = tf.constant(permutation, tf.int32)

    def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.gather(examples.images, rows)
        if moved:
            pixels = tf.gather(pixels, order, axis=1)
        pixels = tf.ensure_shape(pixels, (None, len(permutation)))
        return pixels, tf.gather(examples.labels, rows)

    return batch


def _shuffled(
    count: int, batch_size: int, key: list[int], epochs: range
) -> tf.data.Dataset:
    """Returns the indices of every batch of the epochs."""
    seed = np.int64(np.random.SeedSequence(key).generate_state(1)[0])
    steps = -(-count // batch_size)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int32),
            seed=tf.stack([tf.constant(seed), epoch]),
            # Named, so that the order does not depend on the device.
            alg="philox",
        )
        return _slices(order, batch_size, steps)

    counted = tf.data.Dataset.range(epochs.start, epochs.stop)
    return counted.flat_map(epoch_batches)


def _slices(order: tf.Tensor, size: int, count: int) -> tf.data.Dataset:
    """Returns `count` slices of `order`; the last one may be shorter."""
    return tf.data.Dataset.range(count).map(
        lambda step: order[step * size : (step + 1) * size]
    )


def _ahead(
    indices: tf.data.Dataset, batch: Callable[[tf.Tensor], Any]
) -> tf.data.Dataset:
    """Puts the batches together on threads of their own.

    Without tf.data's autotuning: it learns nothing that a pipeline of one
    parallel stage needs, and an iterator that ends waits for the tuning's
    thread to wake, up to a minute after each `fit`.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = indices.map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(_BATCHES_AHEAD).with_options(options)
