"""Unions of tasks, and replay: what is in the memory and in a batch."""

import numpy as np
import pytest
from keras_si_cli.experiments import data
from keras_si_cli.experiments import tasks as tasks_module
from keras_si_cli.experiments.mixed import Replay, Union, memory
from task_helpers import (
    IMAGES,
    batches,
    config_of,
    make,
    pairs,
    split,
    tiny_data,
)


def ten_classes():
    """Each of the ten images is of a class of its own."""
    train = data.Split(IMAGES, np.arange(10, dtype="int32"))
    return data.Data("ten", 10, train, tiny_data().test)


# Unions.


def test_a_union_has_every_example_of_every_task_once_an_epoch():
    tasks = split()
    union = Union(tuple(tasks[:2]))
    assert union.outputs == (0, 1, 2, 3)
    assert union.steps_per_epoch == 2  # 4 + 3 examples, batches of 4
    got = pairs(union.train(epochs=2))
    expected = sorted(p for each in tasks[:2] for p in pairs(each.test))
    assert sorted(got[:7]) == sorted(got[7:]) == expected
    assert got[:7] != got[7:]
    # The tasks are mixed, and an epoch can be made alone.
    assert {label > 1 for _, label in got[:4]} == {True, False}
    assert pairs(union.train(epochs=1, first_epoch=1)) == got[7:]


def test_in_a_union_every_example_has_its_own_tasks_permutation():
    tasks = make(ten_classes(), batch_size=7)
    expected = sorted(
        (label, *IMAGES[label].ravel()[each.permutation])
        for each in tasks
        for label in range(10)
    )
    union = Union(tuple(tasks))
    got = [
        (label, *row)
        for x, y in batches(union.train(epochs=1))
        for row, label in zip(x, y, strict=True)
    ]
    assert sorted(got) == expected
    # Examples that all tasks share are stored once.
    examples, offsets = union._stored()
    assert examples is tasks[0].train_examples
    assert offsets == [0, -10, -20]


def test_no_pipeline_of_a_mixture_leaves_a_thread_to_wait_for():
    tasks = tuple(make(ten_classes()))
    for mixed in (Union(tasks), Replay(tasks, 20)):
        assert mixed.train(epochs=1).options().autotune.enabled is False


# The memory.


def four_classes(seed=0, scenario="class", batch_size=4, tasks=2):
    """Tasks of two classes each; image i is filled with i, its class i % 4."""
    labels = np.arange(40, dtype="int32") % (2 * tasks)
    images = np.repeat(np.arange(40, dtype="uint8"), 4).reshape(40, 2, 2, 1)
    part = data.Split(images, labels)
    config = config_of("smnist", scenario, tasks, batch_size)
    made = data.Data("four", 2 * tasks, part, part)
    return tasks_module.tasks(made, config, seed)


def kept(tasks, size):
    """Which images a memory has, by task and then by label."""
    found = []
    for task in memory(tasks, size):
        images = task.train_examples.images.numpy()[:, 0]
        labels = task.train_examples.labels.numpy()
        by_label = {own: images[labels == own].tolist() for own in task.outputs}
        found.append(by_label)
    return found


def test_all_classes_met_so_far_have_equal_shares_of_the_memory():
    first, second = four_classes()
    # 11 // 2 classes, and then 11 // 4. Recorded results are of these images.
    (alone,) = kept([first], 11)
    assert alone == {0: [20, 32, 24, 16, 28], 1: [29, 37, 21, 25, 1]}
    both = kept([first, second], 11)
    # Of the images of a class, the same ones as before are kept longest.
    assert both[0] == {0: [20, 32], 1: [29, 37]}
    assert both[1] == {2: [34, 22], 3: [39, 19]}
    # Nothing else decides; another seed chooses others.
    assert kept([first, second], 11) == both
    assert kept(four_classes(seed=1), 11) != both


