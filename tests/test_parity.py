"""Step for step against the NumPy float64 implementation."""

import keras
import numpy as np
import pytest
import reference_si as oracle
from conftest import JIT, compile_model, make_model, make_tasks, only_on
from keras import ops

from keras_si import SICallback

STRENGTH, DAMPING = 0.7, 0.05
BATCH_SIZE, EPOCHS = 8, 2  # 22 examples: the last batch is a partial one

OPTIMIZERS = {
    "sgd": (
        lambda: keras.optimizers.SGD(0.1),
        lambda: oracle.SGD(0.1),
    ),
    "momentum": (
        lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        lambda: oracle.SGD(0.05, momentum=0.9),
    ),
    "nesterov": (
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        lambda: oracle.SGD(0.05, momentum=0.9, nesterov=True),
    ),
    "adam": (
        lambda: keras.optimizers.Adam(1e-2),
        lambda: oracle.Adam(1e-2),
    ),
    "adam_clipnorm": (
        lambda: keras.optimizers.Adam(1e-2, clipnorm=0.1),
        lambda: oracle.Adam(1e-2, clipnorm=0.1),
    ),
    "sgd_global_clipnorm": (
        lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.2),
        lambda: oracle.SGD(0.1, global_clipnorm=0.2),
    ),
    "sgd_clipvalue": (
        lambda: keras.optimizers.SGD(0.1, clipvalue=0.02),
        lambda: oracle.SGD(0.1, clipvalue=0.02),
    ),
    "adamw": (
        lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
        lambda: oracle.Adam(1e-2, weight_decay=0.1),
    ),
    "rmsprop": (
        lambda: keras.optimizers.RMSprop(1e-2),
        lambda: oracle.RMSprop(1e-2),
    ),
    "lion": (
        lambda: keras.optimizers.Lion(1e-2),
        lambda: oracle.Lion(1e-2),
    ),
    "schedule": (
        lambda: keras.optimizers.SGD(
            keras.optimizers.schedules.InverseTimeDecay(0.2, 3, 0.5)
        ),
        lambda: oracle.SGD(lambda step: 0.2 / (1 + 0.5 * step / 3)),
    ),
}
MODES = {
    "graph": {},  # Keras's default; on a CPU, JAX alone compiles it
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "three_steps_per_execution": {"steps_per_execution": 3},
}


def assert_close(actual, expected, what):
    """Largest error relative to the largest entry of each array."""
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        a, scale = ops.convert_to_numpy(a), np.abs(e).max()
        assert np.abs(a - e).max() <= 1e-4 * max(scale, 1e-7), (
            f"{what} {index}: {a} instead of {e}"
        )


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
                    ("weights", self.model.trainable_variables),
                    ("path_integral", optimizer.state.path_integrals),
                    ("importance", optimizer.state.importances),
                    ("reference", optimizer.state.references),
                )
            }
        )


def run(
    model,
    optimizer,
    reference_optimizer,
    mode="graph",
    network=None,
    accumulation=1,
    sample_weight=None,
):
    """Three tasks, on both sides; compares after every step and epoch."""
    compile_model(model, optimizer, **MODES[mode])
    recorder = StepRecorder()
    si = SICallback(STRENGTH, DAMPING)
    reference = oracle.ReferenceSI(
        network or oracle.Network(),
        [np.float64(w) for w in model.get_weights()],
        reference_optimizer,
        STRENGTH,
        DAMPING,
        accumulation=accumulation,
    )
    every = MODES[mode].get("steps_per_execution", 1)
    for task, (x, y) in enumerate(make_tasks()):
        recorder.steps.clear()
        history = model.fit(
            x,
            y,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            shuffle=False,
            sample_weight=sample_weight,
            callbacks=[si, recorder],
            verbose=0,
        ).history
        seen = iter(recorder.steps)
        for epoch in range(EPOCHS):
            loss, penalty, size = 0.0, 0.0, len(x)
            starts = range(0, size, BATCH_SIZE)
            for number, start in enumerate(starts, 1):
                batch = slice(start, start + BATCH_SIZE)
                logs = reference.train_step(
                    np.float64(x[batch]),
                    y[batch],
                    None if sample_weight is None else sample_weight[batch],
                )
                count = len(x[batch])
                loss += count * (logs["task_loss"] + logs["penalty"]) / size
                penalty += count * logs["penalty"] / size
                if number % every and number != len(starts):
                    continue
                state = next(seen)
                for name in state:
                    assert_close(
                        state[name],
                        getattr(reference, name),
                        f"task {task} epoch {epoch} step {number}: {name}",
                    )
            np.testing.assert_allclose(history["loss"][epoch], loss, 1e-5)
            np.testing.assert_allclose(
                history["si_penalty"][epoch], penalty, 1e-4, 1e-9
            )
        reference.consolidate()
        assert_close(
            si.get_importance().values(), reference.importance, "importance"
        )
        assert_close(
            si.get_reference().values(), reference.reference, "reference"
        )
    # The comparison is worth something only where SI had something to do.
    assert penalty > 1e-6
    assert max(np.abs(w).max() for w in reference.importance) > 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    optimizer, reference_optimizer = OPTIMIZERS[name]
    run(make_model(), optimizer(), reference_optimizer())


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
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_modes(name, mode):
    optimizer, reference_optimizer = OPTIMIZERS[name]
    run(make_model(), optimizer(), reference_optimizer(), mode)


