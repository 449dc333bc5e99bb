"""What depends on the backend, or on parts of Keras that are not public.

Everything of that kind is here, in `fit_hooks.py` and in `replicas.py`, so a
new Keras is checked in three places. Each assumption has a test in
`tests/library` that fails when Keras changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras

from keras_si import replicas
from keras_si.equations import Tensor


def check_supported() -> None:
    """Refuses settings of the backend under which SI would go wrong."""
    if keras.backend.backend() == "jax" and keras.config.is_nnx_enabled():
        raise ValueError(
            "SICallback does not work with NNX, which takes the training step "
            "from the model's class. Set KERAS_NNX_ENABLED=false."
        )


# Within a step.


def run_update(
    function: Callable[[list[Tensor]], None],
    gradients: list[Tensor],
    cache: dict[Hashable, Callable[[list[Tensor]], None]],
    key: Hashable,
) -> None:
    """Calls `function(gradients)`, compiled by XLA where possible and useful.

    Under TensorFlow, Keras runs an optimizer as dozens of separate passes
    over memory unless the whole model is compiled. One XLA function around
    the update costs less than plain Keras pays, and leaves the model alone.

    Args:
        function: Takes a list of tensors.
        gradients: That list.
        cache: Dict that keeps what was compiled.
        key: What `function` depends on besides its argument.
    """
    if _compiles(gradients):
        import tensorflow as tf

        if key not in cache:
            cache[key] = tf.function(
                function, jit_compile=True, autograph=False
            )
        function = cache[key]
    function(gradients)


def _compiles(gradients: list[Tensor]) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled

    return not (
        tf.executing_eagerly()  # run_eagerly=True asks for plain operations
        or tf.distribute.has_strategy()
        # Not every op is supported by XLA with determinism on.
        or is_op_determinism_enabled()
        # Its dense shape would have to be known to the compiler.
        or any(isinstance(g, tf.IndexedSlices) for g in gradients)
    )


def as_dense(gradient: Tensor) -> Tensor:
    """Returns a gradient as a tensor; embeddings have sparse ones."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    return gradient


def assign_if(
    condition: Tensor,
    variables: Sequence[keras.Variable],
    values: Callable[[], list[Tensor]],
) -> None:
    """Assigns `values()` to `variables` where the scalar `condition` is true.

    Elsewhere nothing is computed or written, so a step that does not need it
    does not pay for it.
    """
    name = keras.backend.backend()
    if name == "jax" and is_traced(condition):
        import jax

        new = jax.lax.cond(
            condition, values, lambda: [v.value for v in variables]
        )
    elif name == "tensorflow" and replicas.in_replica():
        # No branches: replicas would wait for each other within one.
        new = [
            keras.ops.where(condition, value, variable.value)
            for value, variable in zip(values(), variables, strict=True)
        ]
    elif name == "tensorflow":
        import tensorflow as tf

        def assign() -> Tensor:
            for variable, value in zip(variables, values(), strict=True):
                variable.assign(value)
            return condition

        tf.cond(condition, assign, lambda: condition)
        return
    elif bool(condition):
        new = values()
    else:
        return
    for variable, value in zip(variables, new, strict=True):
        replicas.assign(variable, value)


def is_traced(x: Any) -> bool:
    """Whether JAX is tracing `x`.

    JAX then takes every variable that is neither the model's nor the
    metrics' for a constant.
    """
    if keras.backend.backend() != "jax":
        return False
    import jax

    return isinstance(x, jax.core.Tracer)


# The model around it.


def set_optimizer(
    model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> None:
    """Gives `model` an optimizer, without forgetting loss and metrics.

    `model.save` writes the optimizer that was given to `compile`, not
    `model.optimizer`, and Keras has no public way to replace it.
    """
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer


def wrap_train_step(model: keras.Model, state: Any) -> None:
    """Has every training step of `model` know the penalties in advance.

    The optimizer has computed them when the weights were at hand. Keras has no
    public hook around a step: `train_step` is replaced on the instance.

    Args:
        model: A compiled `keras.Model`.
        state: The `SIState`; while a step runs, its `known_penalties` are the
            values of its `penalties`.
    """
    unwrap_train_step(model)
    original = model.train_step

    @functools.wraps(original)
    def train_step(*args: Any) -> Any:
        optimizer_variables = model.optimizer.variables
        found = [
            i for i, v in enumerate(optimizer_variables) if v is state.penalties
        ]
        if not found:  # a new `compile` has replaced SI's optimizer
            return original(*args)
        if keras.backend.backend() == "jax":
            penalties = args[0][2][found[0]]  # state is passed to a JAX step
        else:
            penalties = keras.ops.copy(state.penalties)
        try:
            state.known_penalties = penalties
            return original(*args)
        finally:
            state.known_penalties = None

    train_step.keras_si = original, state  # type: ignore[attr-defined]
    model.train_step = train_step
    retrace(model)


def unwrap_train_step(model: keras.Model) -> None:
    """Gives `model` back the training step that it had."""
    wrapped = getattr(model.train_step, "keras_si", None)
    if wrapped is not None:
        original, _ = wrapped
        del model.train_step
        if model.train_step != original:
            model.train_step = original
        retrace(model)


def has_wrapped_train_step(model: keras.Model, state: Any) -> bool:
    """Whether the training step of `model` knows the penalties of `state`."""
    _, wrapped_for = getattr(model.train_step, "keras_si", (None, None))
    return wrapped_for is state


def undo_failed_loads(model: keras.Model) -> None:
    """Has `model` keep its weights where its `load_weights` raises.

    Keras loads the layers before the optimizer, which refuses SI state that
    does not fit. `load_weights` is replaced on the instance, until it is
    deleted there.
    """
    if "load_weights" in vars(model):
        return
    original = model.load_weights

    @functools.wraps(original)
    def load_weights(*args: Any, **kwargs: Any) -> Any:
        before = model.get_weights()
        try:
            return original(*args, **kwargs)
        except Exception:
            model.set_weights(before)
            raise

    model.load_weights = load_weights


def retrace(model: keras.Model) -> None:
    """Makes `model` trace its functions again, if it has any.

    A function that was traced before would never call what is new: SI would
    silently do nothing.
    """
    if model.train_function is not None:
        model.make_train_function(force=True)
    model.test_function = None


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns all layers of `model`, also those inside others."""
    return list(model._flatten_layers())


def has_mask(x: Tensor) -> bool:
    """Whether layers have marked steps of `x` as padding."""
    from keras.src.backend.common.masking import get_keras_mask

    return get_keras_mask(x) is not None


def layout_of(variable: keras.Variable) -> Any:
    """Returns how the parts of `variable` lie on the devices, or `None`.

    State with the same layout stays beside its variable.
    """
    return getattr(variable, "_layout", None)
