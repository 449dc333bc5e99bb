"""The importance of a model trained before: closed forms are the oracle."""

import functools
import itertools
import warnings

import keras
import numpy as np
import pytest
from helpers import (
    CROSS_ENTROPY,
    DAMPING,
    STRENGTH,
    assert_close,
    assert_equal,
    assert_matches_oracle,
    assert_near,
    begin,
    fit,
    learn,
    make_oracle,
    only_on,
    reloaded,
    sgd,
    towers,
)
from helpers import compile_eagerly as compile_model
from keras import layers, losses

from keras_si import OutputMask, SICallback, estimation, fisher_importance

estimate = functools.partial(fisher_importance, verbose=0)


def inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def net(*parts, shape=(3,), compiled=False):
    """Returns a model of layers, with weights of which none is 0.

    Unless the estimate is to be compiled, TensorFlow computes it eagerly: for
    a few samples that is faster.
    """
    model = keras.Sequential([keras.Input(shape), *parts])
    if keras.backend.backend() == "tensorflow":
        model.run_eagerly = not compiled
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.dtype in ("float16", "bfloat16", "float32", "float64"):
            values = rng.uniform(0.2, 1, variable.shape)
            if variable.trainable:  # and not a moving variance
                values *= rng.choice([-1, 1], variable.shape)
            variable.assign(values)
    return model


def doubles(model):
    return [np.float64(keras.ops.convert_to_numpy(w)) for w in model.weights]


def softmax(z):
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def expected(model, x, monkeypatch, loss=CROSS_ENTROPY, outputs=3):
    """Returns the mean over all vectors of signs, for each sample alone.

    It is the exact F/2: without noise, so that any bias is seen.
    """
    vectors = [*itertools.product((-1.0, 1.0), repeat=outputs)]
    total = {}
    for sample in x:
        rest = iter(vectors)
        monkeypatch.setattr(
            estimation,
            "_draw_signs",
            lambda rng, shape: np.float32(next(rest)).reshape(shape),  # noqa: B023
        )
        many = np.repeat(sample[None], len(vectors), axis=0)
        for name, value in estimate(model, many, loss).items():
            total[name] = total.get(name, 0.0) + value / len(x)
    return list(total.values())


def of_dense(x, variance):
    """Returns the exact importance of a dense layer's kernel and bias.

    `variance` is what the outputs' Fisher information has on its diagonal, by
    2, for each sample.
    """
    kernel = np.einsum("ni,nk->ik", np.float64(x) ** 2, variance) / len(x)
    return [kernel, variance.mean(axis=0)]


# Closed forms.


def test_linear_regression_has_the_mean_square_of_its_inputs():
    """The mean of x^2 over the number of outputs; the loss is quadratic."""
    x = inputs(20, 3)
    omega = estimate(net(layers.Dense(3)), x, "mse").values()
    assert_close(omega, of_dense(x, np.full((20, 3), 1 / 3)), "importance")


def test_loss_of_a_linear_regression_rises_by_the_importance():
    """F/2 d^2, exactly, where a linear regression is at its optimum."""
    model = net(layers.Dense(2))
    x, y = inputs(30, 3), inputs(30, 2, seed=1)
    with_ones = np.hstack([x, np.ones((30, 1))]).astype("float64")
    solution = np.linalg.lstsq(with_ones, y, rcond=None)[0]
    optimum = [solution[:3], solution[3]]
    model.set_weights(optimum)
    importance = estimate(model, x, "mse").values()

    def loss(weights):
        z = np.float64(x) @ weights[0] + weights[1]
        return ((z - y) ** 2).mean()

    for array, omega in zip(optimum, importance):
        for index in np.ndindex(array.shape):
            before = loss(optimum)
            array[index] += 0.7
            rise = loss(optimum) - before
            array[index] -= 0.7
            np.testing.assert_allclose(omega[index] * 0.7**2, rise, rtol=1e-5)