@pytest.mark.parametrize("size", [6, 7, 11, 12, 100])
def test_the_memory_is_never_larger_than_it_may_be(size):
    tasks = four_classes(tasks=3)
    for count in (1, 2, 3):
        by_task = kept(tasks[:count], size)
        counts = [len(i) for of_task in by_task for i in of_task.values()]
        assert counts == 2 * count * [min(size // (2 * count), 40 // 6)] or (
            # 40 images of 6 classes: four of them have 7.
            size == 100 and counts == [7, 7, 7, 7, 6, 6][: 2 * count]
        )
        assert sum(counts) <= size


def test_in_the_domain_scenario_a_label_is_another_class_in_each_task():
    first, second = kept(four_classes(scenario="domain"), 8)
    for of_task, classes in ((first, (0, 1)), (second, (2, 3))):
        for label, images in of_task.items():
            assert [image % 4 for image in images] == 2 * [classes[label]]


def test_each_label_of_each_permutation_has_a_share():
    tasks = memory(make(ten_classes(), tasks=2), 25)
    for task in tasks:
        assert sorted(task.train_examples.labels.numpy()) == [*range(10)]


# Batches with replay.


def test_a_batch_is_that_of_the_task_and_as_many_images_of_the_memory():
    first, second = four_classes(batch_size=8)
    replay = Replay((first, second), 6)
    assert (replay.steps_per_epoch, replay.outputs) == (3, (0, 1, 2, 3))
    (by_label,) = kept([first], 6)
    in_memory = {(i, label) for label in by_label for i in by_label[label]}
    assert len(in_memory) == 6
    got, alone = (
        [[*zip(x[:, 0].tolist(), y.tolist())] for x, y in batches(of.train(2))]
        for of in (replay, second)
    )
    # 20 images in batches of 8; the last one of an epoch is smaller.
    assert [len(batch) for batch in got] == 2 * [16, 16, 8]
    for batch, new in zip(got, alone, strict=True):
        assert batch[: len(new)] == new
        assert {*batch[len(new) :]} <= in_memory
    assert len({tuple(batch[len(batch) // 2 :]) for batch in got}) == 6


def test_every_image_in_the_memory_is_drawn_equally_often():
    replay = Replay(tuple(four_classes(batch_size=20)), 4)
    drawn = [image for image, _ in pairs(replay.train(200))]
    drawn = np.reshape(drawn, (200, 2, 20))[:, 1]
    images, counts = np.unique(drawn, return_counts=True)
    assert len(images) == 4
    # 4000 draws of 4 images: 1000 each, and a standard deviation of 27.
    assert (abs(counts - 1000) < 4 * 27).all()


def test_what_is_drawn_depends_on_seed_task_and_epoch_alone():
    tasks = tuple(four_classes(tasks=3))
    replay = Replay(tasks, 12)
    whole = pairs(replay.train(3))
    count = len(whole) // 3
    assert pairs(replay.train(1, first_epoch=1)) == whole[count : 2 * count]
    assert pairs(replay.train(2, first_epoch=1)) == whole[count:]
    epochs = [whole[i * count : (i + 1) * count] for i in range(3)]
    drawn = [{*epoch} & {*pairs(tasks[0].test)} for epoch in epochs]
    assert all(drawn) and epochs[0] != epochs[1] != epochs[2]


def test_which_places_of_the_memory_are_drawn_differs_by_seed_and_task():
    def places(seed, count):
        tasks = four_classes(seed, batch_size=12, tasks=3)[:count]
        ((x, _), *_) = batches(Replay(tuple(tasks), 4).train(1))
        by_task = kept(tasks[:-1], 4)
        images = [i for of_task in by_task for i in sum(of_task.values(), [])]
        assert len(images) == 4
        return [images.index(image) for image in x[12:, 0]]

    assert places(0, 2) == places(0, 2)
    assert places(0, 2) != places(1, 2)
    assert places(0, 2) != places(0, 3)


def test_replayed_images_keep_their_own_tasks_permutation():
    first, second = make(ten_classes(), tasks=2)
    ((x, y), *_) = batches(Replay((first, second), 10).train(1))
    assert len(y) == 8
    for place, (row, label) in enumerate(zip(x, y, strict=True)):
        own = second if place < 4 else first
        expected = IMAGES[label].ravel()[own.permutation]
        np.testing.assert_array_equal(row, expected)
