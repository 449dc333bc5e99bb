"""A task, and the union of several: examples as tf.data pipelines.

The images stay in memory once, as bytes, shared by all tasks. A pipeline
deals in indices until a batch is put together; only then are the bytes
gathered, permuted, cast and scaled, the whole batch at a time, on threads of
their own and ahead of the training step. With an accelerator the pipeline
ends at the bytes, and the rest is done there: `pixels.ToFeatures`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from .pixels import to_features

if TYPE_CHECKING:
    from .data import Split

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
        # On the host, whatever the default device: tf.data runs there.
        with tf.device("/CPU:0"):
            images = tf.convert_to_tensor(split.images.reshape(len(split), -1))
            return cls(images, tf.convert_to_tensor(split.labels))

    def __len__(self) -> int:
        return self.labels.shape[0]


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: how its examples become batches of `(features, label)`.

    Args:
        index: Position of the task in its benchmark, from 0.
        train_examples, test_examples: The examples; tasks may share them.
        permutation: Which pixel feeds each feature, shape `(features,)`.
        outputs: The outputs of the net that stand for the task's labels.
        batch_size: Of the training batches; the last one may be smaller.
        seed: With `index` and the epoch, it alone decides the order.
        as_bytes: Leave the batches as they are stored, for a net that begins
            with `pixels.ToFeatures`.
    """

    index: int
    train_examples: Examples
    test_examples: Examples
    permutation: np.ndarray
    outputs: tuple[int, ...]
    batch_size: int
    seed: int
    as_bytes: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.train_examples) // self.batch_size)

    @property
    def num_features(self) -> int:
        return len(self.permutation)

    def train(self, epochs: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Returns the batches of the epochs, one epoch after the other.

        Every epoch holds every example once, in an order that is a function
        of seed, task and epoch: epoch 7 is the same whether it is reached
        from epoch 0 or asked for with `first_epoch=7`.
        """
        rows = _shuffled(
            len(self.train_examples),
            self.batch_size,
            [self.seed, self.index, 1],
            range(first_epoch, first_epoch + epochs),
        )
        return self._fill(rows, self.train_examples)

    def test(self) -> tf.data.Dataset:
        """Returns the batches of the test set, in its own order."""
        return self._test

    @functools.cached_property
    def _test(self) -> tf.data.Dataset:
        # Once: it is asked for after every later task, and what TensorFlow
        # makes of a pipeline takes more time than a small net.
        count = len(self.test_examples)
        size = min(TEST_BATCH_SIZE, count)
        order = tf.range(count, dtype=tf.int32)
        return self._fill(
            _slices(order, size, -(-count // size)), self.test_examples
        )

    def _fill(
        self, indices: tf.data.Dataset, examples: Examples
    ) -> tf.data.Dataset:
        def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = tf.gather(examples.images, rows)
            pixels = tf.ensure_shape(pixels, (None, self.num_features))
            if not self.as_bytes:
                pixels = to_features(pixels, permutation)
            return pixels, tf.gather(examples.labels, rows)

        permutation = tf.constant(self.permutation, tf.int32)
        return _ahead(indices, batch)


@dataclasses.dataclass(frozen=True)
class Union:
    """The training examples of several tasks, mixed.

    It has what the training asks of a `Task`. An epoch holds every example of
    every task once, each seen through the permutation of its own task. The
    union of one task is that task, in its order.

    Args:
        tasks: The tasks, of one benchmark and one seed.
    """

    tasks: tuple[Task, ...]

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._starts[-1] // self.tasks[0].batch_size)

    @property
    def permutation(self) -> np.ndarray:
        """Of the features: they arrive permuted."""
        return np.arange(self.tasks[0].num_features)

    @property
    def outputs(self) -> tuple[int, ...]:
        return outputs_of(self.tasks)

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """Where each task's rows start in the union, and where all end."""
        counts = [len(task.train_examples) for task in self.tasks]
        return np.cumsum([0, *counts])

    def train(self, epochs: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Returns the batches of the epochs, as `Task.train` does."""
        last = self.tasks[-1]
        rows = _shuffled(
            int(self._starts[-1]),
            last.batch_size,
            [last.seed, last.index, 1],
            range(first_epoch, first_epoch + epochs),
        )
        images, labels, offsets = self._stored()
        starts = tf.constant(self._starts[1:-1], tf.int32)
        offsets = tf.constant(offsets, tf.int32)
        permutations = np.stack([task.permutation for task in self.tasks])
        permuted = (permutations != permutations[0]).any()
        permutations = tf.constant(permutations, tf.int32)

        def batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            tasks = tf.searchsorted(starts, rows, side="right")
            rows = rows + tf.gather(offsets, tasks)
            pixels = tf.gather(images, rows)
            pixels = tf.ensure_shape(pixels, (None, last.num_features))
            if permuted:
                own = tf.gather(permutations, tasks)
                pixels = tf.gather(pixels, own, axis=1, batch_dims=1)
            if not last.as_bytes:
                pixels = to_features(pixels, None)
            return pixels, tf.gather(labels, rows)

        return _ahead(rows, batch)

    def _stored(self) -> tuple[tf.Tensor, tf.Tensor, list[int]]:
        """Returns images and labels, and what leads to them from a row.

        Examples that tasks share are stored once.
        """
        stored: list[Examples] = []
        places: dict[int, int] = {}
        size = 0
        for examples in (task.train_examples for task in self.tasks):
            if id(examples) not in places:
                places[id(examples)] = size
                stored.append(examples)
                size += len(examples)
        offsets = [
            places[id(task.train_examples)] - start
            for task, start in zip(self.tasks, self._starts[:-1], strict=True)
        ]
        if len(stored) == 1:
            return stored[0].images, stored[0].labels, offsets
        with tf.device("/CPU:0"):
            images = tf.concat([examples.images for examples in stored], 0)
            labels = tf.concat([examples.labels for examples in stored], 0)
        return images, labels, offsets


def outputs_of(tasks: Iterable[Task]) -> tuple[int, ...]:
    """Returns the outputs of all the tasks, in order."""
    return tuple(sorted({out for task in tasks for out in task.outputs}))


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