@pytest.mark.parametrize(("outputs", "from_logits"), [(1, True), (3, False)])
def test_logistic_regression_is_exact_for_any_signs(outputs, from_logits):
    """p (1 - p) x^2 / 2 over the number of outputs: no noise of signs."""
    activation = None if from_logits else "sigmoid"
    model = net(layers.Dense(outputs, activation=activation), compiled=True)
    x = inputs(20, 3)
    loss = losses.BinaryCrossentropy(from_logits=from_logits)
    weights, bias = doubles(model)
    p = sigmoid(x @ weights + bias)
    exact = of_dense(x, p * (1 - p) / 2 / outputs)
    assert_close(estimate(model, x, loss).values(), exact, "importance")


SOFTMAX_LOSSES = {
    "sparse logits": CROSS_ENTROPY,
    "one-hot logits": losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1
    ),
    "sparse": "sparse_categorical_crossentropy",
    "one-hot": losses.CategoricalCrossentropy(),
}


@pytest.mark.parametrize("name", SOFTMAX_LOSSES)
def test_softmax_regression_is_exact_over_all_signs(name, monkeypatch):
    """p (1 - p) x^2 / 2."""
    activation = None if "logits" in name else "softmax"
    model = net(layers.Dense(3, activation=activation))
    x = inputs(2, 3)
    omega = expected(model, x, monkeypatch, SOFTMAX_LOSSES[name])
    weights, bias = doubles(model)
    p = softmax(x @ weights + bias)
    assert_close(omega, of_dense(x, p * (1 - p) / 2), "importance")


def test_classes_on_another_axis_are_exact_over_all_signs(monkeypatch):
    """One random sign for each position and class; the mean of positions."""
    model = net(layers.Dense(6), layers.Reshape((3, 2)))
    x = inputs(1, 3)
    loss = losses.CategoricalCrossentropy(from_logits=True, axis=1)
    omega = expected(model, x, monkeypatch, loss, outputs=6)
    weights, bias = doubles(model)
    p = softmax((x @ weights + bias).reshape(3, 2).T).T.reshape(1, 6)
    assert_close(omega, of_dense(x, p * (1 - p) / 2 / 2), "importance")


def backward(weights, x):
    """Yields p and, for each label, its gradients: a net in NumPy.

    Dense with tanh, BatchNormalization with its moving statistics, logits.
    """
    w1, b1, gamma, beta, w2, b2, mean, variance = weights
    h = np.tanh(x @ w1 + b1)
    root = np.sqrt(variance + 1e-3)
    normal = (h - mean) / root
    u = gamma * normal + beta
    p = softmax(u @ w2 + b2)
    for label in range(len(p)):
        dz = np.eye(len(p))[label] - p
        du = w2 @ dz
        dh = du * gamma / root * (1 - h**2)
        gradients = [np.outer(x, dh), dh, du * normal, du, np.outer(u, dz), dz]
        yield p[label], gradients


