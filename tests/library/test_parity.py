"""Step for step against the NumPy float64 implementation."""

import keras
import numpy as np
import pytest
import reference_si as oracle
from helpers import (
    DAMPING,
    HAS_MULTI_OPTIMIZER,
    JIT,
    SIZES,
    STRENGTH,
    all_state,
    assert_close,
    assert_matches_oracle,
    compile_model,
    fit,
    make_model,
    make_oracle,
    make_tasks,
    only_on,
    sgd,
)
from keras import ops

from keras_si import SICallback

EPOCHS = 2  # of 22 examples: the last batch of 8 is a partial one

MODES = {
    "graph": {},  # Keras's default; on a CPU, JAX alone compiles it
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    # Three steps an epoch: the last group is a partial one.
    "two_steps_per_execution": {"steps_per_execution": 2},
}
SLOW = "test_modes is eager on JAX, where that is slow"


class StepRecorder(keras.callbacks.Callback):
    """Copies weights and SI state after every step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        self.steps.append(
            {
                name: [ops.convert_to_numpy(v) for v in variables]
                for name, variables in (
                    ("weights", optimizer.state.variables),
                    ("path_integral", optimizer.state.path_integrals),
                    ("importance", optimizer.state.importances),
                    ("reference", optimizer.state.references),
                )
            }
        )


def run(
    optimizer,
    reference_optimizer,
    model=None,
    mode="graph",
    network=None,
    batch_size=8,
    accumulation=1,
    sample_weight=None,
    class_weight=None,
    tracked=None,
    include=None,
    consolidate="train_end",
    callbacks=(),
    leave=None,
    tasks=None,
):
    """Learns tasks, on both sides; compares after every step and epoch.

    `callbacks` go behind SI's. `leave` is given the oracle and its weights
    after each epoch of a task, and returns those that the task is left with.
    """
    model = model or make_model()
    compile_model(model, optimizer, **MODES[mode])
    recorder = StepRecorder()
    si = SICallback(STRENGTH, DAMPING, consolidate, include)
    reference = make_oracle(
        model,
        reference_optimizer,
        network,
        accumulation=accumulation,
        tracked=tracked,
    )

    def of_tracked(arrays):
        return [arrays[i] for i in reference.tracked_indices()]

    every = MODES[mode].get("steps_per_execution", 1)
    steps = 0
    for task, (x, y) in enumerate(tasks or make_tasks()):
        recorder.steps.clear()
        history = fit(
            model,
            (x, y),
            *(si, recorder, *callbacks),
            epochs=EPOCHS,
            batch_size=batch_size,
            sample_weight=sample_weight,
            class_weight=class_weight,
        ).history
        share = sample_weight
        if class_weight is not None:
            share = np.array([class_weight[label] for label in y])
        seen = iter(recorder.steps)
        after_epochs = []
        for epoch in range(EPOCHS):
            loss, size = 0.0, len(x)
            starts = range(0, size, batch_size)
            for number, start in enumerate(starts, 1):
                batch = slice(start, start + batch_size)
                logs = reference.train_step(
                    np.float64(x[batch]),
                    y[batch],
                    None if share is None else share[batch],
                )
                steps += 1
                if isinstance(consolidate, int) and steps % consolidate == 0:
                    reference.consolidate()
                count = len(x[batch])
                loss += count * (logs["task_loss"] + logs["penalty"]) / size
                if number % every and number != len(starts):
                    continue
                for name, arrays in next(seen).items():
                    assert_close(
                        arrays,
                        of_tracked(getattr(reference, name)),
                        f"task {task} epoch {epoch} step {number}: {name}",
                    )
            np.testing.assert_allclose(history["loss"][epoch], loss, 1e-5)
            penalty = reference.penalty()
            np.testing.assert_allclose(
                history["si_penalty"][epoch], penalty, 1e-4, 1e-9
            )
            after_epochs.append(reference.weights)
            if consolidate == "epoch_end":
                reference.consolidate()
        if leave is not None:
            reference.weights = leave(reference, after_epochs)
        assert_close(model.get_weights(), reference.weights, "left with")
        if consolidate == "train_end":
            reference.consolidate()
        elif consolidate is None and task == 1:  # by hand, and not each time
            si.consolidate()
            reference.consolidate()
        for name in ("importance", "reference", "path_integral"):
            assert_close(
                getattr(si, f"get_{name}")().values(),
                of_tracked(getattr(reference, name)),
                name,
            )
    # The comparison is worth something only where SI had something to do.
    assert penalty > 1e-6
    assert max(np.abs(w).max() for w in reference.importance) > 1e-3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD", {"learning_rate": 0.1}),
        ("SGD", {"learning_rate": 0.05, "momentum": 0.9}),
        ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}),
        ("SGD", {"learning_rate": 0.1, "global_clipnorm": 0.2}),
        ("SGD", {"learning_rate": 0.1, "clipvalue": 0.02}),
        ("SGD", {"learning_rate": 0.1, "loss_scale_factor": 64.0}),
        ("Adam", {"learning_rate": 1e-2}),
        ("AdamW", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        ("RMSprop", {"learning_rate": 1e-2}),
        ("Lion", {"learning_rate": 1e-2}),
    ],
    ids=lambda value: value if isinstance(value, str) else [*value][-1],
)
def test_optimizers(name, settings):
    theirs = {k: v for k, v in settings.items() if k != "loss_scale_factor"}
    run(
        getattr(keras.optimizers, name)(**settings),
        getattr(oracle, name.replace("W", ""))(**theirs),
    )


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(
            mode,
            marks=only_on("tensorflow", "jax", reason="Keras's torch refuses")
            if "steps_per_execution" in options
            else (),
        )
        for mode, options in MODES.items()
    ],
)
def test_modes(mode):
    settings = {"learning_rate": 1e-2, "clipnorm": 0.1}
    ours, theirs = keras.optimizers.Adam(**settings), oracle.Adam(**settings)
    run(ours, theirs, mode=mode)


def test_learning_rate_schedule():
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.2, 3, 0.5)
    theirs = oracle.SGD(lambda step: 0.2 / (1 + 0.5 * step / 3))
    run(sgd(schedule), theirs)


@pytest.mark.parametrize(
    ("steps", "batch_size", "mode"),
    [
        # Three batches an epoch: one is left over at its end.
        (2, 8, "graph"),
        # Four batches: of the eight of a task, two are left over at its end.
        pytest.param(3, 6, "jit", marks=JIT),
        pytest.param(
            *(3, 6, "eager"), marks=only_on("tensorflow", "torch", reason=SLOW)
        ),
    ],
)
def test_gradient_accumulation(steps, batch_size, mode):
    run(
        keras.optimizers.Adam(1e-2, gradient_accumulation_steps=steps),
        oracle.Adam(1e-2),
        mode=mode,
        batch_size=batch_size,
        accumulation=steps,
    )


def test_the_users_own_regularizer_belongs_to_the_tasks_loss():
    run(
        keras.optimizers.Adam(1e-2),
        oracle.Adam(1e-2),
        make_model(regularizer=keras.regularizers.L1L2(0.01, 0.03)),
        network=oracle.Network(l2=0.03, l1=0.01),
    )


def test_the_step_is_the_one_after_constraints():
    class Clip(keras.constraints.Constraint):
        def __call__(self, w):
            return ops.clip(w, -0.3, 0.3)

    theirs = oracle.SGD(
        0.1, project=[lambda w: np.clip(w, -0.3, 0.3), None] * 3
    )
    run(sgd(), theirs, make_model(constraint=Clip()))


@pytest.mark.parametrize(
    "weights",
    [
        {"sample_weight": np.linspace(0.1, 2.0, 22)},
        {"class_weight": {0: 0.3, 1: 1.0, 2: 2.5}},
    ],
    ids=lambda weights: [*weights][0],
)
def test_weights_of_samples_and_of_classes(weights):
    run(sgd(), oracle.SGD(0.1), **weights)


def test_frozen_layers():
    model = make_model()
    model.layers[0].trainable = False
    kernel, bias = model.layers[0].get_weights()
    still = [lambda _: kernel, lambda _: bias, *[None] * 4]
    tracked = [False, False, *[True] * 4]
    run(sgd(), oracle.SGD(0.1, project=still), model, tracked=tracked)


@pytest.mark.parametrize("consolidate", ["epoch_end", 4, None])
def test_when_to_consolidate(consolidate):
    run(sgd(), oracle.SGD(0.1), consolidate=consolidate)


def test_weights_that_early_stopping_restores():
    """Those of the first epoch; the whole task is in the path integral."""
    best = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=EPOCHS, restore_best_weights=True
    )
    run(
        sgd(),
        oracle.SGD(0.1),
        callbacks=[best],
        leave=lambda _, after_epochs: after_epochs[0],
    )


class Averaged(oracle.SGD):
    """SGD, and Keras's moving average of the weights."""

    slots = ("momentums", "average")

    def step(self, weights, gradients):
        weights = super().step(weights, gradients)
        share = 0.8 if self.iterations > 1 else 0.0
        self.average = [
            share * a + (1 - share) * w for a, w in zip(self.average, weights)
        ]
        return self.average if self.iterations % 4 == 0 else weights


