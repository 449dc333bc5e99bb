"""SI's penalty with an importance that does not come from a path integral."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .method import Learned, Method

if TYPE_CHECKING:
    import keras


class Penalty(Method):
    """Keeps weights near their values at the last task's end.

    The penalty is `c * sum(Omega * (theta - theta~)^2)`, as SI's. Omega is 0
    in the first task: there is no earlier task to protect.
    """

    uses = ("strength",)
    own_strength = True

    def __init__(self, strength: float, damping: float) -> None:
        super().__init__(strength, damping)
        self._importances: list[keras.Variable] = []
        self._references: list[keras.Variable] = []

    @property
    def variables(self) -> list[keras.Variable]:
        return self._importances + self._references

    def attach(self, model: keras.Model) -> None:
        import keras
        from keras import ops

        from keras_si import SIRegularizer

        self._importances, self._references = [], []
        for weights in model.trainable_variables:
            for kept, name, value in (
                (self._importances, "importance", ops.zeros(weights.shape)),
                (self._references, "reference", weights + 0),
            ):
                variable = keras.Variable(
                    value,
                    trainable=False,
                    dtype=weights.dtype,
                    name=f"{weights.name}_{name}",
                )
                kept.append(variable)
            weights.regularizer = SIRegularizer(
                strength=self.strength,
                importance=self._importances[-1],
                reference=self._references[-1],
                previous=weights.regularizer,
            )

    def end_task(self, model: keras.Model, learned: Learned) -> None:
        import keras

        measured = self._measure(model, learned)
        for importance, value in zip(self._importances, measured, strict=True):
            importance.assign(value)
        for reference, weights in zip(
            self._references, model.trainable_variables, strict=True
        ):
            # Adding zero makes a new buffer: a plain read may share theirs.
            reference.assign(weights + 0)
        if keras.backend.backend() == "jax":
            import jax

            # JAX takes what is not the model's for a constant of the trace.
            jax.clear_caches()

    def _measure(self, model: keras.Model, learned: Learned) -> Sequence[Any]:
        """Returns Omega after a task, an array for each trainable variable."""
        raise NotImplementedError
