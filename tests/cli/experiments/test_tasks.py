"""The pipelines: permutations, order of the data, exact values."""

import types

import numpy as np
import pytest
from keras_si_cli.experiments import data, pixels
from keras_si_cli.experiments import task as task_module
from keras_si_cli.experiments import tasks as tasks_module

# 10 images of 2 x 2 pixels, one channel; image i holds 4i .. 4i + 3.
IMAGES = np.arange(40, dtype="uint8").reshape(10, 2, 2, 1)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], "int32")


@pytest.fixture
def tiny():
    train = data.Split(IMAGES, LABELS)
    test = data.Split(255 - IMAGES[:7], LABELS[:7])
    return data.Data("tiny", 10, train, test)


def make(tiny, seed=0, tasks=3, batch_size=4):
    config = types.SimpleNamespace(
        benchmark="pmnist", tasks=tasks, batch_size=batch_size
    )
    return tasks_module.tasks(tiny, config, seed)


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def first_pixels(dataset):
    """Which image each row came from, read off the identity task."""
    rows = np.concatenate([x for x, _ in batches(dataset)])
    return np.rint(rows[:, 0] * 255).astype(int) // 4


def test_task_0_is_the_identity_and_the_others_are_permutations():
    np.testing.assert_array_equal(
        tasks_module.pixel_permutation(5, 0, 784), np.arange(784)
    )
    for index in (1, 2, 9):
        permutation = tasks_module.pixel_permutation(5, index, 784)
        assert not np.array_equal(permutation, np.arange(784))
        np.testing.assert_array_equal(np.sort(permutation), np.arange(784))


def test_padding_puts_black_pixels_around_every_image(tiny):
    padded = tiny.padded(1)
    assert padded.train.images.shape == (10, 4, 4, 1)
    assert padded.test.images.shape == (7, 4, 4, 1)
    assert padded.train.images.dtype == np.uint8
    assert padded.train.images[2, :, :, 0].tolist() == [
        [0, 0, 0, 0],
        [0, 8, 9, 0],
        [0, 10, 11, 0],
        [0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(padded.train.labels, LABELS)
    assert tiny.padded(0) is tiny


def test_a_permutation_depends_on_seed_and_task_alone():
    one = tasks_module.pixel_permutation(5, 1, 784)
    np.random.seed(0)  # Global random state has no say.
    np.testing.assert_array_equal(
        one, tasks_module.pixel_permutation(5, 1, 784)
    )
    assert not np.array_equal(one, tasks_module.pixel_permutation(5, 2, 784))
    assert not np.array_equal(one, tasks_module.pixel_permutation(6, 1, 784))


def test_the_permutation_does_not_change_from_version_to_version():
    # Recorded results hold for these tasks, and for no others.
    permutation = tasks_module.pixel_permutation(0, 1, 8)
    assert permutation.tolist() == [1, 3, 7, 6, 0, 4, 2, 5]


def test_training_values_are_exact(tiny):
    task = make(tiny)[1]
    flat = IMAGES.reshape(10, 4)
    by_first_pixel = {}
    for row, label in zip(flat[:, task.permutation], LABELS, strict=True):
        by_first_pixel[row[0]] = row, label
    got = batches(task.train(epochs=1))
    assert [len(y) for _, y in got] == [4, 4, 2]  # The rest is kept.
    for x, y in got:
        assert x.dtype == np.float32
        for features, label in zip(x, y, strict=True):
            row, expected = by_first_pixel[np.rint(features[0] * 255)]
            np.testing.assert_array_equal(
                features, row.astype("float32") * np.float32(1 / 255)
            )
            assert label == expected


def test_pixels_are_scaled_to_one():
    assert np.float32(255) * pixels.SCALE == 1


def test_test_values_share_the_permutation_and_keep_their_order(tiny):
    task = make(tiny)[1]
    # Its inverse is another one.
    assert (task.permutation[task.permutation] != range(4)).any()
    (x, y) = batches(task.test())[0]
    expected = (255 - IMAGES[:7]).reshape(7, 4)[:, task.permutation]
    np.testing.assert_array_equal(
        x, expected.astype("float32") * np.float32(1 / 255)
    )
    np.testing.assert_array_equal(y, LABELS[:7])


def test_the_test_set_is_whole_when_it_takes_several_batches(tiny, monkeypatch):
    monkeypatch.setattr(task_module, "TEST_BATCH_SIZE", 3)
    got = batches(make(tiny)[0].test())
    assert [len(y) for _, y in got] == [3, 3, 1]
    assert np.concatenate([y for _, y in got]).tolist() == [
        *(3, 1, 4, 1, 5, 9, 2)
    ]


def test_an_epoch_holds_every_example_once(tiny):
    order = first_pixels(make(tiny)[0].train(epochs=3)).reshape(3, 10)
    for epoch in order:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in order}) == 3
    assert list(order[0]) != list(range(10))


def test_an_epoch_can_be_made_alone(tiny):
    task = make(tiny)[0]
    order = first_pixels(task.train(epochs=4)).reshape(4, 10)
    alone = first_pixels(task.train(epochs=1, first_epoch=2))
    rest = first_pixels(task.train(epochs=2, first_epoch=2)).reshape(2, 10)
    assert list(alone) == list(order[2])
    np.testing.assert_array_equal(rest, order[2:])


def test_the_order_depends_on_seed_and_task_and_nothing_else(tiny):
    def labels(seed, index):
        task = make(tiny, seed=seed)[index]
        rows = batches(task.train(epochs=2))
        return np.concatenate([y for _, y in rows]).tolist()

    first = labels(0, 1)
    assert labels(0, 1) == first
    assert labels(0, 2) != first
    assert labels(1, 1) != first


def test_the_images_are_held_once(tiny):
    tasks = make(tiny, tasks=5)
    assert len({id(task.train_examples.images) for task in tasks}) == 1


def test_a_stream_of_epochs_has_the_steps_it_says(tiny):
    task = make(tiny, batch_size=4)[0]
    assert task.steps_per_epoch == 3
    assert len(batches(task.train(epochs=2))) == 6
    assert make(tiny, batch_size=5)[0].steps_per_epoch == 2
    assert make(tiny, batch_size=99)[0].steps_per_epoch == 1
