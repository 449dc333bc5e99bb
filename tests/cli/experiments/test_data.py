"""Data comes through TFDS: embedded, from a folder, or not at all."""

import json
import os
import socket
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds
from click.testing import CliRunner
from keras_si_cli import main
from keras_si_cli.errors import OptionError, RunError
from keras_si_cli.experiments import data
from keras_si_cli.results import figures


@pytest.fixture
def no_network(monkeypatch):
    def refuse(address, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(urllib.request, "getproxies", dict)


def test_the_embedded_mnist_is_whole():
    mnist = data.load("mnist")
    assert mnist.num_classes == 10
    assert mnist.train.images.shape == (60000, 28, 28, 1)
    assert mnist.test.images.shape == (10000, 28, 28, 1)
    assert mnist.train.images.dtype == np.uint8
    assert mnist.train.labels.dtype == np.int32
    assert np.bincount(mnist.train.labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    # The first image of each split, by the sum of its bytes, and the whole.
    assert mnist.train.images.max() == 255
    assert mnist.train.images.mean() == pytest.approx(33.3184, abs=1e-4)
    assert mnist.test.images.mean() == pytest.approx(33.7912, abs=1e-4)


def test_a_data_dir_is_looked_in(tmp_path):
    tfds.testing.DummyMnist(data_dir=tmp_path).download_and_prepare()
    dummy = data.load("dummy_mnist", tmp_path)
    assert len(dummy.train) == len(dummy.test) == 20
    assert dummy.train.images.shape == (20, 28, 28, 1)


def test_a_run_takes_its_images_from_the_data_dir(tmp_path, monkeypatch):
    """Those of a dataset that is nowhere else, and TFDS knows no code of."""
    folder, output = tmp_path / "images", tmp_path / "out"
    tfds.testing.DummyMnist(data_dir=folder).download_and_prepare()
    monkeypatch.setattr(figures, "write_figures", lambda *args: None)
    result = CliRunner().invoke(
        main.main,
        [
            *("run", "pmnist", "--dataset", "dummy_mnist"),
            *("--data-dir", os.fspath(folder), "--output", os.fspath(output)),
            *("--tasks", "1", "--hidden", "4", "--method", "naive"),
        ],
    )
    assert result.exit_code == 0, result.output
    written = json.loads((output / "results.json").read_text())
    checksum = data.load("dummy_mnist", folder).checksum
    assert written["versions"]["data"] == checksum


def test_a_data_dir_comes_before_the_embedded_copy(tmp_path, no_network):
    with pytest.raises(RunError, match=str(tmp_path)):
        data.load("mnist", tmp_path)


def test_what_cannot_be_downloaded_is_said_in_one_line(tmp_path, no_network):
    with pytest.raises(RunError) as caught:
        data.load("fashion_mnist", tmp_path)
    message = str(caught.value)
    assert "'fashion_mnist'" in message
    assert str(tmp_path) in message
    assert "no connection to fashion-mnist" in message
    assert "--data-dir" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "name, expected",
    [
        ("mnits", "did you mean mnist"),
        ("zzzzzzzz", "check the name"),
        ("/", "'/'"),
        ("imdb_reviews", "not an image classification dataset"),
        ("coco", "not an image classification dataset"),
        ("imagenet2012", r"no fixed size \(shape \(None, None, 3\)\)"),
        ("emnist/nope", "cannot be opened"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_download(
    name, expected, tmp_path, no_network
):
    with pytest.raises(OptionError, match=f"--dataset: .*{expected}") as caught:
        data.load(name, tmp_path)
    assert "\n" not in str(caught.value)
