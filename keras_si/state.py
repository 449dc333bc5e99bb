"""SI's state: three arrays for each tracked variable, and what uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_si import backend, nonfinite
from keras_si import importance as si
from keras_si.distribution import assign
from keras_si.types import Tensor


class SIState:
    """omega, Omega and theta~ of every tracked variable.

    A variable is known by its slot, its position in `variables`. All state is
    optimizer state: created by `optimizer`, saved and restored with it.

    Args:
        optimizer: The SI optimizer, which creates the variables.
        variables: The tracked model variables.
        strength: c.
        accumulation_steps: Micro-batches per optimizer step, or `None`.

    Attributes:
        path_integrals: omega, one variable of the weights' shape a slot.
        importances: Omega, likewise.
        references: theta~, likewise; at first the weights of now.
        strength: c, a scalar variable.
        due: 1 when a task has ended and its consolidation is still to be
            done, else 0.
        steps: Optimizer steps since the last consolidation.
        all_steps: Optimizer steps since SI began.
        penalties: What each variable's penalty is at the weights of now,
            shape `(len(variables),)`. The update computes it while the
            weights are at hand, so that the next step need not read all of
            the state again.
        gradient_sums: Of the task's loss over the micro-batches of the step
            under way, likewise; none without gradient accumulation.
        penalty_sum, sample_count: Their quotient is the mean penalty over
            the samples since `reset_mean_penalty`.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        variables: Sequence[keras.Variable],
        strength: float,
        accumulation_steps: int | None,
    ) -> None:
        self.variables = list(variables)
        self._optimizer = optimizer
        self._accumulation_steps = accumulation_steps
        self.path_integrals = self._add_arrays("path_integral")
        self.importances = self._add_arrays("importance")
        self.references = self._add_arrays("reference", copy=True)
        self.gradient_sums = (
            self._add_arrays("task_gradient_sum") if accumulation_steps else []
        )
        dtypes = {reference.dtype for reference in self.references}
        log_dtype = "float64" if "float64" in dtypes else "float32"
        self.strength = self._add("strength", log_dtype, value=strength)
        self.due = self._add("consolidation_due", "int32")
        self.steps = self._add("steps_since_consolidation", "int32")
        self.penalties = self._add("penalties", log_dtype, (len(variables),))
        self.penalty_sum = self._add("penalty_sum", log_dtype)
        self.sample_count = self._add("sample_count", log_dtype)
        self.all_steps = self._add("all_steps", "int32")

    def _add(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...] = (),
        value: float = 0,
    ) -> keras.Variable:
        return self._optimizer.add_variable(
            shape=shape,
            initializer=keras.initializers.Constant(value),
            dtype=dtype,
            aggregation="only_first_replica",
            name=name,
        )

    def _add_arrays(
        self, name: str, copy: bool = False
    ) -> list[keras.Variable]:
        arrays = []
        for variable in self.variables:
            initializer = "zeros"
            if copy:
                initializer = _CopyOf(variable)
            dtype = variable.dtype
            if dtype not in ("float32", "float64"):
                dtype = "float32"  # bfloat16 cannot add up small steps
            array = self._optimizer.add_variable(
                shape=variable.shape,
                initializer=initializer,
                dtype=dtype,
                layout=backend.layout_of(variable),
                name=f"{variable.path.replace('/', '_')}_{name}",
            )
            arrays.append(array)
        return arrays

    def weights(self, slot: int) -> Tensor:
        """Returns theta of now, in the state's precision."""
        weights = ops.convert_to_tensor(self.variables[slot])
        # Outside a step, torch would record all that is done with them.
        return ops.cast(ops.stop_gradient(weights), self.references[slot].dtype)

    def _strength(self, slot: int) -> Tensor:
        return ops.cast(self.strength, self.references[slot].dtype)

    # During a task.

    def penalty_gradient(self, slot: int, weights: Tensor) -> Tensor:
        """Returns the gradient of the penalty at `weights`."""
        return si.penalty_gradient(
            weights,
            self.importances[slot],
            self.references[slot],
            self._strength(slot),
        )

    def accumulate(
        self, slot: int, gradient: Tensor, before: Tensor, stepped: Tensor
    ) -> None:
        """Adds one step to omega.

        Args:
            slot: Which variable.
            gradient: Of the task's loss alone, at `before`.
            before: theta before the step; it is now after.
            stepped: Whether the optimizer took a step, or only took note of
                a micro-batch.
        """
        if self._accumulation_steps:
            gradient = self._mean_gradient(slot, gradient, stepped)
        assign(
            self.path_integrals[slot],
            si.accumulate(
                self.path_integrals[slot], gradient, before, self.weights(slot)
            ),
        )

    def _mean_gradient(
        self, slot: int, gradient: Tensor, stepped: Tensor
    ) -> Tensor:
        """Returns the mean over the micro-batches so far of the step.

        It counts only at the step: in between, the weights stand still.
        """
        total = self.gradient_sums[slot] + gradient
        assign(
            self.gradient_sums[slot],
            ops.where(stepped, ops.zeros_like(total), total),
        )
        return total / self._accumulation_steps

    def count_step(self, stepped: Tensor) -> None:
        """Counts a call of the optimizer, if it took a step."""
        for count in (self.steps, self.all_steps):
            assign(count, count + ops.cast(stepped, "int32"))

    # At its end.

    def consolidate(self, damping: float) -> None:
        """Updates importance and reference, zeroes the path integral.

        Raises:
            ValueError: If a weight is NaN or infinite. Nothing is changed.
        """
        nonfinite.refuse_to_consolidate(self)
        for slot in range(len(self.variables)):
            self._assign(slot, self.consolidated(slot, damping))
        self.due.assign(0)
        self.steps.assign(0)
        self.refresh_penalties()

    def consolidate_if(self, condition: Tensor, damping: float) -> None:
        """Consolidates within a training step, where `condition` holds.

        Elements that are not finite are left as they are: omega shows
        them at the epoch's end, and they reach neither importance nor
        reference.
        """
        for slot in range(len(self.variables)):
            omega, importance, reference = (
                ops.convert_to_tensor(arrays[slot])
                for arrays in (
                    self.path_integrals,
                    self.importances,
                    self.references,
                )
            )
            new = self.consolidated(slot, damping)
            moved = condition & ops.isfinite(self.weights(slot))
            measured = moved & ops.isfinite(omega)
            self._assign(
                slot,
                (
                    ops.where(measured, new[0], omega),
                    ops.where(measured, new[1], importance),
                    ops.where(moved, new[2], reference),
                ),
            )
        steps = ops.convert_to_tensor(self.steps)
        assign(self.steps, ops.where(condition, 0, steps))

    def consolidated(
        self, slot: int, damping: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what omega, Omega and theta~ become at a task's end."""
        weights = self.weights(slot)
        importance = si.consolidate(
            self.importances[slot],
            self.path_integrals[slot],
            weights,
            self.references[slot],
            damping,
        )
        return ops.zeros_like(weights), importance, _copy(weights)

    def _assign(self, slot: int, values: Sequence[Tensor]) -> None:
        path_integral, importance, reference = values
        assign(self.path_integrals[slot], path_integral)
        assign(self.importances[slot], importance)
        assign(self.references[slot], reference)

    def adopt(self, slot: int, other: SIState, other_slot: int) -> None:
        """Takes the state of one variable over from another `SIState`."""
        self._assign(
            slot,
            [
                _copy(ops.convert_to_tensor(arrays[other_slot]))
                for arrays in (
                    other.path_integrals,
                    other.importances,
                    other.references,
                )
            ],
        )
        self.due.assign(ops.maximum(self.due, other.due))
        self.steps.assign(ops.maximum(self.steps, other.steps))
        self.all_steps.assign(ops.maximum(self.all_steps, other.all_steps))

    # The penalty in loss and logs.

    def refresh_penalties(self) -> None:
        """Computes each variable's penalty at the weights of now."""
        penalties = [
            si.penalty(
                self.weights(slot),
                self.importances[slot],
                self.references[slot],
                self._strength(slot),
            )
            for slot in range(len(self.variables))
        ]
        dtype = self.penalties.dtype
        assign(
            self.penalties, ops.stack([ops.cast(p, dtype) for p in penalties])
        )

    def add_to_mean_penalty(self, size: Tensor, penalty: Tensor) -> None:
        """Counts a step on `size` samples that began with `penalty`."""
        assign(self.penalty_sum, self.penalty_sum + size * penalty)
        assign(self.sample_count, self.sample_count + size)

    def reset_mean_penalty(self) -> None:
        """Begins a new mean, as Keras does for `loss` at every epoch."""
        self.penalty_sum.assign(0)
        self.sample_count.assign(0)

    def mean_penalty(self) -> float:
        """Returns the mean penalty over the samples since the last reset."""
        count = float(ops.convert_to_numpy(self.sample_count))
        total = float(ops.convert_to_numpy(self.penalty_sum))
        return total / count if count else 0.0


def _copy(x: Tensor) -> Tensor:
    # Adding zero makes a new buffer: a plain read may share the variable's.
    return x + ops.zeros((), x.dtype)


class _CopyOf(keras.initializers.Initializer):
    """Initializes a variable with what another one holds now."""

    def __init__(self, variable: keras.Variable) -> None:
        self.variable = variable

    def __call__(self, shape: Any, dtype: str | None = None) -> Tensor:
        return ops.cast(_copy(self.variable), dtype)
