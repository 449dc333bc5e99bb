"""Tasks that split the classes, and several tasks mixed in one stream."""

import json
import math
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from click.testing import CliRunner
from keras_si_cli import main
from keras_si_cli.errors import OptionError
from keras_si_cli.experiments import data, pixels, task
from keras_si_cli.experiments import tasks as tasks_module
from keras_si_cli.results import figures

# Image i is filled with the number i.
LABELS = np.array([4, 0, 1, 2, 3, 5, 0, 2, 4, 1], "int32")
IMAGES = np.repeat(np.arange(10, dtype="uint8"), 4).reshape(10, 2, 2, 1)


def six_classes():
    train = data.Split(IMAGES, LABELS)
    test = data.Split(IMAGES[::-1], LABELS[::-1])
    return data.Data("six", 6, train, test)


def make(scenario="task", tasks=3, classes_per_task=2, **given):
    config = types.SimpleNamespace(
        benchmark="smnist",
        scenario=scenario,
        tasks=tasks,
        classes_per_task=classes_per_task,
        batch_size=4,
        dataset="six",
    )
    return tasks_module.tasks(six_classes(), config, seed=0, **given)


def pairs(batches):
    """Which image each row is, and its label."""
    return [
        (int(round(float(x[0]) * 255)), int(y))
        for features, labels in batches
        for x, y in zip(features.numpy(), labels.numpy(), strict=True)
    ]


@pytest.mark.parametrize(
    "scenario, labels, outputs",
    [
        ("task", [(0, 1), (2, 3), (4, 5)], [(0, 1), (2, 3), (4, 5)]),
        ("class", [(0, 1), (2, 3), (4, 5)], [(0, 1), (2, 3), (4, 5)]),
        ("domain", [(0, 1), (0, 1), (0, 1)], [(0, 1), (0, 1), (0, 1)]),
    ],
)
def test_each_task_has_its_classes_and_no_other(scenario, labels, outputs):
    tasks = make(scenario)
    assert [each.outputs for each in tasks] == outputs
    # By class, from `LABELS`: which images show the first and the second.
    images = [((1, 6), (2, 9)), ((3, 7), (4,)), ((0, 8), (5,))]
    for each, (low, high), (first, second) in zip(
        tasks, labels, images, strict=True
    ):
        expected = {(i, low) for i in first} | {(i, high) for i in second}
        assert set(pairs(each.train(epochs=1))) == expected
        # The test set is in its own order, which is here the reverse.
        assert pairs(each.test()) == sorted(expected, reverse=True)


def test_tasks_may_have_more_than_two_classes():
    first, second = make(tasks=2, classes_per_task=3)
    assert first.outputs == (0, 1, 2)
    assert {label for _, label in pairs(second.test())} == {3, 4, 5}


def test_more_tasks_than_classes_are_refused():
    with pytest.raises(OptionError, match="--tasks: received 4, .* most 3"):
        make(tasks=4)


def test_a_union_holds_every_example_of_every_task_once_an_epoch():
    tasks = make()
    union = task.Union(tuple(tasks[:2]))
    assert union.outputs == (0, 1, 2, 3)
    assert union.steps_per_epoch == 2  # 4 + 3 examples, batches of 4
    got = pairs(union.train(epochs=2))
    expected = sorted(p for each in tasks[:2] for p in pairs(each.test()))
    assert sorted(got[:7]) == sorted(got[7:]) == expected
    assert got[:7] != got[7:]
    # The tasks are mixed, and an epoch can be made alone.
    assert {label > 1 for _, label in got[:4]} == {True, False}
    assert pairs(union.train(epochs=1, first_epoch=1)) == got[7:]


def test_a_union_of_one_task_is_that_task():
    (first, *_) = make()
    union = task.Union((first,))
    assert pairs(union.train(2)) == pairs(first.train(2))


@pytest.mark.parametrize("as_bytes", [False, True])
def test_in_a_union_every_example_has_its_own_tasks_permutation(as_bytes):
    images = np.arange(40, dtype="uint8").reshape(10, 2, 2, 1)
    split = data.Split(images, np.arange(10, dtype="int32"))
    config = types.SimpleNamespace(benchmark="pmnist", tasks=3, batch_size=7)
    tasks = tasks_module.tasks(
        data.Data("ten", 10, split, split), config, seed=0, as_bytes=as_bytes
    )
    expected = sorted(
        (label, *images[label].ravel()[each.permutation])
        for each in tasks
        for label in range(10)
    )
    union = task.Union(tuple(tasks))
    scale = 1 if as_bytes else pixels.SCALE
    got = [
        (label, *np.rint(row / scale).astype(int))
        for x, y in union.train(epochs=1)
        for row, label in zip(x.numpy(), y.numpy(), strict=True)
    ]
    assert sorted(got) == expected
    np.testing.assert_array_equal(union.permutation, np.arange(4))


def test_no_pipeline_leaves_a_thread_to_wait_for():
    """tf.data's autotuning has one, which the end of each `fit` waits for."""
    tasks = make()
    for pipeline in (
        tasks[0].train(epochs=1),
        tasks[0].test(),
        task.Union(tuple(tasks)).train(epochs=1),
    ):
        assert pipeline.options().autotune.enabled is False


def test_examples_that_tasks_share_are_stored_once():
    shared = make()[0]
    again = tasks_module.Task(**{**vars(shared), "index": 1})
    images, _, offsets = task.Union((shared, again))._stored()
    assert images is shared.train_examples.images
    assert offsets == [0, -4]


