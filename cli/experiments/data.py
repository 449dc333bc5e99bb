"""Dataset name -> arrays, through TensorFlow Datasets (TFDS) alone.

The only file that knows where data comes from. MNIST is embedded in the
package, as a TFDS `data_dir` like any other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from ..errors import OptionError, RunError
from ..files import Path

EMBEDDED = pathlib.Path(__file__).parents[1] / "datasets"


@dataclasses.dataclass(frozen=True)
class Split:
    """Images `(n, height, width, channels)` uint8, labels `(n,)` int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Data:
    """An image classification dataset in memory."""

    name: str
    num_classes: int
    train: Split
    test: Split

    def padded(self, count: int) -> Data:
        """Returns the data with `count` pixels of 0 around each image."""
        if count == 0:
            return self
        around = ((0, 0), (count, count), (count, count), (0, 0))
        train, test = (
            Split(np.pad(split.images, around), split.labels)
            for split in (self.train, self.test)
        )
        return dataclasses.replace(self, train=train, test=test)

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of all images and labels."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for array in (split.images, split.labels):
                digest.update(repr((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
        return f"sha256:{digest.hexdigest()}"


def load(name: str, data_dir: Path | None = None) -> Data:
    """Loads the train and test splits of an image classification dataset.

    Looks in `data_dir` if given; else in the package's own data, if it has
    the dataset; else in TFDS's folder (`TFDS_DATA_DIR`, or
    `~/tensorflow_datasets`). What is not prepared there is downloaded to it.
    """
    if data_dir is None and (EMBEDDED / re.split(r"\W", name)[0]).is_dir():
        data_dir = EMBEDDED
    builder = _builder(name, data_dir)
    image, label = _keys(name, builder.info)
    if not builder.is_prepared():
        _download(name, builder)
    missing = {"train", "test"} - set(builder.info.splits)
    if missing:
        raise OptionError(
            "--dataset",
            f"{name!r} has no {' and no '.join(sorted(missing))} split, only "
            f"{', '.join(builder.info.splits)}; choose a dataset with both",
        )
    splits = builder.as_dataset(split=["train", "test"], batch_size=-1)
    train, test = (
        Split(columns[image], columns[label].astype("int32"))
        for columns in tfds.as_numpy(splits)
    )
    if any(len(s) == 0 or s.labels.min() < 0 for s in (train, test)):
        raise OptionError(
            "--dataset",
            f"{name!r} has a split with no labels; choose a dataset whose "
            "train and test splits are labelled",
        )
    return Data(name, builder.info.features[label].num_classes, train, test)


def load_all(
    names: Sequence[str], data_dir: Path | None = None, held_out: bool = False
) -> Data:
    """Loads datasets and joins them: the classes of one after the other's.

    With `held_out`, a part of each training set is put in place of the test
    set, which is not looked at.
    """
    parts = [load(name, data_dir) for name in names]
    if held_out:
        parts = [_without_test(part) for part in parts]
    return functools.reduce(_joined, parts)


def _without_test(data: Data) -> Data:
    """Returns the training data alone, the last sixth of it as the test set.

    Of MNIST that is 10,000 images. TFDS has shuffled the examples when it
    prepared the dataset.
    """
    count = len(data.train) - len(data.train) // 6
    train, test = (
        Split(data.train.images[part], data.train.labels[part])
        for part in (slice(count), slice(count, None))
    )
    return dataclasses.replace(data, train=train, test=test)


def _joined(one: Data, other: Data) -> Data:
    train, test = (
        Split(
            np.concatenate([a.images, b.images]),
            np.concatenate([a.labels, b.labels + np.int32(one.num_classes)]),
        )
        for a, b in ((one.train, other.train), (one.test, other.test))
    )
    return Data(
        f"{one.name}+{other.name}",
        one.num_classes + other.num_classes,
        train,
        test,
    )


def _builder(name: str, data_dir: Path | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        where = data_dir or os.environ.get("TFDS_DATA_DIR")
        raise OptionError(
            "--dataset",
            f"TensorFlow Datasets knows no {name!r} and none is prepared in "
            f"{where or '~/tensorflow_datasets'}: check the name",
        ) from None
    except Exception as error:
        # TFDS raises what the builders raise: configurations that do not
        # exist, packages that are missing, files that are damaged.
        raise OptionError(
            "--dataset", f"{name!r} cannot be opened: {_first_line(error)}"
        ) from error


def _keys(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Returns the keys of image and label, or refuses the dataset."""
    image, label = (
        [key for key, feature in info.features.items() if type(feature) is kind]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    # A dataset with several of them says what is to be learned from what.
    keys = info.supervised_keys or (*image, *label)
    if len(keys) != 2 or keys[0] not in image or keys[1] not in label:
        problem = "is not an image classification dataset"
    elif None in (shape := info.features[keys[0]].shape):
        problem = f"has images of no fixed size (shape {shape})"
    elif (dtype := info.features[keys[0]].dtype) != np.uint8:
        problem = f"has images of {np.dtype(dtype)}"
    else:
        return keys[0], keys[1]
    raise OptionError(
        "--dataset",
        f"{name!r} {problem}; choose one with 8-bit images of one size and a "
        "class label, such as mnist or fashion_mnist",
    )


def _download(name: str, builder: tfds.core.DatasetBuilder) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        # TFDS prints what it does to the standard output, which is ours.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config)
    except Exception as error:
        raise RunError(
            f"{name!r} is not prepared in {builder.data_dir}, and cannot be "
            f"downloaded ({_first_line(error)}); on a machine with network "
            f"run `tfds build {name}` and give its data folder here with "
            "--data-dir"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
