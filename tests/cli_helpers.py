"""What several test files of the command line share."""

import pathlib
import zlib

import keras
import numpy as np
from click.testing import CliRunner
from keras_si_cli import files, main
from keras_si_cli.experiments import config, data, nets
from keras_si_cli.results import figures
from keras_si_cli.training import method_run, progress


def invoke(*args):
    """Calls `keras-si` in this process."""
    return CliRunner().invoke(main.main, args)


def few_images():
    """Two classes that any net tells apart: dark above, or dark below."""
    rng = np.random.default_rng(0)
    labels = np.arange(300, dtype="int32") % 2
    images = rng.integers(0, 80, (300, 6, 6, 1), "uint8")
    images[labels == 0, :3] += 120
    images[labels == 1, 3:] += 120
    split = data.Split(images, labels)
    test = data.Split(images[:100], labels[:100])
    return data.Data("few", 2, split, test)


def bright_rows(name, data_dir=None):
    """Ten classes: the brighter row of an image says which."""
    rng = np.random.default_rng(0)
    labels = np.arange(300, dtype="int32") % 10
    images = rng.integers(0, 80, (300, 12, 12, 1), "uint8")
    images[np.arange(300), labels] += 120
    split = data.Split(images, labels)
    return data.Data(name, 10, split, split)


def within_epoch(model):
    """Returns the model, whose variables JAX keeps elsewhere meanwhile."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
    return model


def make_eager(monkeypatch):
    """For tests of many runs: nothing is traced."""
    compile_classifier = nets.compile_classifier

    def compile_eagerly(*args):
        model = compile_classifier(*args)
        model.run_eagerly = True
        return model

    monkeypatch.setattr(nets, "compile_classifier", compile_eagerly)


def make_short(monkeypatch):
    """For tests of many runs, which are about what is trained and written.

    Nothing is traced; an accuracy is a checksum of the weights, which one bit
    of them changes; a figure is a line of text.
    """

    def accuracy(model, task):
        weights = b"".join(w.tobytes() for w in model.get_weights())
        return zlib.crc32(weights) / 2**32

    def figure(results, folder):
        path = pathlib.Path(folder) / "average_accuracy.svg"
        files.write_atomically(path, f"{results.methods}".encode())

    make_eager(monkeypatch)
    monkeypatch.setattr(method_run, "_accuracy", accuracy)
    monkeypatch.setattr(figures, "write_figures", figure)


def make_config(benchmark="pmnist", preset="quick", **given):
    """Returns a small configuration, for `few_images`."""
    small = {
        "methods": ("naive",),
        "jit": False,
        "tasks": 2,
        "epochs": 1,
        "hidden": (8,),
        "batch_size": 100,
        "learning_rate": 1e-3,
    }
    return config.resolve(benchmark, preset, {**small, **given})


class StopAt(progress.Progress):
    """Presses Ctrl-C at the n-th training step, counted over everything."""

    def __init__(self, step):
        super().__init__(quiet=True)
        self.left = step

    def step(self, epoch, logs, share):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
