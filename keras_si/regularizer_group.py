"""The regularizers of all variables that one SI optimizer tracks."""

import contextlib
from collections.abc import Iterator

from keras import ops

from keras_si.regularizer import SIRegularizer
from keras_si.state import SIState
from keras_si.types import Tensor


class RegularizerGroup:
    """Puts an `SIRegularizer` on every tracked variable, and takes it away.

    Args:
        state: The `SIState` whose variables they are.
    """

    def __init__(self, state: SIState) -> None:
        self.state = state
        self._members: list[SIRegularizer] = []

    def attached(self) -> bool:
        """Whether every tracked variable has its regularizer of this group."""
        return len(self._members) > 0 and all(
            variable.regularizer is regularizer
            for variable, regularizer in zip(
                self.state.variables, self._members, strict=True
            )
        )

    def attach(self, silent: bool = False) -> None:
        """Puts the regularizers in place.

        State that another group has of a variable is taken over: the one
        before `compile` gave the model a new optimizer, or that of another
        model which shares the layer.

        Args:
            silent: Whether they answer with 0 until `attach` is called again:
                they only keep the state with the variables. Defaults to
                `False`.
        """
        members = []
        for slot, variable in enumerate(self.state.variables):
            previous = variable.regularizer
            if isinstance(previous, SIRegularizer) and previous.group:
                other = previous.group
                if other is not self:
                    other_slot = other._members.index(previous)
                    self.state.adopt(slot, other.state, other_slot)
                previous = previous.previous
            regularizer = SIRegularizer(
                self.state.strength,
                self.state.importances[slot],
                self.state.references[slot],
                previous,
            )
            regularizer.group = self
            if silent:
                regularizer.known_penalty = ops.zeros(())
            variable.regularizer = regularizer
            members.append(regularizer)
        self._members = members

    def detach(self) -> None:
        """Gives every variable the regularizer back that it had before."""
        for variable, regularizer in zip(
            self.state.variables, self._members, strict=True
        ):
            if variable.regularizer is regularizer:
                variable.regularizer = regularizer.previous
        self._members = []

    @contextlib.contextmanager
    def known_penalties(self, penalties: Tensor) -> Iterator[None]:
        """While it lasts, the regularizers answer with `penalties`."""
        try:
            for slot, regularizer in enumerate(self._members):
                regularizer.known_penalty = penalties[slot]
            yield
        finally:
            for regularizer in self._members:
                regularizer.known_penalty = None