def test_moving_average():
    """Overwriting every fourth step is part of it; that of the end is not."""
    average = {"ema_momentum": 0.8, "ema_overwrite_frequency": 4}
    run(
        sgd(use_ema=True, **average),
        Averaged(0.1),
        leave=lambda reference, _: reference.optimizer.average,
    )


class PerLayer:
    """The first dense layer has an optimizer of its own."""

    def __init__(self):
        self.first, self.others = oracle.Adam(1e-2), oracle.SGD(0.1)

    def step(self, weights, gradients):
        return self.first.step(weights[:2], gradients[:2]) + self.others.step(
            weights[2:], gradients[2:]
        )


@HAS_MULTI_OPTIMIZER
def test_multi_optimizer():
    own = {".*dense_0/.*": keras.optimizers.Adam(1e-2)}
    each = keras.optimizers.OptimizerMap(sgd(), own)
    run(keras.optimizers.MultiOptimizer(each), PerLayer())


class OwnStep(keras.Sequential):
    """A model with a training step as users write them."""

    def train_step(self, data):
        x, y = data
        if keras.backend.backend() == "torch":
            self.zero_grad()
            loss = self.compute_loss(x, y, self(x, training=True))
            loss.backward()
            gradients = [v.value.grad for v in self.trainable_weights]
            import torch

            with torch.no_grad():
                self.optimizer.apply(gradients, self.trainable_weights)
        else:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply(gradients, self.trainable_weights)
        size = ops.shape(x)[0]
        self._loss_tracker.update_state(loss, sample_weight=size)
        return {"loss": self._loss_tracker.result()}


