"""The penalty of SI with all importances 1: what importance is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .method import PAPER, Method

if TYPE_CHECKING:
    import keras


class L2(Method):
    """Holds every weight near its value at the last task's end, alike.

    The penalty is `c * sum((theta - theta~)^2)`, that of SI with every
    importance 1. Its scale is another one: it wants a `--strength` of its own.
    """

    label = "L2 to the last task's weights"
    summary = "SI's penalty with all importances 1; wants its own --strength"
    source = f"the control of Kirkpatrick et al. 2017; penalty of {PAPER}"
    uses = ("strength",)

    def __init__(self, strength: float, damping: float) -> None:
        super().__init__(strength, damping)
        self._strength: keras.Variable | None = None
        self._references: list[keras.Variable] = []

    @property
    def variables(self) -> list[keras.Variable]:
        strength = [] if self._strength is None else [self._strength]
        return strength + self._references

    def attach(self, model: keras.Model) -> None:
        import keras

        from keras_si import SIRegularizer

        # 0 for the first task, which has nothing to be held to.
        self._strength = keras.Variable(
            0.0, trainable=False, name="l2_strength"
        )
        self._references = []
        for weights in model.trainable_variables:
            reference = keras.Variable(
                weights + 0,
                trainable=False,
                dtype=weights.dtype,
                name=f"{weights.name}_reference",
            )
            self._references.append(reference)
            weights.regularizer = SIRegularizer(
                strength=self._strength,
                importance=keras.ops.ones(reference.shape),
                reference=reference,
                previous=weights.regularizer,
            )

    def end_task(self, model: keras.Model) -> None:
        import keras

        strength, *references = self.variables
        for reference, weights in zip(
            references, model.trainable_variables, strict=True
        ):
            # Adding zero makes a new buffer: a plain read may share theirs.
            reference.assign(weights + 0)
        strength.assign(self.strength)
        if keras.backend.backend() == "jax":
            import jax

            # JAX takes what is not the model's for a constant of the trace.
            jax.clear_caches()
