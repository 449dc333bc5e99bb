"""What depends on the backend, or on parts of Keras that are not public.

Everything of that kind is here, in `steps.py` and in `distribution.py`, so that
a new Keras is checked in few places; `tests/library/test_backend.py` fails when one of
these assumptions does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import keras

from keras_si.types import Tensor


def check_supported() -> None:
    """Refuses settings of the backend under which SI would go wrong."""
    if keras.backend.backend() == "jax" and keras.config.is_nnx_enabled():
        raise ValueError(
            "SICallback does not work with NNX, which takes the training step "
            "from the model's class. Set KERAS_NNX_ENABLED=false."
        )


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


def accumulated_gradients(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Returns variables, and the sums of their gradients in a step under way.

    None if the optimizer accumulates no gradients. Not public in Keras.
    """
    if not optimizer.gradient_accumulation_steps:
        return []
    variables = optimizer._trainable_variables
    sums = optimizer._accumulated_gradients
    return list(zip(variables, sums, strict=True))


def sync_variables(model: keras.Model) -> None:
    """Puts the values of now in the variables, within a `fit`.

    JAX's `fit` keeps them elsewhere between its steps.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def set_optimizer(
    model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> None:
    """Gives `model` an optimizer, without forgetting loss and metrics.

    `model.save` writes the optimizer that was given to `compile`, not
    `model.optimizer`, and Keras has no public way to replace it.
    """
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer


def forget_initial_epoch(model: keras.Model) -> None:
    """Forgets the epoch at which `BackupAndRestore` made this `fit` begin.

    Keras never does: the next task's `fit` would silently skip epochs.
    """
    model._initial_epoch = None


def callbacks_of_this_fit() -> list[keras.callbacks.Callback]:
    """Returns all callbacks of the `fit` which calls a callback's hook now."""
    found = _list_of_this_fit()
    return [] if found is None else list(found.callbacks)


def call_last_in_this_fit(callback: keras.callbacks.Callback) -> None:
    """Has a callback called after all others of this `fit`.

    The list is the `fit`'s own, not the one that the user has given.
    """
    found = _list_of_this_fit()
    # A user's own `CallbackList` serves many fits.
    if found is not None and callback not in found.callbacks:
        found.callbacks.append(callback)


def _list_of_this_fit() -> keras.callbacks.CallbackList | None:
    """Returns what calls a callback's hook now.

    Keras tells no callback of the others. What calls its hooks is public, a
    `keras.callbacks.CallbackList`, and is found among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller
        frame = frame.f_back
    return None


def build_before_first_step(
    model: keras.Model, on_built: Callable[[], None]
) -> None:
    """Builds `model` from the first data that `fit` brings, before a step.

    Under TensorFlow, Keras builds a model only while it traces the first
    step; too late for the callback to attach to its variables.
    """

    def train_function(iterator: Any) -> Any:
        model.train_function = None  # whatever happens: one call alone
        try:
            spec = iterator.element_spec
            x, _, _ = keras.utils.unpack_x_y_sample_weight(spec)
            model(
                keras.tree.map_structure(
                    lambda leaf: keras.KerasTensor(
                        leaf.shape, dtype=leaf.dtype.name
                    ),
                    x,
                )
            )
        except Exception as error:
            raise ValueError(
                "SICallback could not build the model from the data given to "
                f"`fit`: {error} Build it first: start it with a "
                "`keras.Input`, or call it once on a batch."
            ) from error
        on_built()
        model.make_train_function(force=True)
        return model.train_function(iterator)

    model.train_function = train_function


def layout_of(variable: keras.Variable) -> Any:
    """Returns how the parts of `variable` lie on the devices, or `None`.

    State with the same layout stays beside its variable.
    """
    return getattr(variable, "_layout", None)