class OwnJaxStep(keras.Sequential):
    """The same under JAX, where a step is given all state and returns it."""

    def loss_and_state(self, trainable, other, x, y):
        outputs, other, losses = self.stateless_call(
            trainable, other, x, training=True, return_losses=True
        )
        return self.loss(y, outputs) + sum(losses), other

    def train_step(self, state, data):
        import jax

        trainable, other, optimizer, metrics = state
        x, y = data
        gradient = jax.value_and_grad(self.loss_and_state, has_aux=True)
        (loss, other), gradients = gradient(trainable, other, x, y)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer, gradients, trainable
        )
        metrics = self._loss_tracker.stateless_update_state(
            metrics, loss, sample_weight=len(x)
        )
        logs = {"loss": self._loss_tracker.stateless_result(metrics)}
        return logs, (trainable, other, optimizer, metrics)


def test_a_train_step_of_the_users_own():
    own = OwnJaxStep if keras.backend.backend() == "jax" else OwnStep
    model = own([keras.Input((SIZES[0],)), *make_model().layers])
    run(sgd(), oracle.SGD(0.1), model)


def assert_same(model, si, reference):
    assert_matches_oracle(model, si, reference)
    assert {a.dtype for a in all_state(si)} == {np.dtype("float32")}


def test_train_on_batch():
    model = compile_model(make_model(), keras.optimizers.Adam(1e-2))
    reference = make_oracle(model, oracle.Adam(1e-2))
    si = SICallback(STRENGTH, DAMPING)
    si.set_model(model)
    for x, y in make_tasks():
        for _ in range(4):
            model.reset_metrics()  # Keras 3.10 does not do it.
            loss = model.train_on_batch(x, y)
            logs = reference.train_step(np.float64(x), y)
        np.testing.assert_allclose(
            loss, logs["task_loss"] + logs["penalty"], 1e-5
        )
        si.consolidate()
        reference.consolidate()
    assert_same(model, si, reference)
    assert logs["penalty"] > 1e-6