def test_cifar_100_follows_cifar_10(monkeypatch, tmp_path):
    """As TFDS describes them, with made-up images."""
    # There is nothing to be prepared, and so no splits that could be listed.
    monkeypatch.setattr(data, "_download", lambda name, builder: None)
    monkeypatch.setattr(data, "_check_splits", lambda name, info: None)
    load = tfds.load

    def in_one_batch(*args, batch_size, **kwargs):
        parts = load(*args, batch_size=60, **kwargs)  # -1 ends the mock.
        return [next(iter(part)) for part in parts]

    monkeypatch.setattr(data.tfds, "load", in_one_batch)
    policy = tfds.testing.MockPolicy.USE_CODE
    with tfds.testing.mock_data(num_examples=60, policy=policy):
        one, other = (
            data.load(name, tmp_path) for name in ("cifar10", "cifar100")
        )
        both = data.load_all(["cifar10", "cifar100"], tmp_path)
    assert (one.num_classes, other.num_classes) == (10, 100)
    assert (both.name, both.num_classes) == ("cifar10+cifar100", 110)
    for part in ("train", "test"):
        joined = getattr(both, part)
        first, second = getattr(one, part), getattr(other, part)
        assert joined.images.shape == (120, 32, 32, 3)
        np.testing.assert_array_equal(joined.labels[:60], first.labels)
        np.testing.assert_array_equal(joined.labels[60:], second.labels + 10)
        np.testing.assert_array_equal(joined.images[60:], second.images)
    # The paper's tasks: CIFAR-10, then tens of CIFAR-100 in their order.
    config = types.SimpleNamespace(
        benchmark="scifar",
        scenario="task",
        tasks=6,
        classes_per_task=10,
        batch_size=4,
        dataset=both.name,
    )
    tasks = tasks_module.split(both, config, seed=0)
    assert [each.outputs[0] for each in tasks] == [0, 10, 20, 30, 40, 50]
    assert len(tasks[0].train_examples) == 60
    tens = np.bincount(other.train.labels // 10, minlength=10)
    assert [len(t.train_examples) for t in tasks[1:]] == tens[:5].tolist()


def one_image_of_each_class(name, data_dir):
    """Returns what takes the place of CIFAR-10 and CIFAR-100."""
    count = {"cifar10": 10, "cifar100": 100}[name]
    images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3))
    split = data.Split(images.astype("uint8"), np.arange(count, dtype="int32"))
    return data.Data(name, count, split, split)


def test_images_too_small_for_the_convolutions_are_refused(
    monkeypatch, tmp_path
):
    def small(name, data_dir):
        made = one_image_of_each_class("cifar10", data_dir)
        split = data.Split(made.train.images[:, :7, :9], made.train.labels)
        return data.Data(name, 10, split, split)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", small)
    result = CliRunner().invoke(
        main.main,
        [
            *("run", "scifar", "--dataset", "cifar10", "--padding", "1"),
            *("--tasks", "5", "--output", "out"),
        ],
    )
    assert result.exit_code == 2
    assert (
        "--dataset: its images are 9x11 pixels, expected 10x10 or more for the "
        "convolutional net; put black pixels around them with --padding 2"
    ) in result.stderr
    assert list(tmp_path.glob("out/*")) == []


def test_a_run_of_the_papers_six_tasks(monkeypatch, tmp_path):
    """One step a task: the loss is that of ten outputs that know nothing."""
    heard = []

    def listen(name):
        original = getattr(keras.Sequential, name)

        def heard_too(model, *args, **kwargs):
            got = original(model, *args, **kwargs)
            assert model.output_shape == (None, 60)
            loss = got.history["loss"][0] if name == "fit" else None
            heard.append((name, tuple(model.layers[-1].active), loss))
            return got

        monkeypatch.setattr(keras.Sequential, name, heard_too)

    listen("fit")
    listen("evaluate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", one_image_of_each_class)
    monkeypatch.setattr(figures, "write_figures", lambda *args: None)
    result = CliRunner().invoke(
        main.main,
        [
            *("run", "scifar", "--preset", "paper", "--method", "si"),
            *("--steps", "1", "--batch-size", "10", "--hidden", "8"),
            *("--no-jit", "--output", "out"),
        ],
    )
    assert result.exit_code == 0, result.output
    tens = [tuple(range(first, first + 10)) for first in range(0, 60, 10)]
    fits = [call[1:] for call in heard if call[0] == "fit"]
    assert [active for active, _ in fits] == tens
    # The output weights start at zero, and those of later tasks stay there.
    assert [loss for _, loss in fits] == pytest.approx([math.log(10)] * 6)
    # The untrained net; then the tasks met, and the next one.
    rows = [tens[: after + 2] for after in range(6)]
    assert [active for name, active, _ in heard if name == "evaluate"] == [
        *tens[1:],
        *(ten for row in rows for ten in row),
    ]
    (run,) = json.loads(pathlib.Path("out/results.json").read_text())["trials"]
    accuracy = np.array(run["accuracy"], "float64")  # null is NaN.
    assert accuracy.shape == (6, 6)
    measured = np.arange(6)[:, None] + 1 >= np.arange(6)
    np.testing.assert_array_equal(np.isfinite(accuracy), measured)
    # Of ten equal outputs the first is named: one class, so one image, in ten.
    after_each, following = np.arange(5), np.arange(1, 6)
    assert accuracy[after_each, following] == pytest.approx([0.1] * 5)
    assert run["untrained_accuracy"] == [None, *[pytest.approx(0.1)] * 5]


def test_datasets_of_different_shapes_are_not_joined():
    small = six_classes()
    large = data.Split(np.zeros((2, 3, 3, 1), "uint8"), LABELS[:2])
    with pytest.raises(OptionError, match=r"\(2, 2, 1\).*\(3, 3, 1\)"):
        data._joined(small, data.Data("large", 6, large, large))
