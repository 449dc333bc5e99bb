"""Squared gradients of single samples, on each backend.

One backward pass a sample, and a plain loop: that needs no rule for a kind of
layer, and no more memory than one gradient and the sum.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_si import backend
from keras_si.equations import Tensor


def check_one_device(model: keras.Model) -> None:
    """Refuses models that are spread over devices: that was not tried."""
    strategy = getattr(model, "distribute_strategy", None)
    default = "_DefaultDistributionStrategy"
    if keras.distribution.distribution() is None and (
        strategy is None or type(strategy).__name__ == default
    ):
        return
    raise ValueError(
        "`fisher_importance` works on one device. Received: a model under "
        "tf.distribute or keras.distribution. Load the model outside it, "
        "estimate there, and pass the importance to `add_importance` here."
    )


def sum_squares(
    measure: Callable[..., Tensor],
    variables: Sequence[keras.Variable],
    others: Sequence[keras.Variable],
    samples: Iterable[Sequence[Any]],
    model: keras.Model,
) -> list[np.ndarray]:
    """Returns the sum over samples of the squared gradient, by variable.

    In float32, or in float64 where the variable is. No variable changes.

    Args:
        measure: `measure(values, other_values, *sample)`, a scalar tensor.
        variables: By which to differentiate; their tensors are `values`.
        others: What else `measure` depends on, not to become constants.
        samples: Tuples of arrays, of the same shapes each.
        model: The model; if it must run eagerly, nothing is compiled.
    """
    compiled = not model.run_eagerly
    if keras.backend.backend() == "jax":
        compiled = compiled and model.jit_compile
    dtypes = [
        "float64" if "float64" in str(v.value.dtype) else "float32"
        for v in variables
    ]
    run = {
        "tensorflow": _tensorflow,
        "jax": _jax,
        "torch": _torch,
    }[keras.backend.backend()]
    totals = run(measure, variables, others, dtypes, samples, compiled)
    return [ops.convert_to_numpy(total) for total in totals]


def _tensorflow(
    measure: Callable[..., Tensor],
    variables: Sequence[keras.Variable],
    others: Sequence[keras.Variable],
    dtypes: Sequence[str],
    samples: Iterable[Sequence[Any]],
    compiled: bool,
) -> list[Tensor]:
    import tensorflow as tf

    totals = [
        tf.Variable(tf.zeros(variable.shape, dtype))
        for variable, dtype in zip(variables, dtypes, strict=True)
    ]

    def step(*sample: Any) -> None:
        values = [tf.convert_to_tensor(v.value) for v in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            measured = measure(values, [v.value for v in others], *sample)
        gradients = tape.gradient(measured, values)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                gradient = tf.cast(backend.as_dense(gradient), total.dtype)
                total.assign_add(tf.square(gradient))

    steps = [step]
    if compiled:
        # The second where XLA has no rule for an operation of the model.
        steps = [
            tf.function(step, jit_compile=jit, autograph=False)
            for jit in (True, False)
        ]
    for sample in samples:
        try:
            steps[0](*sample)
        except Exception:
            if len(steps) == 1:
                raise
            del steps[0]
            steps[0](*sample)
        else:
            del steps[1:]
    return totals


def _jax(
    measure: Callable[..., Tensor],
    variables: Sequence[keras.Variable],
    others: Sequence[keras.Variable],
    dtypes: Sequence[str],
    samples: Iterable[Sequence[Any]],
    compiled: bool,
) -> list[Tensor]:
    import jax

    def step(totals: Any, values: Any, other_values: Any, sample: Any) -> Any:
        gradients = jax.grad(measure)(values, other_values, *sample)
        return [
            total + gradient.astype(total.dtype) ** 2
            for total, gradient in zip(totals, gradients, strict=True)
        ]

    if compiled:
        # The sum is donated, never the weights.
        step = jax.jit(step, donate_argnums=0)
    totals = [
        jax.numpy.zeros(variable.shape, dtype)
        for variable, dtype in zip(variables, dtypes, strict=True)
    ]
    values, other_values = (
        [v.value for v in variables],
        [v.value for v in others],
    )
    for sample in samples:
        totals = step(totals, values, other_values, sample)
        for total in totals:  # no queue of steps, each with a sum of its own
            total.block_until_ready()
    return totals


def _torch(
    measure: Callable[..., Tensor],
    variables: Sequence[keras.Variable],
    others: Sequence[keras.Variable],
    dtypes: Sequence[str],
    samples: Iterable[Sequence[Any]],
    compiled: bool,
) -> list[Tensor]:
    import torch

    values, other_values = (
        [v.value for v in variables],
        [v.value for v in others],
    )
    totals = [
        torch.zeros_like(value, dtype=getattr(torch, dtype))
        for value, dtype in zip(values, dtypes, strict=True)
    ]
    for sample in samples:
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                measure(values, other_values, *sample),
                values,
                allow_unused=True,
            )
        with torch.no_grad():
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    gradient = gradient.to(total.dtype)
                    total.addcmul_(gradient, gradient)
    return totals
