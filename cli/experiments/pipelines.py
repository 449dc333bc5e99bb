"""Indices -> batches, through tf.data.

A pipeline deals in indices until a batch is put together; only then are the
bytes of the images gathered and permuted, the whole batch at a time, on
threads of their own and ahead of the training step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

BATCHES_AHEAD = 4


def seed_of(key: list[int]) -> np.int64:
    """Returns a seed for TensorFlow: another one for each key."""
    return np.int64(np.random.SeedSequence(key).generate_state(1)[0])


def shuffled(
    count: int, batch_size: int, key: list[int], epochs: range
) -> tf.data.Dataset:
    """Returns the indices of every batch of the epochs."""
    seed, steps = seed_of(key), -(-count // batch_size)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int32),
            seed=tf.stack([tf.constant(seed), epoch]),
            # Named, so that the order does not depend on the device.
            alg="philox",
        )
        return slices(order, batch_size, steps)

    counted = tf.data.Dataset.range(epochs.start, epochs.stop)
    return counted.flat_map(epoch_batches)


def slices(order: tf.Tensor, size: int, count: int) -> tf.data.Dataset:
    """Returns `count` slices of `order`; the last one may be shorter."""
    return tf.data.Dataset.range(count).map(
        lambda step: order[step * size : (step + 1) * size]
    )


def ahead(
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
    return batches.prefetch(BATCHES_AHEAD).with_options(options)
