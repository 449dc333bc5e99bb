"""The steps of a model, run so that its loss holds the penalty known already.

Keras has no public hook around a step: the model's own functions are replaced
on the instance. `tests/library/test_backend.py` fails when that has no effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import keras

from keras_si import distribution
from keras_si.types import Tensor

if TYPE_CHECKING:
    from keras_si.state import SIState

Scope = Callable[[Tensor], AbstractContextManager[None]]

_STEPS = ("train_step", "test_step", "make_test_function")


def wrap(model: keras.Model, scope: Scope, state: SIState) -> None:
    """Runs every step of `model` inside `scope(penalties)`.

    Args:
        model: A compiled `keras.Model`. Its steps are replaced on the
            instance; `unwrap` undoes it.
        scope: Callable that takes the tensor of known penalties and returns
            a context manager.
        state: The `SIState`. Its `penalty_sum` and `sample_count` are updated
            as Keras updates the logged `loss`: weighted by batch size.
    """
    unwrap(model)
    if keras.backend.backend() == "jax":
        _wrap_jax_steps(model, scope, state)
    else:
        _replace(
            model, "train_step", _stateful_step(model, scope, state), state
        )
    retrace(model)


def unwrap(model: keras.Model) -> None:
    """Gives `model` back the steps it had, if they were wrapped."""
    for name in _STEPS:
        original = getattr(getattr(model, name), "keras_si_original", None)
        if original is not None:
            delattr(model, name)
            if getattr(model, name) != original:
                setattr(model, name, original)
    retrace(model)


def are_wrapped(model: keras.Model, state: SIState) -> bool:
    """Whether `wrap` was called with this model and this state."""
    return getattr(model.train_step, "keras_si_state", None) is state


def must_be_wrapped() -> bool:
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


def retrace(model: keras.Model) -> None:
    """Makes `model` trace its functions anew, if it has any.

    A function that was traced before would never call what is new: SI would
    silently do nothing.
    """
    if model.train_function is not None:
        model.make_train_function(force=True)
    model.test_function = None


def _holds(optimizer: keras.optimizers.Optimizer, state: SIState) -> bool:
    """Whether SI's state is still in the model's optimizer.

    After a new `compile` it is not, until the callback sees the model again.
    """
    return any(v is state.penalties for v in optimizer.variables)


def _batch_size(data: Any) -> Tensor:
    """Returns the size of a batch as Keras's own step takes it.

    A step of the user's own may get data that has none: each counts as one.
    """
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    for leaf in keras.tree.flatten(x):
        if leaf is not None and len(leaf.shape):
            return keras.ops.shape(leaf)[0]
    return 1
