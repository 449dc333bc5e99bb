"""The nets: their shapes, where they start, and what they are told."""

import types

import keras
import numpy as np
import pytest
from keras_si_cli.experiments import config, nets

from keras_si import SICallback

# The first weight of each kernel, with seed 5.
INITIAL = [0.4464886189, 0.9454464912, -0.2388230860]
OPTIONS = types.SimpleNamespace(learning_rate=0.01, jit=False)


def make_config(benchmark="pmnist", preset="quick", **given):
    return config.resolve(benchmark, preset, {"jit": False, **given})


def test_the_initial_weights_do_not_change_from_version_to_version():
    # Recorded results hold for these weights, and for no others.
    keras.utils.set_random_seed(5)
    net = nets.build(make_config(hidden=(3, 2)), (2, 2, 1), 10)
    kernels = [w for w in net.get_weights() if w.ndim == 2]
    assert [k.shape for k in kernels] == [(4, 3), (3, 2), (2, 10)]
    np.testing.assert_allclose(
        [kernel[0, 0] for kernel in kernels], INITIAL, rtol=1e-6
    )


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_bytes_become_float32_features_from_0_to_1(precision):
    keras.config.set_dtype_policy(precision)
    pixels = np.arange(256, dtype="uint8").reshape(1, 256)
    features = nets.ToFeatures()(pixels)
    assert keras.backend.standardize_dtype(features.dtype) == "float32"
    features = keras.ops.convert_to_numpy(features)
    # The product with the float32 number next to 1 / 255, exactly.
    exact = [float(np.float32(1 / 255)) * byte for byte in range(256)]
    np.testing.assert_array_equal(features[0], np.float32(exact))
    assert (features[0, 0], features[0, 255]) == (0, 1)


def test_the_dense_net_of_the_paper():
    net = nets.build(make_config("smnist", "paper"), (28, 28, 1), 10)
    shapes = [tuple(w.shape) for w in net.trainable_variables]
    assert shapes[::2] == [(784, 256), (256, 256), (256, 10)]
    # Output weights at zero: it begins with equal probabilities.
    assert keras.backend.standardize_dtype(net.inputs[0].dtype) == "uint8"
    x = np.ones((1, 784), "uint8")
    np.testing.assert_array_equal(net(x), np.zeros((1, 10)))


def test_the_convolutional_net_of_the_paper():
    net = nets.build(make_config("scifar", "paper"), (32, 32, 3), 60)
    shapes = [tuple(w.shape) for w in net.trainable_variables]
    assert shapes[::2] == [
        *((3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64), (3, 3, 64, 64)),
        # 32 -> 32 -> 30 -> 15 -> 15 -> 13 -> 6: the second of each pair of
        # convolutions does not pad.
        (6 * 6 * 64, 512),
        (512, 60),
    ]
    rates = [each.rate for each in net.layers if hasattr(each, "rate")]
    assert rates == [0.25, 0.25, 0.5]
    x = np.ones((1, 3072), "uint8")
    np.testing.assert_array_equal(net(x), np.zeros((1, 60)))


@pytest.mark.parametrize(
    "benchmark, scenario, masked",
    [
        ("pmnist", "domain", False),
        ("smnist", "domain", False),
        ("smnist", "task", True),
        ("smnist", "class", True),
    ],
)
def test_only_nets_that_need_it_have_a_mask(benchmark, scenario, masked):
    made = make_config(benchmark, scenario=scenario, hidden=(3,))
    net = nets.build(made, (2, 2, 1), 4)
    nets.set_active_outputs(net, (2, 3))
    for variable in net.trainable_variables:
        variable.assign(keras.ops.zeros(variable.shape))
    logits = net(np.ones((1, 4), "uint8"))
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))[0]
    expected = [0, 0, 0.5, 0.5] if masked else [0.25] * 4
    np.testing.assert_allclose(probabilities, expected)


def test_mixed_tasks_are_compared_within_each_task_alone():
    """By hand: -log softmax over the label's own pair of outputs."""
    loss = nets._within_tasks(
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        [(0, 1), (2, 3)],
    )
    third = np.log(3.0)
    logits = np.array([[0.0, third, 50.0, 9.0], [50.0, 9.0, third, 0.0]])
    labels = np.array([[1], [3]])
    # (0, log 3) gives (1/4, 3/4): the losses are log 4/3 and log 4.
    expected = (np.log(4 / 3) + np.log(4)) / 2
    assert float(loss(labels, logits.astype("float32"))) == pytest.approx(
        expected, rel=1e-6
    )


def test_the_accuracy_of_mixed_tasks_is_that_within_each_task():
    """It is what the display shows while `joint` trains."""
    net = keras.Sequential([keras.Input((4,)), keras.layers.Identity()])
    nets.compile_classifier(net, OPTIONS, [(0, 1), (2, 3)])
    # The largest logit is another task's, but for the last example.
    logits = [[0, 3, 9, 8], [3, 0, 8, 9], [9, 8, 0, 3], [0, 1, 9, 8]]
    labels = np.array([1, 1, 3, 2])
    logs = net.evaluate(
        np.array(logits, "float32"), labels, verbose=0, return_dict=True
    )
    assert logs["accuracy"] == 0.75


def small_model():
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    return nets.compile_classifier(net, OPTIONS)


def fit(net, *callbacks):
    x, y = np.array([[1.0, 2.0], [3.0, -1.0]], "float32"), np.array([0, 2])
    net.fit(x, y, epochs=3, verbose=0, callbacks=callbacks)


def test_a_reset_optimizer_steps_like_a_new_one_and_si_keeps_its_importance():
    net, si = small_model(), SICallback(strength=0.0)
    fit(net, si)
    importance = si.get_importance()
    assert max(array.max() for array in importance.values()) > 0
    train_function = net.train_function
    fresh = small_model()
    fresh.set_weights(net.get_weights())
    nets.reset_optimizer(net)
    fit(net, si)
    fit(fresh)
    assert net.train_function is train_function  # Nothing is traced again.
    for one, other in zip(net.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    for path, array in si.get_importance().items():
        assert (array >= importance[path]).all(), path
    assert float(net.optimizer.learning_rate) == pytest.approx(0.01)
