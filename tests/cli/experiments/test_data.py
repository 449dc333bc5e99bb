"""Data comes through TFDS: embedded, from a folder, or not at all."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from cli_helpers import make_config, make_short
from keras_si_cli.errors import OptionError, RunError
from keras_si_cli.experiments import data
from keras_si_cli.experiments import tasks as tasks_module
from keras_si_cli.training import runner


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network\nat all")

    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", refuse
    )


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
    assert mnist.train.images.max() == 255
    assert mnist.train.images.mean() == pytest.approx(33.3184, abs=1e-4)
    assert mnist.test.images.mean() == pytest.approx(33.7912, abs=1e-4)


def test_a_run_takes_its_images_from_the_data_dir(tmp_path, monkeypatch):
    """Those of a dataset that is nowhere else, and TFDS knows no code of."""
    make_short(monkeypatch)
    folder = tmp_path / "images"
    tfds.testing.DummyMnist(data_dir=folder).download_and_prepare()
    config = make_config(dataset="dummy_mnist", data_dir=folder, tasks=1)
    dummy = data.load("dummy_mnist", folder)
    assert runner.run(config).versions["data"] == dummy.checksum
    assert len(dummy.train) == len(dummy.test) == 20
    assert dummy.train.images.shape == (20, 28, 28, 1)


# A data_dir comes before the embedded copy.
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_what_cannot_be_downloaded_is_said_in_one_line(
    name, tmp_path, no_network
):
    with pytest.raises(RunError) as caught:
        data.load(name, tmp_path)
    assert str(caught.value) == (
        f"'{name}' is not prepared in {tmp_path}/{name}/3.0.1, and cannot be "
        "downloaded (no network); on a machine with network run `tfds build "
        f"{name}` and give its data folder here with --data-dir"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnits", "none is prepared in {}: check the name"),
        ("coco", "not an image classification dataset"),
        ("imagenet2012", r"of no fixed size \(shape \(None, None, 3\)\)"),
        ("emnist/nope", "cannot be opened"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_download(
    name, expected, tmp_path, no_network
):
    expected = expected.format(tmp_path)
    with pytest.raises(OptionError, match=f"--dataset: .*{expected}") as caught:
        data.load(name, tmp_path)
    assert "\n" not in str(caught.value)


def images(count, classes, shape=(2, 2, 1)):
    """Image i is filled with i; its label is i modulo the classes."""
    numbers = np.arange(count, dtype="uint8")
    filled = np.broadcast_to(numbers[:, None, None, None], (count, *shape))
    return data.Split(filled, np.arange(count, dtype="int32") % classes)


def test_held_out_is_the_last_sixth_of_the_training_data(monkeypatch):
    monkeypatch.setattr(
        data,
        "load",
        lambda name, data_dir: data.Data(name, 3, images(20, 3), images(9, 3)),
    )
    found = data.load_all(["some"], held_out=True)
    assert found.train.images[:, 0, 0, 0].tolist() == [*range(17)]
    assert found.test.images[:, 0, 0, 0].tolist() == [17, 18, 19]
    assert found.test.labels.tolist() == [2, 0, 1]


def test_cifar_100_follows_cifar_10(monkeypatch):
    """Their classes one after the other, with made-up images."""
    classes = {"cifar10": 10, "cifar100": 100}

    def load(name, data_dir):
        split = images(200, classes[name], (32, 32, 3))
        return data.Data(name, classes[name], split, split)

    monkeypatch.setattr(data, "load", load)
    both = data.load_all(["cifar10", "cifar100"])
    assert (both.name, both.num_classes) == ("cifar10+cifar100", 110)
    expected = [i % 10 for i in range(200)] + [10 + i % 100 for i in range(200)]
    for part in (both.train, both.test):
        assert part.images.shape == (400, 32, 32, 3)
        assert part.labels.tolist() == expected
    # The paper's tasks: CIFAR-10, then tens of CIFAR-100 in their order.
    tasks = tasks_module.tasks(both, make_config("scifar", tasks=6), seed=0)
    assert [each.outputs[0] for each in tasks] == [0, 10, 20, 30, 40, 50]
    assert [len(each.train_examples) for each in tasks] == [200] + [20] * 5


def test_the_checksum_depends_on_every_image_and_label():
    def checksum(change=None):
        train, test = images(4, 2), images(4, 2)
        train = data.Split(train.images.copy(), train.labels)
        if change is not None:
            part = {"image": train.images, "label": test.labels}[change]
            part[-1] += 1
        return data.Data("some", 2, train, test).checksum

    assert checksum() == checksum()
    assert len({checksum(), checksum("image"), checksum("label")}) == 3
