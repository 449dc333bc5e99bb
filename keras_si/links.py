"""The regularizers of tracked variables: by them a variable finds its state.

State lives in the optimizer, which `compile` replaces; the variables stay.
"""

from collections.abc import Iterable, Iterator, Sequence

import keras
from keras import ops

from keras_si import backend
from keras_si.equations import Tensor
from keras_si.regularizer import SIRegularizer
from keras_si.state import SIState


class TrackedRegularizer(SIRegularizer):
    """Puts the penalty of a tracked variable into `model.losses`.

    Its value carries no gradient: the optimizer adds that itself, in closed
    form.

    Args:
        state: The `SIState` that tracks the variable.
        slot: The variable's slot there.
        previous: The regularizer that the variable had before, or `None`.
    """

    def __init__(
        self,
        state: SIState,
        slot: int,
        previous: keras.regularizers.Regularizer | None,
    ) -> None:
        super().__init__(
            state.strength,
            state.importances[slot],
            state.references[slot],
            previous,
        )
        self.state, self.slot = state, slot

    def penalty(self, x: Tensor) -> Tensor:
        if self.state.known_penalties is not None:
            penalty = self.state.known_penalties[self.slot]
        elif backend.is_traced(x):
            # SI's variables would be constants there: under JAX, `evaluate`
            # shows the task's loss.
            penalty = 0.0
        else:
            penalty = ops.stop_gradient(super().penalty(x))
        # Keras adds up losses of one type only.
        wide = keras.config.floatx() == "float64"
        return ops.cast(penalty, "float64" if wide else "float32")

    def known(self) -> Sequence[Tensor]:
        """Returns omega, Omega and theta~ of the variable."""
        return [arrays[self.slot] for arrays in self.state.arrays]

    def has_importance(self) -> bool:
        return bool(ops.any(self.state.importances[self.slot] != 0))


def link_of(variable: keras.Variable) -> TrackedRegularizer | None:
    """Returns the link of a variable that is, or was, tracked."""
    regularizer = getattr(variable, "regularizer", None)
    return regularizer if isinstance(regularizer, TrackedRegularizer) else None


def link(state: SIState) -> None:
    """Puts a `TrackedRegularizer` on every variable of `state`."""
    for slot, variable in enumerate(state.variables):
        before = link_of(variable)
        previous = before.previous if before else variable.regularizer
        variable.regularizer = TrackedRegularizer(state, slot, previous)


def is_linked(state: SIState) -> bool:
    """Whether every variable of `state` has its regularizer."""
    return all(_own_links(state))


def is_linked_in_part(state: SIState) -> bool:
    """Whether a variable of `state` has its regularizer; else it is unused."""
    return any(_own_links(state))


def _own_links(state: SIState) -> Iterator[bool]:
    for found in map(link_of, state.variables):
        yield found is not None and found.state is state


def share_a_variable(one: SIState, other: SIState) -> bool:
    """Whether both have tracked a variable: one came before the other."""
    own = {id(variable) for variable in one.variables}
    return not own.isdisjoint(id(variable) for variable in other.variables)


def consolidate_frozen(state: SIState) -> None:
    """Ends the task of variables that have been frozen within it.

    They were learned together with variables of `state`; what SI knows of them
    is in an earlier state, which tracked both.
    """
    slots: dict[SIState, set[int]] = {}
    for _, variable in state.others:
        if found := link_of(variable):
            slots.setdefault(found.state, set()).add(found.slot)
    for earlier, frozen in slots.items():
        ended = [
            slot in frozen and count > 0
            for slot, count in enumerate(earlier.counts())
        ]
        if any(ended) and share_a_variable(state, earlier):
            earlier.end_task_of(ops.array(ended))


def unlink(
    model: keras.Model,
    variables: Iterable[keras.Variable],
    keep: SIState | None = None,
) -> None:
    """Gives variables of `model` the regularizer that they had before SI.

    Args:
        model: The model. Variables that it shares with another model, whose
            state tracks them, are left alone.
        variables: Which of its variables.
        keep: The `SIState` whose links stay. Defaults to `None`.
    """
    own = {id(variable) for variable in model.variables}
    for variable in variables:
        found = link_of(variable)
        if found is None or found.state is keep:
            continue
        if own.issuperset(id(each) for each in found.state.variables):
            variable.regularizer = found.previous
