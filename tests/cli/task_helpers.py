"""Small datasets, and the tasks made of them."""

import types

import numpy as np
from keras_si_cli.experiments import data
from keras_si_cli.experiments import tasks as tasks_module

# 10 images of 2 x 2 pixels, one channel; image i has 4i .. 4i + 3.
IMAGES = np.arange(40, dtype="uint8").reshape(10, 2, 2, 1)
LABELS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], "int32")


def tiny_data():
    train = data.Split(IMAGES, LABELS)
    test = data.Split(255 - IMAGES[:7], LABELS[:7])
    return data.Data("tiny", 10, train, test)


def config_of(benchmark, scenario, tasks, batch_size, classes_per_task=2):
    """Returns what of a configuration the tasks are made of."""
    return types.SimpleNamespace(
        benchmark=benchmark,
        scenario=scenario,
        tasks=tasks,
        classes_per_task=classes_per_task,
        memory=None,
        batch_size=batch_size,
        dataset="six",
    )


def make(tiny, seed=0, tasks=3, batch_size=4):
    config = config_of("pmnist", "domain", tasks, batch_size)
    return tasks_module.tasks(tiny, config, seed)


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def order_of(dataset):
    """Which image each row came from, read off the identity task."""
    return np.concatenate([x for x, _ in batches(dataset)])[:, 0] // 4


# Image i is filled with the number i.
SIX = np.array([4, 0, 1, 2, 3, 5, 0, 2, 4, 1], "int32")
FILLED = np.repeat(np.arange(10, dtype="uint8"), 4).reshape(10, 2, 2, 1)


def six_classes():
    train = data.Split(FILLED, SIX)
    test = data.Split(FILLED[::-1], SIX[::-1])
    return data.Data("six", 6, train, test)


def split(scenario="task", tasks=3, classes_per_task=2):
    config = config_of("smnist", scenario, tasks, 4, classes_per_task)
    return tasks_module.tasks(six_classes(), config, seed=0)


def pairs(dataset):
    """Which image each row is, and its label."""
    return [
        (int(image[0]), int(label))
        for x, y in batches(dataset)
        for image, label in zip(x, y, strict=True)
    ]
