"""The pipelines of a task: permutation, split, order of the data, values."""

import numpy as np
import pytest
from keras_si_cli.errors import OptionError
from keras_si_cli.experiments import tasks as tasks_module
from task_helpers import (
    IMAGES,
    LABELS,
    batches,
    make,
    order_of,
    pairs,
    split,
    tiny_data,
)


@pytest.fixture
def tiny():
    return tiny_data()


# Permutations.


def test_task_0_is_the_identity_and_the_others_are_permutations():
    np.testing.assert_array_equal(
        tasks_module.pixel_permutation(5, 0, 784), np.arange(784)
    )
    for index in (1, 2, 9):
        permutation = tasks_module.pixel_permutation(5, index, 784)
        assert not np.array_equal(permutation, np.arange(784))
        np.testing.assert_array_equal(np.sort(permutation), np.arange(784))


def test_permutation_and_order_do_not_change_from_version_to_version(tiny):
    """Recorded results are of these tasks, and of no others."""
    permutation = tasks_module.pixel_permutation(0, 1, 8)
    assert permutation.tolist() == [1, 3, 7, 6, 0, 4, 2, 5]
    first, other = make(tiny, 0)[0], make(tiny, 1)[0]
    orders = [order_of(task.train(2)).tolist() for task in (first, other)]
    assert orders == [
        [7, 5, 1, 3, 2, 8, 6, 4, 9, 0, 6, 4, 5, 7, 3, 0, 8, 2, 1, 9],
        [0, 2, 4, 3, 7, 9, 5, 6, 8, 1, 6, 1, 2, 7, 4, 3, 0, 5, 8, 9],
    ]
    # An epoch can be made alone.
    assert order_of(first.train(1, first_epoch=1)).tolist() == orders[0][10:]


def test_padding_puts_black_pixels_around_every_image(tiny):
    padded = tiny.padded(1)
    assert padded.train.images.shape == (10, 4, 4, 1)
    assert padded.test.images.shape == (7, 4, 4, 1)
    assert padded.train.images.dtype == np.uint8
    rows = padded.train.images[2, :, :, 0].tolist()
    assert rows == [4 * [0], [0, 8, 9, 0], [0, 10, 11, 0], 4 * [0]]
    np.testing.assert_array_equal(padded.train.labels, LABELS)
    assert tiny.padded(0) is tiny


def test_training_batches_are_the_permuted_bytes_with_their_labels(tiny):
    task = make(tiny)[1]
    flat = IMAGES.reshape(10, 4)[:, task.permutation]
    expected = {(*row, label) for row, label in zip(flat.tolist(), LABELS)}
    got = batches(task.train(epochs=1))
    assert [len(y) for _, y in got] == [4, 4, 2]  # The rest is kept.
    rows = [(*row, label) for x, y in got for row, label in zip(x.tolist(), y)]
    assert (len(rows), set(rows)) == (10, expected)
    assert {x.dtype for x, _ in got} == {np.dtype("uint8")}


def test_test_batches_share_the_permutation_and_keep_their_order(
    tiny, monkeypatch
):
    monkeypatch.setattr(tasks_module, "TEST_BATCH_SIZE", 3)
    task = make(tiny)[1]
    # Its inverse is another one.
    assert (task.permutation[task.permutation] != range(4)).any()
    got = batches(task.test)
    assert [len(y) for _, y in got] == [3, 3, 1]  # The rest is kept.
    expected = (255 - IMAGES[:7]).reshape(7, 4)[:, task.permutation]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in got]), expected)
    assert np.concatenate([y for _, y in got]).tolist() == [*LABELS[:7]]


def test_a_test_set_is_one_pipeline_however_often_it_is_evaluated(tiny):
    """A new one each time is what made long runs grow."""
    for task in make(tiny):
        assert task.test is task.test
    # Nor is anything traced again for another task.
    assert len({str(task.test.element_spec) for task in make(tiny)}) == 1


@pytest.mark.parametrize("size, steps", [(4, 3), (5, 2), (99, 1)])
def test_an_epoch_has_the_steps_it_says(tiny, size, steps):
    task = make(tiny, batch_size=size)[0]
    assert task.steps_per_epoch == steps
    assert len(batches(task.train(epochs=2))) == 2 * steps


def test_no_pipeline_leaves_a_thread_to_wait_for(tiny):
    """tf.data's autotuning has one, which the end of each `fit` waits for."""
    tasks = make(tiny)
    for pipeline in (tasks[0].train(epochs=1), tasks[0].test):
        assert pipeline.options().autotune.enabled is False


# Splits.


@pytest.mark.parametrize(
    ("scenario", "labels"),
    [
        ("task", [(0, 1), (2, 3), (4, 5)]),
        ("domain", [(0, 1), (0, 1), (0, 1)]),
    ],
)
def test_each_task_has_its_classes_and_no_other(scenario, labels):
    tasks = split(scenario)
    assert [each.outputs for each in tasks] == labels
    # By class, from `SIX`: which images show the first and the second.
    images = [((1, 6), (2, 9)), ((3, 7), (4,)), ((0, 8), (5,))]
    for each, (low, high), (first, second) in zip(
        tasks, labels, images, strict=True
    ):
        expected = {(i, low) for i in first} | {(i, high) for i in second}
        assert set(pairs(each.train(epochs=1))) == expected
        # The test set is in its own order, which is here the reverse.
        assert pairs(each.test) == sorted(expected, reverse=True)


def test_more_tasks_than_classes_with_examples_are_refused(monkeypatch):
    with pytest.raises(OptionError, match="--tasks: received 4, .* most 3"):
        split(tasks=4)
    monkeypatch.setattr(tasks_module, "check_tasks", lambda *_: None)
    with pytest.raises(OptionError, match="of the 2 classes from 6 to train"):
        split(tasks=4)
