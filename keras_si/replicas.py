"""`tf.distribute`: one model, trained by several replicas in step.

Each replica has a share of the batch, and a gradient of its own; Keras sums
them in the middle of the optimizer's step. The path integral needs the sum
before that step begins, so SI sums, and keeps the optimizer from doing it
again. JAX needs none of this: its arrays are whole, wherever their parts are.

Outside a strategy every function here does nothing special. Keras's private
`_all_reduce_sum_gradients` is used; `tests/library/test_replicas.py` fails when
it is no longer what it was.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import keras

from keras_si.equations import Tensor

_KEPT = threading.local()  # replicas are threads


def check_supported(model: keras.Model) -> None:
    """Refuses strategies under which SI was not seen to be exact."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None:
        return
    import tensorflow as tf

    name = type(strategy).__name__
    supported = (
        tf.distribute.MirroredStrategy,
        tf.distribute.MultiWorkerMirroredStrategy,
        tf.distribute.OneDeviceStrategy,
    )
    if name != "_DefaultDistributionStrategy" and not isinstance(
        strategy, supported
    ):
        raise ValueError(
            "SICallback supports tf.distribute's MirroredStrategy, "
            "MultiWorkerMirroredStrategy and OneDeviceStrategy. Received: a "
            f"model made under {name}. Make it under one of these, or outside "
            "the strategy's scope."
        )


def check_optimizer(
    model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> None:
    """Refuses what Keras itself cannot do with several replicas."""
    strategy = getattr(model, "distribute_strategy", None)
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        value = getattr(optimizer, option, None)
        if replicas > 1 and value:
            raise ValueError(
                f"Keras has no `{option}` under tf.distribute. Received: "
                f"'{optimizer.name}' with {option}={value}, and a model made "
                f"under {type(strategy).__name__} with {replicas} replicas. "
                "Leave it out (larger batches do for accumulation), or train "
                "on one device."
            )


def in_replica() -> bool:
    """Whether the code runs within a step of one of several replicas."""
    return _replica_context() is not None


def scope(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Returns the context in which the variables of `model` were made."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def sum_over_replicas(tensors: list[Tensor]) -> list[Tensor]:
    """Returns each tensor summed over all replicas, to every replica."""
    context = _replica_context()
    if context is None:
        return tensors
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def assign(variable: keras.Variable, value: Tensor) -> None:
    """Assigns to a variable of which each replica has a copy.

    A plain `variable.assign` would send the first replica's value to all of
    them; here each keeps its own, which is the same.
    """
    if _replica_context() is None:
        variable.assign(value)
        return
    import tensorflow as tf

    def update(strategy: Any, mirrored: Any, values: Any) -> None:
        strategy.extended.update(
            mirrored,
            lambda copy, value: copy.assign(tf.cast(value, copy.dtype)),
            args=(values,),
            group=False,
        )

    # As Keras's own optimizers do: compiled by XLA, no replica waits.
    tf.__internal__.distribute.interim.maybe_merge_call(
        update, tf.distribute.get_strategy(), variable.value, value
    )


@contextlib.contextmanager
def already_summed(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """While it lasts, `optimizer` takes gradients for sums over replicas."""
    if _replica_context() is None:
        yield
        return
    for each in getattr(optimizer, "optimizers", [optimizer]):
        _make_reduction_optional(each)
    _KEPT.gradients = True
    try:
        yield
    finally:
        _KEPT.gradients = False


def _make_reduction_optional(optimizer: keras.optimizers.Optimizer) -> None:
    name = "_all_reduce_sum_gradients"
    if name in vars(optimizer):
        return
    original = getattr(optimizer, name)

    @functools.wraps(original)
    def reduce(
        grads_and_vars: list[tuple[Tensor, keras.Variable]],
    ) -> list[tuple[Tensor, keras.Variable]]:
        if getattr(_KEPT, "gradients", False):
            return list(grads_and_vars)
        return original(grads_and_vars)

    # Not by plain assignment: Keras would track it.
    vars(optimizer)[name] = reduce


def _replica_context() -> Any:
    """Returns TensorFlow's, in a step of a replica; else `None`."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return None
    return tf.distribute.get_replica_context()