@pytest.mark.parametrize(
    "mode", ["graph", pytest.param("jit", marks=JIT), "eager"]
)
@pytest.mark.parametrize("steps", [2, 4])
def test_gradient_accumulation(steps, mode):
    run(
        make_model(),
        keras.optimizers.Adam(1e-2, gradient_accumulation_steps=steps),
        oracle.Adam(1e-2),
        mode,
        accumulation=steps,
    )


def test_the_users_own_regularizer_belongs_to_the_tasks_loss():
    run(
        make_model(regularizer=keras.regularizers.L2(0.03)),
        keras.optimizers.Adam(1e-2),
        oracle.Adam(1e-2),
        network=oracle.Network(l2=0.03),
    )


def test_the_step_is_the_one_after_constraints():
    def clip(weights):
        return np.clip(weights, -0.3, 0.3)

    class Clip(keras.constraints.Constraint):
        def __call__(self, w):
            return ops.clip(w, -0.3, 0.3)

    run(
        make_model(constraint=Clip()),
        keras.optimizers.SGD(0.1),
        oracle.SGD(0.1, project=[clip, None] * 3),
    )


def test_sample_weights():
    weights = np.linspace(0.1, 2.0, 22)
    run(
        make_model(),
        keras.optimizers.Adam(1e-2),
        oracle.Adam(1e-2),
        sample_weight=weights,
    )


def test_static_loss_scaling_is_undone():
    run(
        make_model(),
        keras.optimizers.SGD(0.1, loss_scale_factor=64.0),
        oracle.SGD(0.1),
    )


def test_dynamic_loss_scaling_is_undone():
    run(
        make_model(),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)),
        oracle.Adam(1e-2),
    )


@pytest.mark.parametrize(
    "mode", ["graph", pytest.param("jit", marks=JIT), "eager"]
)
@pytest.mark.parametrize("include", [None, "kernel"])
def test_embeddings(include, mode):
    """A sparse gradient counts as the dense one: a table is a kernel."""
    table = oracle.random_weights((6, 4), seed=1)[0]
    kernel = oracle.random_weights((4, 3), seed=2)
    rng = np.random.default_rng(0)
    words, y = rng.integers(0, 5, 22), rng.integers(0, 3, 22)
    one_hot = np.eye(6)[words]
    model = keras.Sequential(
        [
            keras.Input((), dtype="int32"),
            keras.layers.Embedding(6, 4),
            keras.layers.Dense(3),
        ]
    )
    model.set_weights([table, *kernel])
    compile_model(model, keras.optimizers.SGD(0.5), **MODES[mode])
    si = SICallback(STRENGTH, DAMPING, include=include)
    network = LinearTable()
    reference = oracle.ReferenceSI(
        network,
        [table, *kernel],
        oracle.SGD(0.5),
        STRENGTH,
        DAMPING,
        tracked=None if include is None else [False, True, False],
    )
    for shift in range(2):
        labels = (y + shift) % 3
        model.fit(
            words,
            labels,
            batch_size=8,
            epochs=2,
            shuffle=False,
            callbacks=[si],
            verbose=0,
        )
        oracle.fit(reference, one_hot, labels, 8, 2)
        reference.consolidate()
    importance = [
        w for w, t in zip(reference.importance, reference.tracked) if t
    ]
    assert_close(si.get_importance().values(), importance, "importance")
    assert_close(model.get_weights(), reference.weights, "weights")
    assert max(w.max() for w in importance) > 1e-2


class LinearTable:
    """An embedding and a dense layer, as two dense layers in NumPy."""

    def loss_and_gradients(self, weights, x, y, sample_weight=None):
        table, kernel, bias = weights
        hidden = x @ table
        losses, gradient = oracle.cross_entropy(hidden @ kernel + bias, y)
        gradient = gradient / len(x)
        return losses.mean(), [
            x.T @ (gradient @ kernel.T),
            hidden.T @ gradient,
            gradient.sum(axis=0),
        ]


def test_conservation_of_the_path_integral():
    """Small full-batch steps: the integral is the fall of the loss."""
    (x, y), *_ = make_tasks()
    model = compile_model(make_model(), keras.optimizers.SGD(0.005))
    before = model.evaluate(x, y, batch_size=len(x), verbose=0)
    si = SICallback(consolidate=None)
    model.fit(
        x,
        y,
        batch_size=len(x),
        epochs=200,
        callbacks=[si],
        verbose=0,
    )
    fall = before - model.evaluate(x, y, batch_size=len(x), verbose=0)
    integral = sum(w.sum() for w in si.get_path_integral().values())
    assert fall > 0.05
    np.testing.assert_allclose(integral, fall, rtol=0.01)
