"""Benchmark name -> its tasks, each a pair of tf.data pipelines.

The images stay in memory once, as bytes, shared by all tasks. A pipeline
deals in indices until a batch is put together; only then are the bytes
gathered, permuted, cast and scaled, the whole batch at a time, on threads of
their own and ahead of the training step. With an accelerator the pipeline
ends at the bytes, and the rest is done there: `pixels.ToFeatures`.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from .pixels import to_features

# The net's weights are read once for each batch: large ones save time.
TEST_BATCH_SIZE = 2000


@dataclasses.dataclass(frozen=True)
class Examples:
    """Flat images `(n, features)` uint8 and labels `(n,)` int32."""

    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def of(cls, split):
        """Takes over a `data.Split`, flattening its images."""
        # On the host, whatever the default device: tf.data runs there.
        with tf.device("/CPU:0"):
            images = tf.convert_to_tensor(split.images.reshape(len(split), -1))
            return cls(images, tf.convert_to_tensor(split.labels))

    def __len__(self):
        return self.labels.shape[0]


@dataclasses.dataclass(frozen=True)
class Task:
    """One task: how its examples become batches of `(features, label)`.

    Args:
        index: Position of the task in its benchmark, from 0.
        train_examples, test_examples: The examples, shared by the tasks.
        permutation: Which pixel feeds each feature, shape `(features,)`.
        batch_size: Of the training batches; the last one may be smaller.
        seed: With `index` and the epoch, it alone decides the order.
        as_bytes: Leave the batches as they are stored, for a net that begins
            with `pixels.ToFeatures`.
    """

    index: int
    train_examples: Examples
    test_examples: Examples
    permutation: np.ndarray
    batch_size: int
    seed: int
    as_bytes: bool = False

    @property
    def steps_per_epoch(self):
        return -(-len(self.train_examples) // self.batch_size)

    @property
    def num_features(self):
        return len(self.permutation)

    def train(self, epochs, first_epoch=0):
        """Returns the batches of the epochs, one epoch after the other.

        Every epoch holds every example once, in an order that is a function
        of seed, task and epoch: epoch 7 is the same whether it is reached
        from epoch 0 or asked for with `first_epoch=7`.
        """
        count = len(self.train_examples)
        key = np.random.SeedSequence([self.seed, self.index, 1])
        key = np.int64(key.generate_state(1)[0])

        def epoch_batches(epoch):
            order = tf.random.experimental.stateless_shuffle(
                tf.range(count, dtype=tf.int32),
                seed=tf.stack([tf.constant(key), epoch]),
                # Named, so that the order does not depend on the device.
                alg="philox",
            )
            return _slices(order, self.batch_size, self.steps_per_epoch)

        epochs = tf.data.Dataset.range(first_epoch, first_epoch + epochs)
        return self._fill(epochs.flat_map(epoch_batches), self.train_examples)

    def test(self):
        """Returns the batches of the test set, in its own order."""
        count = len(self.test_examples)
        size = min(TEST_BATCH_SIZE, count)
        order = tf.range(count, dtype=tf.int32)
        return self._fill(
            _slices(order, size, -(-count // size)), self.test_examples
        )

    def _fill(self, indices, examples):
        def batch(rows):
            pixels = tf.gather(examples.images, rows)
            pixels = tf.ensure_shape(pixels, (None, self.num_features))
            if not self.as_bytes:
                pixels = to_features(pixels, permutation)
            return pixels, tf.gather(examples.labels, rows)

        permutation = tf.constant(self.permutation, tf.int32)
        return indices.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
            tf.data.AUTOTUNE
        )


def _slices(order, size, count):
    """Returns `count` slices of `order`; the last one may be shorter."""
    return tf.data.Dataset.range(count).map(
        lambda step: order[step * size : (step + 1) * size]
    )


def pixel_permutation(seed, index, num_features):
    """Returns the permutation of a task; task 0 leaves all in place."""
    if index == 0:
        return np.arange(num_features)
    return np.random.default_rng([seed, index]).permutation(num_features)


def permuted(data, config, seed, as_bytes=False):
    """Permuted MNIST, or any images: a task is a permutation of the pixels.

    One permutation, of all pixels and channels, is shared by all images of
    a task, train and test (Zenke, Poole & Ganguli 2017, section 4.2).
    """
    train, test = Examples.of(data.train), Examples.of(data.test)
    num_features = train.images.shape[1]
    return [
        Task(
            index=index,
            train_examples=train,
            test_examples=test,
            permutation=pixel_permutation(seed, index, num_features),
            batch_size=config.batch_size,
            seed=seed,
            as_bytes=as_bytes,
        )
        for index in range(config.tasks)
    ]


TASKS = {"pmnist": permuted}


def tasks(data, config, seed, as_bytes=False):
    """Returns the tasks of the configured benchmark."""
    return TASKS[config.benchmark](data, config, seed, as_bytes)
