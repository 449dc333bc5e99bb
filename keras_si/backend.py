"""What depends on the backend, or on parts of Keras that are not public.

Everything of that kind is here, so that a new Keras is checked in one place;
`tests/test_backend.py` fails when one of these assumptions does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import keras

from keras_si import distribution
from keras_si.types import Tensor

if TYPE_CHECKING:
    from keras_si.state import SIState

Scope = Callable[[Tensor], AbstractContextManager[None]]

_STEPS = ("train_step", "test_step", "make_test_function")


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


def wrap_steps(model: keras.Model, scope: Scope, state: SIState) -> None:
    """Runs every step of `model` inside `scope(penalties)`.

    Args:
        model: A compiled `keras.Model`. Its steps are replaced on the
            instance; `unwrap_steps` undoes it.
        scope: Callable that takes the tensor of known penalties and returns
            a context manager.
        state: The `SIState`. Its `penalty_sum` and `sample_count` are updated
            as Keras updates the logged `loss`: weighted by batch size.
    """
    unwrap_steps(model)
    if keras.backend.backend() == "jax":
        _wrap_jax_steps(model, scope, state)
    else:
        _replace(
            model, "train_step", _stateful_step(model, scope, state), state
        )
    retrace(model)


def unwrap_steps(model: keras.Model) -> None:
    """Gives `model` back the steps it had, if they were wrapped."""
    for name in _STEPS:
        original = getattr(getattr(model, name), "keras_si_original", None)
        if original is not None:
            delattr(model, name)
            if getattr(model, name) != original:
                setattr(model, name, original)
    retrace(model)


def steps_are_wrapped(model: keras.Model, state: SIState) -> bool:
    """Whether `wrap_steps` was called with this model and this state."""
    return getattr(model.train_step, "keras_si_state", None) is state


def steps_must_be_wrapped() -> bool:
    """Whether SI's regularizers only work in steps that are wrapped.

    JAX would take their variables for constants.
    """
    return keras.backend.backend() == "jax"


def _replace(
    model: keras.Model, name: str, wrapper: Any, state: SIState
) -> None:
    original = getattr(model, name)
    wrapper = functools.wraps(original)(wrapper)
    wrapper.keras_si_original = original
    wrapper.keras_si_state = state
    setattr(model, name, wrapper)


def _stateful_step(
    model: keras.Model, scope: Scope, state: SIState
) -> Callable[[Any], Any]:
    original = model.train_step

    def train_step(data: Any) -> Any:
        if not _holds(model.optimizer, state):
            return original(data)
        size = keras.ops.cast(_batch_size(data), state.penalty_sum.dtype)
        (size,) = distribution.sum_over_replicas([size])
        penalties = keras.ops.copy(state.penalties)
        state.add_to_mean_penalty(size, keras.ops.sum(penalties))
        with scope(penalties):
            return original(data)

    return train_step


def _wrap_jax_steps(model: keras.Model, scope: Scope, state: SIState) -> None:
    """Wraps JAX's steps, which take all variables and return them anew.

    A variable that is not among them would be a constant of the compiled
    step. Training brings the optimizer's, and so SI's; testing does not.
    """
    import jax

    train, test, make_test = (getattr(model, name) for name in _STEPS)

    def train_step(model_state: Any, data: Any) -> Any:
        if not _holds(model.optimizer, state):
            with scope(jax.numpy.zeros(state.penalties.shape)):
                return train(model_state, data)
        index = {id(v): i for i, v in enumerate(model.optimizer.variables)}
        size = keras.ops.cast(_batch_size(data), state.penalty_sum.dtype)
        penalties = model_state[2][index[id(state.penalties)]]
        with scope(penalties):
            logs, model_state = train(model_state, data)
        new = list(model_state[2])
        new[index[id(state.penalty_sum)]] += size * penalties.sum()
        new[index[id(state.sample_count)]] += size
        return logs, (*model_state[:2], new, *model_state[3:])

    known = None

    def test_step(model_state: Any, data: Any) -> Any:
        penalties = jax.pure_callback(
            lambda: known,
            jax.ShapeDtypeStruct(state.penalties.shape, state.penalties.dtype),
        )
        with scope(penalties):
            return test(model_state, data)

    def make_test_function(force: bool = False) -> Any:
        # Keras calls it before every evaluation, whose weights stand still.
        nonlocal known
        model.jax_state_sync()
        state.refresh_penalties()
        known = keras.ops.convert_to_numpy(state.penalties)
        return make_test(force)

    _replace(model, "train_step", train_step, state)
    _replace(model, "test_step", test_step, state)
    _replace(model, "make_test_function", make_test_function, state)


def _holds(optimizer: keras.optimizers.Optimizer, state: SIState) -> bool:
    """Whether SI's state is still in the model's optimizer.

    After a new `compile` it is not, until the callback sees the model again.
    """
    return any(v is state.penalties for v in optimizer.variables)


def retrace(model: keras.Model) -> None:
    """Makes `model` trace its functions anew, if it has any.

    A function that was traced before would never call what is new: SI would
    silently do nothing.
    """
    if model.train_function is not None:
        model.make_train_function(force=True)
    model.test_function = None


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


def _batch_size(data: Any) -> Tensor:
    """Returns the size of a batch as Keras's own step takes it.

    A step of the user's own may get data that has none: each counts as one.
    """
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    for leaf in keras.tree.flatten(x):
        if leaf is not None and len(leaf.shape):
            return keras.ops.shape(leaf)[0]
    return 1
