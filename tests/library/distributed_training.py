"""Trains with SI on several devices and writes down what came of it.

    python distributed_training.py KIND OUTPUT

A program of its own, run by test_replicas.py: devices must be there
before the backend starts. With an OUTPUT of `a.npz`, that file gets, for each
case, the weights before and after, the SI state and the logs. What SI says of
numbers that are not finite is printed.
"""

import os
import pathlib
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from helpers import (
    DAMPING,
    STRENGTH,
    compile_model,
    fit,
    make_model,
    make_tasks,
    sgd,
)

from keras_si import SICallback

EXAMPLES_FOLDER = pathlib.Path(__file__).parents[2] / "examples"
EXAMPLES, L2 = 24, 0.03
CASES = {
    # Clipping is of the sum over replicas; L2 is part of the task's loss.
    "clipped": (lambda: keras.optimizers.Adam(1e-2, clipnorm=0.1), "train_end"),
    "every_two_steps": (
        lambda: keras.optimizers.LossScaleOptimizer(sgd(0.05, momentum=0.9)),
        2,
    ),
}
CASES_OF = {
    "mirrored": CASES,
    "multiworker": ["clipped"],
    "data-parallel": CASES,
    "model-parallel": ["clipped"],
}


def tf_strategy(kind):
    import tensorflow as tf

    if kind == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def jax_distribution(kind):
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    if kind == "data-parallel":
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*dense_1/kernel"] = (None, "model")
    layout[".*dense_1/bias"] = ("model",)
    return keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch"
    )


def assert_sharded(model):
    """Each device has its half of the state, and of nothing else."""
    state = model.optimizer.state
    for slot, variable in enumerate(state.variables):
        halved = "dense_1" in variable.path
        for array in (
            variable,
            state.path_integrals[slot],
            state.importances[slot],
            state.references[slot],
        ):
            value = array.value
            parts = [part.data.size for part in value.addressable_shards]
            assert parts == [value.size // (2 if halved else 1)] * 2, array


def state_of(model):
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer.state


def copies(arrays):
    return [keras.ops.convert_to_numpy(array) for array in arrays]


def make(case, kind):
    """Returns a compiled model and its callback."""
    make_optimizer, consolidate = CASES[case]
    keras.utils.set_random_seed(7)
    model = make_model(
        regularizer=keras.regularizers.L2(L2), sizes=(6, 9, 8, 3)
    )
    if kind == "multiworker":
        sys.path.insert(0, str(EXAMPLES_FOLDER))
        from several_machines import MultiWorkerModel

        model = MultiWorkerModel([keras.Input((6,)), *model.layers])
    compile_model(model, make_optimizer())
    return model, SICallback(STRENGTH, DAMPING, consolidate)


def not_finite(model, si):
    """Trains on a NaN, in one replica's share of the second of two batches.

    Returns the SI state, and prints what SI said to it.
    """
    state = state_of(model)
    task = make_tasks(examples=16)[0]
    share = np.ones(16)
    share[-1] = np.nan
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(model, task, si, epochs=1, sample_weight=share)
        # As an infinite gradient that an optimizer has survived leaves it.
        infinite = np.full(state.path_integrals[-1].shape, np.inf)
        state.path_integrals[-1].assign(infinite)
        try:
            si.consolidate()
        except ValueError as error:
            print(error)
    for each in said:
        if "SICallback" in str(each.message):
            print(each.message)
    return {
        f"{name} after a NaN": copies(getattr(state, f"{name}s"))
        for name in ("path_integral", "importance", "reference")
    }


def main(kind, output):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        strategy = tf_strategy(kind)
    else:
        keras.distribution.set_distribution(jax_distribution(kind))
    arrays = {}
    for case in CASES_OF[kind]:
        if backend == "tensorflow":
            with strategy.scope():
                model, si = make(case, kind)
            # Two replicas, or the test shows nothing.
            assert model.distribute_strategy.num_replicas_in_sync == 2
        else:
            model, si = make(case, kind)
        results = {"before": model.get_weights(), "loss": [], "si_penalty": []}

        def note_omega(logs, model=model, results=results):
            # When `fit` ends, before SI consolidates it.
            results["path_integral"] = copies(state_of(model).path_integrals)

        noting = keras.callbacks.LambdaCallback(on_train_end=note_omega)
        for task in make_tasks(examples=EXAMPLES):
            logs = fit(model, task, si, noting).history
            results["loss"] += logs["loss"]
            results["si_penalty"] += logs["si_penalty"]
        results["weights"] = model.get_weights()
        results["evaluate"] = [model.evaluate(*task, batch_size=8, verbose=0)]
        results["importance"] = list(si.get_importance().values())
        results["reference"] = list(si.get_reference().values())
        if case == "clipped":
            results |= not_finite(model, si)
        for what, values in results.items():
            for index, value in enumerate(values):
                arrays[f"{case}/{what}/{index}"] = value
    if kind == "model-parallel":
        assert_sharded(model)
    np.savez(output, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