def test_net_in_inference_mode_has_the_exact_fisher_information(monkeypatch):
    """The exact Fisher by a loop over samples and labels; nothing changes."""
    model = net(
        layers.Dense(4, activation="tanh"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(3),
        compiled=True,
    )
    x = inputs(3, 3)
    before = doubles(model)
    omega = expected(model, x, monkeypatch)
    assert_equal(doubles(model), before)
    w1, b1, gamma, beta, mean, variance, w2, b2 = doubles(model)
    weights = [w1, b1, gamma, beta, w2, b2]
    exact = [np.zeros_like(each) for each in weights]
    for sample in np.float64(x):
        for p, gradients in backward([*weights, mean, variance], sample):
            for total, gradient in zip(exact, gradients):
                total += p * gradient**2 / 2 / len(x)
    assert_close(omega, exact, "importance")


# What the layers may be.


def test_embedding_row_that_is_not_used_has_none():
    """TensorFlow has a sparse gradient for it; an unused row has none."""
    model = net(
        layers.Embedding(4, 2), layers.Flatten(), shape=(2,), compiled=True
    )
    x = np.array([[0, 1], [1, 3], [3, 0], [0, 1]])
    (table,) = estimate(model, x, "mse").values()
    used = np.array([3, 3, 0, 2]) / 4 / 4  # four outputs, of four samples
    assert_close([table], [np.outer(used, [1, 1])], "table")
    assert np.all(table[2] == 0)


def test_sequence_of_outputs_has_the_mean_of_its_steps(monkeypatch):
    """An LSTM: two steps and two classes against a loop over all labels."""
    model = net(
        layers.LSTM(3, return_sequences=True),
        layers.Dense(2),
        shape=(2, 3),
        compiled=True,
    )
    x = inputs(1, 2, 3)
    omega = expected(model, x, monkeypatch, outputs=4)
    h = model.layers[0](keras.ops.convert_to_tensor(x))
    h = np.float64(keras.ops.convert_to_numpy(h)[0])
    w, b = doubles(model)[-2:]
    p = softmax(h @ w + b)
    # Within a step the classes go together, between steps nothing does.
    assert_close(omega[-2:], of_dense(h, p * (1 - p) / 2), "importance")


@pytest.mark.parametrize("kind", [lambda d: [*d.values()], dict])
def test_two_inputs_are_a_list_or_a_dict(kind):
    parts = {"a": keras.Input((2,), name="a"), "b": keras.Input((3,), name="b")}
    outputs = layers.Add()(
        [layers.Dense(1, name=f"of_{n}")(part) for n, part in parts.items()]
    )
    x = {"a": inputs(6, 2), "b": inputs(6, 3, seed=1)}
    model = keras.Model(kind(parts), outputs)
    omega = estimate(model, kind(x), "mse")
    for name in "ab":
        exact = of_dense(x[name], np.ones((6, 1)))
        assert_close([omega[f"of_{name}/kernel"]], exact[:1], name)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_outputs_that_are_masked_have_none(activation):
    mask = OutputMask()
    parts = [layers.Dense(4, name="head"), mask]
    if activation:
        parts.append(layers.Activation(activation))
    model = net(*parts)
    mask.set_active([1, 2])
    loss = losses.SparseCategoricalCrossentropy(from_logits=not activation)
    omega = estimate(model, inputs(10, 3), loss)
    for value in omega.values():
        assert np.all(value[..., [0, 3]] == 0)
        assert np.all(value[..., [1, 2]] > 0)


def test_shared_paths_have_suffixes_as_in_the_getters():
    model, si = towers(), SICallback()
    omega = estimate(model, inputs(4, 6))
    si.set_model(model)
    assert [*omega] == [*si.get_importance()]
    assert "dense/kernel#2" in omega
    si.add_importance(omega)


def test_frozen_layers_are_left_out():
    model = net(layers.Dense(2, name="a"), layers.Dense(2, name="b"))
    model.layers[0].trainable = False
    omega = estimate(model, inputs(4, 3), "mse")
    assert [*omega] == [v.path for v in model.layers[1].variables]


class Subclassed(keras.Model):
    """Has no argument `training`, adds a loss, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x):
        self.add_loss(keras.ops.sum(x))
        noise = keras.random.normal((1, 2), seed=self.seeds)
        return self.dense(x) * (1 + 0.1 * noise)


def test_subclassed_models_seeds_and_losses_stay_as_they_are():
    """Not even its seeds change, so that the estimate is the same again."""
    model = Subclassed()
    x = inputs(8, 3)
    model(x[:1])
    seeds = np.array(keras.ops.convert_to_numpy(model.seeds.state))
    one, other = estimate(model, x, "mse"), estimate(model, x, "mse")
    np.testing.assert_array_equal(model.seeds.state, seeds)
    assert_equal(one, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [keras.ops.convert_to_numpy(loss) for loss in model.losses]


@only_on("tensorflow", "jax", reason="torch always runs eagerly")
def test_model_that_must_run_eagerly_is_estimated():
    def branch(x):
        return x if float(x[0, 0]) > 0 else 2 * x

    parts = layers.Lambda(branch, output_shape=(2,)), layers.Dense(1)
    model = net(*parts, shape=(2,), compiled=True)
    model.compile("sgd", "mse", run_eagerly=True)
    omega = estimate(model, np.array([[1, 0], [-1, 1]], "float32")).values()
    exact = of_dense([[1, 0], [-2, 2]], np.ones((2, 1)))
    assert_close(omega, exact, "importance")


@only_on("tensorflow")
def test_operation_that_xla_does_not_know_is_estimated():
    import tensorflow as tf

    def triple(x):
        y = tf.py_function(lambda t: 3 * t, [x], x.dtype)
        return tf.ensure_shape(y, x.shape)

    parts = layers.Dense(1), layers.Lambda(triple, output_shape=(1,))
    model = net(*parts, compiled=True)
    x = inputs(5, 3)
    omega = estimate(model, x, "mse").values()
    assert_close(omega, of_dense(x, np.full((5, 1), 9.0)), "importance")


# Precision.


@only_on("tensorflow", "torch", reason="JAX has x64 switched off")
def test_float64_keeps_its_digits():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        x = np.random.default_rng(0).normal(size=(6, 3))
        omega = estimate(net(layers.Dense(2)), x, "mse").values()
        # Keras narrows inputs on torch.
        rtol = 1e-14 if keras.backend.backend() == "tensorflow" else 1e-6
        assert_near(omega, of_dense(x, np.full((6, 2), 0.5)), rtol, atol=0)
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.06)]
)
def test_mixed_precision_is_near_float32(policy, tolerance):
    x = inputs(50, 3)

    def run():
        head = layers.Dense(3, dtype="float32")
        model = net(layers.Dense(8, activation="tanh"), head)
        return estimate(model, x, CROSS_ENTROPY)

    exact = run()
    keras.config.set_dtype_policy(policy)
    for one, other in zip(run().values(), exact.values()):
        assert one.dtype == "float32"
        assert abs(one.sum() / other.sum() - 1) < tolerance


def test_float16_does_not_round_small_gradients_to_zero():
    keras.config.set_dtype_policy("mixed_float16")
    model = net(layers.Dense(1))
    model.set_weights([np.zeros((3, 1)), np.array([-16.0])])
    x = np.full((4, 3), 1e-4, "float32")
    loss = losses.BinaryCrossentropy(from_logits=True)
    kernel, _ = estimate(model, x, loss).values()
    p = sigmoid(-16.0)
    np.testing.assert_allclose(kernel, p * (1 - p) * 1e-8 / 2, rtol=0.02)


# Which samples, and which signs.


def test_the_seed_is_all_that_chance_depends_on():
    model = net(layers.Dense(4, activation="tanh"), layers.Dense(3))
    x = inputs(30, 3)
    run = functools.partial(estimate, model, x, CROSS_ENTROPY, samples=10)
    kernels = [[*run(seed=seed).values()][0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.all(kernels[0] != kernels[2])


def test_samples_are_taken_at_random():
    """Not the first ones: files are often sorted by class."""
    model = net(layers.Dense(1), compiled=True)
    x = np.repeat(np.eye(3, dtype="float32"), 100, axis=0)
    kernel, bias = estimate(model, x, "mse", samples=90).values()
    np.testing.assert_allclose(bias, 1, rtol=1e-5)
    assert np.all(abs(kernel - 1 / 3) < 0.12)
    assert np.any(kernel != kernel[0])
    all_of_them, _ = estimate(model, x, "mse", samples=1000).values()
    np.testing.assert_allclose(all_of_them, 1 / 3, rtol=1e-5)


def test_every_sample_has_signs_of_its_own():
    """Else 1,000 samples would be as noisy as one."""
    model = net(layers.Dense(3), compiled=True)
    x = np.ones((1000, 3), "float32")
    _, bias = estimate(model, x, CROSS_ENTROPY).values()
    weights, intercept = doubles(model)
    p = softmax(x[0] @ weights + intercept)
    np.testing.assert_allclose(bias, p * (1 - p) / 2, rtol=0.15)


def test_loss_defaults_to_the_one_of_compile(tmp_path):
    model = net(layers.Dense(3))
    x = inputs(5, 3)
    exact = estimate(model, x, CROSS_ENTROPY).values()
    for loss in (CROSS_ENTROPY, [CROSS_ENTROPY]):
        model.compile("adam", loss)
        assert_close(estimate(model, x).values(), exact, "importance")
    model.optimizer.build(model.trainable_variables)
    loaded = reloaded(model, tmp_path)
    assert_close(estimate(loaded, x).values(), exact, "importance")


def test_inputs_may_be_tensors_or_wide():
    model = net(layers.Dense(1))
    x = inputs(5, 3)
    exact = [*estimate(model, x, "mse").values()]
    for other in (keras.ops.convert_to_tensor(x), np.float64(x)):
        assert_close(estimate(model, other, "mse").values(), exact, "x")


def test_progress_is_shown_unless_silent(capsys):
    model = net(layers.Dense(1))
    fisher_importance(model, inputs(5, 3), "mse")
    assert "5/5" in capsys.readouterr().out
    fisher_importance(model, inputs(5, 3), "mse", verbose=0)
    assert not capsys.readouterr().out


# Bad input.


def own_loss(y, z):
    return keras.ops.mean(abs(y - z))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        *[({"samples": n}, "`samples` must") for n in (0, 1.5, "10", True)],
        *[({"seed": n}, "`seed` must be") for n in (-1, 0.5, "0", None)],
        ({"verbose": 3}, "`verbose` must be"),
        ({"x": inputs(0, 3)}, r"Received: \[0\] samples"),
        ({"x": [inputs(2, 3), inputs(4, 3)]}, r"Received: \[2, 4\] samples"),
        ({"x": iter(inputs(2, 3))}, "Collect some batches"),
        ({"x": [[1.0, 2.0, 3.0]]}, "must be an array"),
        ({"x": None}, "must be an array"),
        ({"x": []}, "must be an array"),
        ({"x": inputs(2, 5)}, "shape"),
        ({"x": np.insert(inputs(4, 3), 2, np.nan, axis=0)}, "sample 2"),
        *[
            ({"loss": loss}, 'knows .*BinaryCrossentropy.*Received.*"mse"')
            for loss in (
                *("mae", losses.Huber(), own_loss, ["mse", "mse"]),
                losses.CategoricalFocalCrossentropy(),
                losses.SparseCategoricalCrossentropy(ignore_class=0),
            )
        ],
        ({"loss": None}, "loss=None.* Pass it, or"),
        ({"loss": "binary_crossentropy"}, "from_logits=True"),
    ],
)
def test_bad_argument_is_refused_and_nothing_changed(kwargs, message):
    model = net(layers.Dense(3))
    before = doubles(model)
    with pytest.raises(ValueError, match=message):
        estimate(model, **{"x": inputs(9, 3), "loss": "mse", **kwargs})
    assert_equal(doubles(model), before)


def frozen():
    model = net(layers.Dense(1))
    model.trainable = False
    return model


def compiled_without_a_loss():
    model = net(layers.Dense(1))
    model.compile("sgd")
    return model


def with_two_outputs():
    inner = keras.Input((3,))
    model = keras.Model(inner, [layers.Dense(1)(inner), layers.Dense(1)(inner)])
    model.compile("sgd", ["mse", "mse"])
    return model


def with_a_mask(*pooling):
    parts = layers.Reshape((1, 3)), layers.Masking(), *pooling
    return net(*parts, layers.Dense(2))


def infinite():
    model = net(layers.Dense(1, name="head"))
    model.set_weights([np.full((3, 1), np.inf), np.zeros(1)])
    return model


def with_an_infinite_derivative():
    root = net(layers.Dense(1, use_bias=False), layers.Lambda(keras.ops.sqrt))
    root.set_weights([np.zeros((3, 1))])
    return root


def distributed():
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        return net(layers.Dense(1))


@pytest.mark.parametrize(
    ("make", "loss", "message"),
    [
        (lambda: "model.keras", "mse", "built `keras.Model`"),
        (
            lambda: keras.Sequential([layers.Dense(1)]),
            *("mse", "call it once on a batch"),
        ),
        (frozen, "mse", "no trainable variables"),
        (compiled_without_a_loss, None, 'Pass it, or loss="mse"'),
        (with_two_outputs, None, r"keras.Model\(model.input, output\)"),
        (with_a_mask, "mse", "has a mask"),
        (infinite, "mse", r"weights of \['sequential/head/kernel'\]"),
        (with_an_infinite_derivative, "mse", "gradients of"),
        pytest.param(
            *(distributed, "mse", "one device"), marks=only_on("tensorflow")
        ),
    ],
)
def test_model_that_cannot_be_estimated_is_refused(make, loss, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        estimate(model, inputs(2, 3), loss)


def test_mask_that_a_layer_uses_up_is_none_of_the_output():
    assert estimate(with_a_mask(layers.LSTM(2)), inputs(2, 3), CROSS_ENTROPY)


@only_on("tensorflow")
def test_dataset_is_refused_with_the_way_out():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((inputs(8, 3), inputs(8, 1)))
    with pytest.raises(ValueError, match="take"):
        estimate(net(layers.Dense(1)), data.batch(2), "mse")


@only_on("jax")
def test_model_under_keras_distribution_is_refused():
    model = net(layers.Dense(1))
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    try:
        with pytest.raises(ValueError, match="one device"):
            estimate(model, inputs(2, 3), "mse")
    finally:
        keras.distribution.set_distribution(None)


def test_model_that_is_sure_of_everything_is_warned_of():
    model = net(layers.Dense(2))
    model.set_weights([np.zeros((3, 2)), np.array([1e4, -1e4])])
    with pytest.warns(UserWarning, match="all importance is 0"):
        omega = estimate(model, inputs(4, 3), CROSS_ENTROPY)
    assert not any(value.any() for value in omega.values())


# Into SI.


BIAS = "sequential/dense_0/bias"


def trained(*callbacks):
    """Returns a model that has learned a task, that task and the next."""
    model, _, first, second = begin(sgd())
    fit(model, first, *callbacks)
    return model, first, second


def random_importance(model, seed=0):
    rng = np.random.default_rng(seed)
    return {
        v.path: rng.uniform(0, 1, v.shape).astype("float32")
        for v in model.trainable_variables
    }


def protect(model, scale=1.0):
    si = SICallback(STRENGTH, DAMPING)
    si.set_model(model)
    si.add_importance(random_importance(model), scale)
    return si


def move(model):
    model.set_weights([w + 1 for w in model.get_weights()])


def test_training_with_what_was_added_is_exact():
    """The oracle has the importance from the start; then SI goes on."""
    model, _, second = trained()
    reference = make_oracle(model)
    added = random_importance(model).values()
    reference.importance = [3.0 * np.float64(each) for each in added]
    si = protect(model, scale=3.0)
    fit(model, second, si)
    learn(reference, second)
    assert_matches_oracle(model, si, reference)


def test_added_importance_adds_up():
    model, *_ = trained()
    si = protect(model, scale=2.0)
    si.add_importance(random_importance(model, seed=1), scale=0.5)
    part = {BIAS: np.ones(9)}
    si.add_importance(part)
    one, other = (random_importance(model, seed) for seed in (0, 1))
    for name, value in si.get_importance().items():
        exact = 2.0 * one[name] + 0.5 * other[name] + part.get(name, 0)
        np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_added_importance_ends_the_task():
    """Of two tasks: the first by `fit`, half a second one by hand."""
    settings = {"strength": STRENGTH, "damping": DAMPING, "consolidate": None}
    callbacks = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        model, si, *tasks = begin(sgd(), **settings)
        for task, epochs in zip(tasks, (2, 1)):
            fit(model, task, si, epochs=epochs)
        callbacks.append(si)
    other, si = callbacks
    other.consolidate()
    si.add_importance(random_importance(model))
    before, added = other.get_importance(), random_importance(model)
    both = [a + b for a, b in zip(before.values(), added.values())]
    assert_near(si.get_importance().values(), both, rtol=1e-6)
    assert_equal(si.get_path_integral(), other.get_path_integral())
    assert_equal(si.get_reference(), other.get_reference())


def test_reference_is_the_weights_at_which_importance_was_added():
    """Also of weights that were loaded after attaching, without a warning."""
    model, si, task, _ = begin()
    si.set_model(model)
    move(model)
    loaded = model.get_weights()
    si.add_importance(random_importance(model))
    move(model)
    # It follows the weights no longer, also not for a new `compile`.
    for _ in range(2):
        assert_equal(si.get_importance(), random_importance(model))
        assert_equal(si.get_reference().values(), loaded)
        compile_model(model)
        si.set_model(model)
    fit(model, task, si, epochs=1)


def test_task_of_one_step_is_no_mistake_where_importance_is_added():
    model, si, task, _ = begin(consolidate=None)
    fit(model, task, si, epochs=1, batch_size=22)
    si.add_importance(random_importance(model))  # warnings are errors
    fit(model, task, si, epochs=1, batch_size=22)
    with pytest.warns(UserWarning, match="one optimizer step"):
        si.consolidate()


def test_adding_importance_without_a_model_is_refused():
    with pytest.raises(ValueError, match="not attached"):
        SICallback().add_importance({"a": np.ones(2)})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"x/kernel": np.ones(2)}, rf"has \['x/kernel'\].*{BIAS}"),
        ({BIAS: np.ones(2)}, rf"'{BIAS}' .*\(9,\). Received: \(2,\)"),
        ({BIAS: -np.ones(9)}, rf"'{BIAS}' .*at least 0"),
        ({BIAS: np.full(9, np.nan)}, rf"'{BIAS}' .*finite"),
        ({}, "must be a dict"),
        ([np.ones(9)], "must be a dict"),
    ],
)
def test_importance_that_does_not_fit_is_refused_and_nothing_changed(
    entries, message
):
    model, *_ = begin()
    si = protect(model)
    before = si.get_importance()
    move(model)
    if entries and isinstance(entries, dict):
        entries = random_importance(model) | entries
    with pytest.raises(ValueError, match=message):
        si.add_importance(entries)
    assert_equal(si.get_importance(), before)
    reference = si.get_reference()[BIAS]
    assert np.all(reference != keras.ops.convert_to_numpy(model.weights[1]))


@pytest.mark.parametrize("scale", [-1, np.nan, np.inf, True, "1", None, 1e300])
def test_bad_scale_is_refused(scale):
    model, *_ = begin()
    with pytest.raises(ValueError, match="finite number"):
        protect(model, scale=scale)


def test_paths_that_are_not_tracked_are_refused_with_the_way_out(tmp_path):
    """Of a loaded model, or excluded: rename them, or leave them out.

    Keras drops the name of a `Sequential` from the paths within.
    """
    model, (x, _), _ = trained()
    importance = estimate(model, x)
    si = SICallback()
    si.set_model(reloaded(model, tmp_path))
    with pytest.raises(ValueError, match="rename with `dict"):
        si.add_importance(importance)
    values = importance.values()
    si.add_importance(dict(zip(si.get_importance(), values, strict=True)))
    assert_close(si.get_importance().values(), values, "importance")

    si = SICallback(exclude="dense_0")
    si.set_model(model)
    with pytest.raises(ValueError, match="Leave out what is frozen"):
        si.add_importance(importance)
    kept = si.get_importance()
    si.add_importance({name: importance[name] for name in kept})
