# %% [markdown]
# # The figure, step by step
#
# A small net learns four tasks, one after another, and is tested on all that
# it has met after each of them: once with plain training, once with Synaptic
# Intelligence (Zenke, Poole & Ganguli, ICML 2017). This file is a script, and
# a notebook in editors that know `# %%` cells (VS Code, PyCharm, Jupytext).
# `keras-si run pmnist` is the same in full size.

# %%
import importlib.resources
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow_datasets as tfds

from keras_si import SICallback, metrics

TASKS = 4

# %% [markdown]
# ## The data
#
# The MNIST that keras-si brings along is a data folder of TensorFlow Datasets.
# A part of it will do.


# %%
def load(split):
    """Returns images as rows of 784 numbers from 0 to 1, and their labels."""
    images, labels = tfds.as_numpy(
        tfds.load(
            "mnist",
            split=split,
            data_dir=importlib.resources.files("keras_si_cli") / "datasets",
            batch_size=-1,
            as_supervised=True,
        )
    )
    return images.reshape(-1, 784).astype("float32") / 255, labels


x, y = load("train[:6000]")
x_test, y_test = load("test[:2000]")

# %% [markdown]
# ## The tasks
#
# Permuted MNIST: every task shuffles the 784 pixels in its own way, the same
# for all of its images. The first task is MNIST itself. To a net without
# convolutions the tasks are equally hard, and have next to nothing in common.

# %%
rng = np.random.default_rng(0)
permutations = [np.arange(784)]
permutations += [rng.permutation(784) for _ in range(TASKS - 1)]


# %% [markdown]
# ## The net
#
# Ordinary Keras, and nothing in it knows of SI. The same seed gives both
# methods the same initial weights.


# %%
def make_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(200, activation="relu"),
            keras.layers.Dense(200, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


# %% [markdown]
# ## Task after task
#
# One `fit` is one task. After each, the test accuracy of every task met so far
# fills a row of the accuracy matrix: `accuracy[i, j]` is measured after task
# i, on task j. The only difference between the methods is the callback.
#
# `strength` is c of the paper: how much the old tasks count against the new
# one. The paper's 0.1 goes with 20 epochs a task; with two epochs less
# importance gathers, and more strength is wanted.


# %%
def run(callbacks):
    model = make_model()
    accuracy = np.full((TASKS, TASKS), np.nan)
    for i, permutation in enumerate(permutations):
        model.fit(
            x[:, permutation],
            y,
            batch_size=100,
            epochs=2,
            callbacks=callbacks,
            verbose=0,
        )
        for j, seen in enumerate(permutations[: i + 1]):
            accuracy[i, j] = model.evaluate(
                x_test[:, seen], y_test, batch_size=500, verbose=0
            )[1]
    return accuracy


results = {"SI": run([SICallback(strength=10.0)]), "naive": run([])}

# %% [markdown]
# ## What came of it
#
# The average accuracy is the mean over the tasks met so far: the mean of the
# matrix's row, up to the diagonal. Forgetting is how far the earlier tasks
# fell from their best.

# %%
for name, accuracy in results.items():
    print(
        f"{name}: average accuracy {metrics.average_accuracy(accuracy):.1%}, "
        f"forgetting {metrics.forgetting(accuracy):.1%}"
    )

# %% [markdown]
# ## The figure

# %%
numbers = range(1, TASKS + 1)
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for name, accuracy in results.items():
    averages = [
        metrics.average_accuracy(accuracy, after=task) for task in range(TASKS)
    ]
    axes.plot(numbers, averages, marker="o", label=name)
axes.set(
    xlabel="tasks learned",
    ylabel="average accuracy on them",
    xticks=numbers,
    title="Permuted MNIST, a small net",
)
axes.yaxis.set_major_formatter("{x:.0%}")
axes.grid(alpha=0.3)
axes.legend()
figure.savefig("the_figure.png", dpi=150)
print("drawn: the_figure.png")
