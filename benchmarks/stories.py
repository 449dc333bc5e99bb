"""The two stories of `protect.py`: their data, tasks and nets."""

import dataclasses

# Sets the environment before Keras is imported.
import step_time  # noqa: F401  # isort: skip
import keras
import numpy as np
from keras import layers
from keras_si_cli.experiments import data as datasets
from keras_si_cli.experiments import nets, tasks

from keras_si import OutputMask


@dataclasses.dataclass(frozen=True)
class Story:
    """What is measured; `guesses` are where the searches for c begin."""

    dataset: str
    batch_size: int
    guesses: dict[str, float]
    epochs: int = 5
    samples: int = 1000
    seeds: int = 3
    precision: str = "mixed_bfloat16"
    hidden: tuple[int, ...] = (2000, 2000)
    images: int | None = None
    tries: int = 8

    def quick(self):
        """Returns the same in seconds: it shows nothing."""
        small = {"epochs": 1, "samples": 20, "seeds": 1, "tries": 1}
        return dataclasses.replace(self, images=400, hidden=(16,), **small)


STORIES = {
    "mnist": Story("mnist", 256, {"l2": 1e-3, "fisher": 1e3, "si": 10.0}),
    "cifar10": Story("cifar10", 128, {"l2": 1e-2, "fisher": 1e3, "si": 10.0}),
}


def two_tasks(story, data, seed):
    """Returns A and B."""
    permuted = story.dataset == "mnist"
    pixels = data.train.images[0].size

    def examples(split, labels):
        chosen = np.flatnonzero(np.isin(split.labels, labels))[: story.images]
        return tasks.Examples.of(
            datasets.Split(split.images[chosen], split.labels[chosen])
        )

    def task(index, outputs):
        return tasks.Task(
            index,
            examples(data.train, outputs),
            examples(data.test, outputs),
            tasks.pixel_permutation(seed, index if permuted else 0, pixels),
            outputs,
            story.batch_size,
            seed,
        )

    if permuted:
        return task(0, tuple(range(10))), task(1, tuple(range(10)))
    return task(0, (0, 1, 2, 3)), task(1, (4, 5, 6, 7))


def new_net(story, image_shape):
    """Returns a net with a new optimizer, Adam."""
    # So that the variables of every net have the same paths.
    keras.backend.clear_session()
    # After that, which forgets the policy too.
    keras.config.set_dtype_policy(story.precision)
    pixels = int(np.prod(image_shape))
    net = keras.Sequential([keras.Input((pixels,), dtype="uint8")])
    net.add(nets.ToFeatures())
    if story.dataset == "mnist":
        for units in story.hidden:
            net.add(layers.Dense(units, activation="relu"))
        net.add(layers.Dense(10, dtype="float32"))
    else:
        net.add(layers.Reshape(image_shape))
        for filters in (32, 64, 64):
            net.add(layers.Conv2D(filters, 3, activation="relu"))
            net.add(layers.MaxPooling2D())
        net.add(layers.Flatten())
        net.add(layers.Dense(128, activation="relu"))
        net.add(layers.Dense(8, dtype="float32"))
        net.add(OutputMask(dtype="float32"))
    net.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return net