class Recorded:
    """Gives the gradients that a net in half precision had."""

    def __init__(self):
        self.gradients = []

    def spy_on(self, optimizer):
        apply = optimizer.apply

        def note(*grads):
            self.gradients.append([np.float64(g) for g in grads])

        def spy(grads, trainable_variables=None):
            if keras.backend.backend() == "jax":
                import jax

                # Both ways of a step are traced, and one of them is run.
                jax.debug.callback(note, *grads)
            else:
                wide = [ops.cast(g, "float32") for g in grads]
                note(*map(ops.convert_to_numpy, wide))
            apply(grads, trainable_variables)

        optimizer.apply = spy

    def wait(self):
        """Until all that was told has been heard."""
        if keras.backend.backend() == "jax":
            import jax

            jax.effects_barrier()

    def loss_and_gradients(self, weights, x, y, sample_weight=None):
        return 0.0, self.gradients.pop(0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(policy):
    """State is float32, and a step that is skipped contributes nothing."""
    keras.config.set_dtype_policy(policy)
    model = compile_model(
        make_model(),
        sgd(),
        # A spy hears numbers there, and nothing of what is traced.
        run_eagerly=keras.backend.backend() != "jax",
    )
    network = Recorded()
    reference = make_oracle(model, network=network)
    si = SICallback(STRENGTH, DAMPING)
    si.set_model(model)
    optimizer = model.optimizer
    scaled = policy == "mixed_float16"
    if scaled:
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        optimizer = optimizer.inner_optimizer
    network.spy_on(optimizer)
    applied = 0
    for task, (x, y) in enumerate(make_tasks()):
        for step in range(4):
            skipped = scaled and step == 1
            # Beyond 65504 there is nothing in float16.
            model.train_on_batch(1e6 * x if skipped else x, y)
            network.wait()
            if not skipped:
                applied += 1
                assert len(network.gradients) == 1
                penalty = reference.train_step(x, y)["penalty"]
            assert not network.gradients
            assert int(optimizer.iterations.numpy()) == applied, (task, step)
        si.consolidate()
        reference.consolidate()
    assert_same(model, si, reference)
    assert penalty > 1e-6


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_state_of_weights_in_half_precision_is_float32(policy):
    keras.config.set_dtype_policy(policy)
    model = compile_model(make_model(), sgd())
    si = SICallback()
    si.set_model(model)
    assert model.trainable_variables[0].dtype == policy
    for _ in range(2):
        model.train_on_batch(*make_tasks()[0])
    assert {a.dtype for a in all_state(si)} == {np.dtype("float32")}
    si.consolidate()
    # Steps so small that the weights may stand still: in float32 they count.
    assert max(a.max() for a in si.get_importance().values()) > 1e-4


def test_dynamic_loss_scaling_is_undone():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2))
    run(scaled, oracle.Adam(1e-2))


@pytest.mark.parametrize(
    ("include", "mode"),
    [
        (None, "graph"),
        pytest.param(None, "jit", marks=JIT),
        ("kernel", "graph"),
        pytest.param("kernel", "eager", marks=only_on("tensorflow")),
    ],
)
def test_embeddings(include, mode):
    """A sparse gradient counts as the dense one: a table is a kernel."""
    table = keras.layers.Embedding(6, 4)
    model = keras.Sequential(
        [keras.Input((), dtype="int32"), table, keras.layers.Dense(3)]
    )
    rng = np.random.default_rng(0)
    words, y = rng.integers(0, 5, 22), rng.integers(0, 3, 22)
    run(
        sgd(0.5),
        oracle.SGD(0.5),
        model,
        mode,
        network=LinearTable(),
        include=include,
        tracked=None if include is None else [False, True, False],
        tasks=[(words, (y + shift) % 3) for shift in range(3)],
    )


class LinearTable:
    """An embedding and a dense layer, as two dense layers in NumPy."""

    def loss_and_gradients(self, weights, words, y, sample_weight=None):
        table, kernel, bias = weights
        one_hot = np.eye(len(table))[words.astype(int)]
        hidden = one_hot @ table
        losses, gradient = oracle.cross_entropy(hidden @ kernel + bias, y)
        gradient = gradient / len(words)
        return losses.mean(), [
            one_hot.T @ (gradient @ kernel.T),
            hidden.T @ gradient,
            gradient.sum(axis=0),
        ]


def test_conservation_of_the_path_integral():
    """Small full-batch steps: the integral is the fall of the loss."""
    (x, y), *_ = make_tasks()
    model = compile_model(make_model(), keras.optimizers.SGD(0.005))
    before = model.evaluate(x, y, batch_size=len(x), verbose=0)
    si = SICallback(consolidate=None)
    si.set_model(model)
    for _ in range(200):
        model.train_on_batch(x, y)
    fall = before - model.evaluate(x, y, batch_size=len(x), verbose=0)
    integral = sum(w.sum() for w in si.get_path_integral().values())
    assert fall > 0.05
    np.testing.assert_allclose(integral, fall, rtol=0.01)
