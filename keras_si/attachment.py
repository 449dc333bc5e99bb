"""Puts SI's optimizer into a model, and takes it out again."""

import keras

from keras_si import backend, distribution, steps
from keras_si.optimizer import SIOptimizer
from keras_si.regularizer import SIRegularizer
from keras_si.types import Predicate


def attach(
    model: keras.Model,
    tracks: Predicate | None,
    damping: float,
    consolidate_every: int | None,
) -> SIOptimizer:
    """Makes `model` train with SI, and returns its `SIOptimizer`.

    State that the model carries already is taken up again: that of its own
    SI optimizer, or what the variables' regularizers know after `compile`
    gave the model a new optimizer.

    Args:
        model: A built, compiled `keras.Model`.
        tracks: Callable `variable -> bool`, or `None`: what the model's
            state tracks already, by default every variable.
        damping: xi.
        consolidate_every: Steps, or `None`.
    """
    backend.check_supported()
    distribution.check_supported(model)
    outer = getattr(model, "optimizer", None)
    if outer is None:
        raise ValueError(
            "SICallback needs a model that was compiled with an optimizer. "
            f"Received: '{model.name}', compiled without one. Call "
            "`model.compile(optimizer=..., loss=...)` first."
        )
    current = _inside(outer)
    distribution.check_optimizer(model, current)
    with distribution.scope(model):
        si_optimizer = _carrying_on(model, current, tracks)
    changed = si_optimizer.configure_consolidation(damping, consolidate_every)
    if (
        not changed
        and si_optimizer is current
        and si_optimizer.regularizers.attached()
        and steps.are_wrapped(model, si_optimizer.state)
    ):
        return si_optimizer
    _install(model, si_optimizer)
    si_optimizer.regularizers.attach()
    _release_untracked(model, si_optimizer)
    # Also where only the consolidation has changed: JAX keeps what it traced
    # for as long as the step is the same function.
    steps.wrap(
        model, si_optimizer.regularizers.known_penalties, si_optimizer.state
    )
    return si_optimizer


def detach(model: keras.Model, si_optimizer: SIOptimizer) -> None:
    """Gives `model` its own optimizer, regularizers and steps back."""
    si_optimizer.regularizers.detach()
    if _inside(model.optimizer) is si_optimizer:
        _install(model, si_optimizer.inner_optimizer)
    steps.unwrap(model)


def _inside(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns what a `LossScaleOptimizer` holds; others as they are."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer.inner_optimizer
    return optimizer


def _install(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    outer = model.optimizer
    if isinstance(outer, keras.optimizers.LossScaleOptimizer):
        # Inside: SI must see unscaled gradients, and no skipped steps.
        outer.inner_optimizer = optimizer
    else:
        outer = optimizer
    backend.set_optimizer(model, outer)


def _carrying_on(
    model: keras.Model,
    current: keras.optimizers.Optimizer,
    tracks: Predicate | None,
) -> SIOptimizer:
    """Returns the SI optimizer that carries on the model's state."""
    variables = model.trainable_variables
    tracked = [_is_tracked(variable, tracks) for variable in variables]
    previous = None
    if isinstance(current, SIOptimizer):
        if tracks is None or tracked == list(current.tracked or ()):
            return current
        if not current.regularizers.attached():
            current.regularizers.attach()
        previous, current = current, current.inner_optimizer
    if not any(tracked):
        raise ValueError(
            "SICallback has no variable to track: "
            + (
                "`include` and `exclude` leave none of the trainable "
                f"variables {[variable.path for variable in variables]}."
                if variables
                else f"'{model.name}' has no trainable variables."
            )
        )
    si_optimizer = SIOptimizer(current, tracked=tracked)
    si_optimizer.build(variables)
    _refuse_hidden_accumulation(current)
    si_optimizer.join_step_under_way(previous)
    return si_optimizer


def _release_untracked(model: keras.Model, si_optimizer: SIOptimizer) -> None:
    """Gives variables that SI tracked before their own regularizers back.

    Not those of another model which shares them, nor of frozen layers: their
    state is there when they are trained again.
    """
    own = {id(variable) for variable in model.variables}
    for variable in model.trainable_variables:
        regularizer = variable.regularizer
        if not isinstance(regularizer, SIRegularizer):
            continue
        group = regularizer.group
        if group is None or group is si_optimizer.regularizers:
            continue
        if own.issuperset(id(each) for each in group.state.variables):
            variable.regularizer = regularizer.previous


def _is_tracked(variable: keras.Variable, tracks: Predicate | None) -> bool:
    # Such a variable is overwritten by its "gradient" (float8 scales): it
    # takes no steps.
    if getattr(variable, "overwrite_with_gradient", False):
        return False
    return tracks is None or tracks(variable)


def _refuse_hidden_accumulation(
    optimizer: keras.optimizers.Optimizer,
) -> None:
    """Refuses what would make the path integral silently wrong."""
    for inner in getattr(optimizer, "optimizers", []):
        if inner.gradient_accumulation_steps:
            raise ValueError(
                "SICallback cannot see the steps of a MultiOptimizer whose "
                f"'{inner.name}' accumulates gradients. Received: "
                "gradient_accumulation_steps="
                f"{inner.gradient_accumulation_steps}. Use larger batches, or "
                "one optimizer that accumulates."
            )
