"""Benchmark name -> its tasks."""

import numpy as np

from ..errors import OptionError
from .config import RunConfig, check_tasks
from .data import Data, Split
from .presets import BENCHMARKS
from .task import Examples, Task


def pixel_permutation(seed: int, index: int, num_features: int) -> np.ndarray:
    """Returns the permutation of a task; task 0 leaves all in place."""
    if index == 0:
        return np.arange(num_features)
    return np.random.default_rng([seed, index]).permutation(num_features)


def permuted(
    data: Data, config: RunConfig, seed: int, as_bytes: bool = False
) -> list[Task]:
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
            outputs=tuple(range(data.num_classes)),
            batch_size=config.batch_size,
            seed=seed,
            as_bytes=as_bytes,
        )
        for index in range(config.tasks)
    ]


def split(
    data: Data, config: RunConfig, seed: int, as_bytes: bool = False
) -> list[Task]:
    """Split MNIST, or any images: a task is a few classes, in their order.

    In the task and the class scenario every class has an output of its own;
    in the domain scenario the classes of a task share theirs with the other
    tasks, by their place in the task (Zenke, Poole & Ganguli 2017, sections
    4.1 and 4.3; van de Ven & Tolias 2018).
    """
    check_tasks(config, data.num_classes)
    size = config.classes_per_task
    tasks = []
    for index in range(config.tasks):
        first = index * size
        lowest = 0 if config.scenario == "domain" else first
        train, test = (
            Examples.of(_of_classes(part, first, size, lowest))
            for part in (data.train, data.test)
        )
        if not len(train) or not len(test):
            raise OptionError(
                "--tasks",
                f"there are no examples of the classes {first} to "
                f"{first + size - 1} of {data.name} to train on and to test "
                f"on; leave out task {index + 1}",
            )
        tasks.append(
            Task(
                index=index,
                train_examples=train,
                test_examples=test,
                permutation=np.arange(train.images.shape[1]),
                outputs=tuple(range(lowest, lowest + size)),
                batch_size=config.batch_size,
                seed=seed,
                as_bytes=as_bytes,
            )
        )
    return tasks


def _of_classes(part: Split, first: int, size: int, lowest: int) -> Split:
    """Returns the examples of some classes, labelled from `lowest` up."""
    chosen = (part.labels >= first) & (part.labels < first + size)
    return Split(part.images[chosen], part.labels[chosen] - first + lowest)


def tasks(
    data: Data, config: RunConfig, seed: int, as_bytes: bool = False
) -> list[Task]:
    """Returns the tasks of the configured benchmark."""
    splits = BENCHMARKS[config.benchmark].splits_classes
    return (split if splits else permuted)(data, config, seed, as_bytes)
