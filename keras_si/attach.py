"""Puts SI's optimizer into a model, and takes it out again."""

from collections.abc import Callable
from typing import TypeAlias

import keras

from keras_si import backend, diagnostics, replicas
from keras_si.arguments import names_by_id
from keras_si.links import (
    is_linked,
    link,
    link_of,
    share_a_variable,
    unlink,
)
from keras_si.optimizer import SIOptimizer
from keras_si.saving import end_of_path
from keras_si.state import Fit, SIState, as_int

# Whether to track a variable, by itself and its name of `unique_names`.
Tracks: TypeAlias = Callable[[keras.Variable, str], bool]


def attach(
    model: keras.Model,
    tracks: Tracks | None,
    damping: float,
    consolidate_every: int | None,
) -> SIOptimizer:
    """Makes `model` train with SI, and returns its `SIOptimizer`.

    A model that carries state already continues with it: with the state of its
    own SI optimizer, or with what the variables' regularizers know after
    `compile` gave the model a new optimizer.

    Args:
        model: A built, compiled `keras.Model`.
        tracks: Which variables, or `None`: what the model's state tracks
            already, by default every trainable variable.
        damping: xi.
        consolidate_every: Steps, or `None`.
    """
    backend.check_supported()
    replicas.check_supported(model)
    outer = getattr(model, "optimizer", None)
    if outer is None:
        raise ValueError(
            "SICallback needs a model that was compiled with an optimizer. "
            f"Received: '{model.name}', compiled without one. Call "
            "`model.compile(optimizer=..., loss=...)` first."
        )
    current = _inside(outer)
    replicas.check_optimizer(model, current)
    with replicas.scope(model):
        si_optimizer = _carrying_on(model, current, tracks)
    state = si_optimizer.state
    diagnostics.check_not_erased(state)
    changed = si_optimizer.configure(damping, consolidate_every)
    if (
        not changed
        and si_optimizer is current
        and is_linked(state)
        and backend.has_wrapped_train_step(model, state)
    ):
        return si_optimizer
    _install(model, si_optimizer)
    _take_up(model, state)
    si_optimizer.is_used = True
    # Also where only the consolidation has changed: JAX keeps what it traced
    # for as long as the step is the same function.
    backend.wrap_train_step(model, state)
    backend.undo_failed_loads(model)
    return si_optimizer


def detach(model: keras.Model, si_optimizer: SIOptimizer) -> None:
    """Gives `model` its own optimizer, regularizers and step back."""
    unlink(model, model.variables)
    if _inside(model.optimizer) is si_optimizer:
        _install(model, si_optimizer.inner_optimizer)
    backend.unwrap_train_step(model)
    vars(model).pop("load_weights", None)
    backend.retrace(model)


def _inside(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns what is inside a `LossScaleOptimizer`; others as they are."""
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


# Which variables.


def _carrying_on(
    model: keras.Model,
    current: keras.optimizers.Optimizer,
    tracks: Tracks | None,
) -> SIOptimizer:
    """Returns the SI optimizer that carries on the model's state."""
    variables = model.trainable_variables
    names = names_by_id(model)
    tracked = [
        # Such a variable is overwritten by its "gradient" (float8 scales): it
        # takes no steps.
        not getattr(variable, "overwrite_with_gradient", False)
        and (tracks is None or tracks(variable, names[id(variable)]))
        for variable in variables
    ]
    if isinstance(current, SIOptimizer):
        same = tracks is None or tracked == list(current.tracked or ())
        if current.is_used and same:
            return current
        # A copy of an SI optimizer is used like the user's own.
        current = current.inner_optimizer
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
    return si_optimizer


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


# What SI knows of them.


def _take_up(model: keras.Model, state: SIState) -> None:
    """Gives `state` all that SI knows of the model's variables."""
    names = names_by_id(model)
    state.names = [names[id(variable)] for variable in state.variables]
    links = {id(v): found for v in model.weights if (found := link_of(v))}
    others = {id(each.state): each.state for each in links.values()}
    others.pop(id(state), None)
    for other in others.values():
        # Where the model stands in its task, and what a file knew.
        diagnostics.check_not_erased(other)
        if as_int(other.due) and other.fit is not Fit.RUNNING:
            other.consolidate()
        if other.fit is not Fit.NONE and share_a_variable(state, other):
            # Handed on: a frozen layer's state is asked again later.
            state.fit, other.fit = other.fit, Fit.NONE
        state.loaded |= other.loaded
        state.warned |= other.warned
    slots = {id(variable): i for i, variable in enumerate(state.variables)}
    beside = {id(v) for other in others.values() for _, v in other.others}
    ends = {end_of_path(variable) for variable in model.weights}
    newcomers, shifted = [], []
    for position, variable in enumerate(model.weights):
        if id(variable) not in slots:
            continue
        slot, found = slots[id(variable)], links.get(id(variable))
        end, arrays = state.loaded.pop(position, ("", ()))
        was_there = end == end_of_path(variable)
        if found is not None:
            if found.state is not state:
                steps = int(found.state.counts()[found.slot])
                state.take_over(slot, found.known(), steps)
        elif was_there and arrays:
            if arrays[0].shape == tuple(variable.shape):
                state.take_over(slot, arrays, steps=0)
        elif was_there or id(variable) in beside:
            newcomers.append(names[id(variable)])
        if arrays and not was_there and end in ends:
            shifted.append(end)
    if not any(other.has_importance() for other in others.values()):
        newcomers = []  # no task has been learned without them
    state.others = [
        (position, variable)
        for position, variable in enumerate(model.weights)
        if id(variable) not in slots
    ]
    link(state)
    # What SI tracked before; a frozen layer keeps its state until it is
    # trained again.
    unlink(model, model.trainable_variables, keep=state)
    diagnostics.warn_of_newcomers(newcomers)
    diagnostics.warn_of_shifted(shifted)
    diagnostics.warn_of_lora(
        state,
        [
            names[id(variable)]
            for _, variable in state.others
            if (found := link_of(variable)) and found.has_importance()
        ],
    )
