"""omega, Omega and theta~ of every tracked variable; consolidation."""

from __future__ import annotations

import enum
import functools
from collections.abc import Container, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_si import backend, equations
from keras_si.arguments import unique_names
from keras_si.equations import Tensor
from keras_si.replicas import assign
from keras_si.variables import add_arrays, add_variable, copy


class Fit(enum.Enum):
    """What is known of the last `fit` in which a callback ended tasks."""

    NONE = enum.auto()
    RUNNING = enum.auto()  # or interrupted
    ENDED = enum.auto()


class SIState:
    """omega, Omega and theta~ of every tracked variable.

    A variable is known by its slot, its position in `variables`. All state is
    optimizer state: created by `optimizer`, saved and restored with it.

    Args:
        optimizer: The SI optimizer, which creates the variables.
        variables: The tracked model variables.
        strength: c.
        damping: xi.
        accumulation_steps: Micro-batches per optimizer step, or `None`.

    Attributes:
        path_integrals, importances, references: omega, Omega and theta~, a
            variable of the weights' shape for each slot.
        strength, damping: c and xi, scalar variables.
        gradient_sums: Sums of the task's gradients over the micro-batches of
            the step under way, with gradient accumulation only.
        steps: Optimizer steps of this task in which each variable had a
            gradient, shape `(len(variables),)`; -1 until the first of all. So
            long theta~ follows the weights: those that are set or loaded
            before are where the first task starts.
        penalties: Each variable's penalty at the present weights, shape
            `(len(variables),)`. The update computes it while the weights are
            at hand, so the next step need not read all of the state again.
        names: A unique name for each variable: its path, or the path with a
            suffix.
        known_penalties: For `links.py`: the values of `penalties` while a step
            is running, else `None`.
        due: For `task_ends.py`: 1 when a task has ended and is still to be
            consolidated, else 0.
        fit: For the same: a `Fit`; a state that was loaded within a task is
            of a running one.
        warned: For `diagnostics.py`: what it was warned of.
        others: For `attach.py` and `saving.py`: the model's other variables,
            each with its position in `model.weights`.
        loaded: For the same: what a file had of variables that were not
            tracked when it was saved: by position in `model.weights`, the end
            of the variable's path, and omega, Omega and theta~ if SI knew it.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        variables: Sequence[keras.Variable],
        strength: float,
        damping: float,
        accumulation_steps: int | None,
    ) -> None:
        self.variables = list(variables)
        self.names = unique_names(variables)
        self._accumulation_steps = accumulation_steps
        arrays = functools.partial(add_arrays, optimizer, self.variables)
        self.path_integrals = arrays("path_integral")
        self.importances = arrays("importance")
        self.references = arrays("reference", copied=True)
        self.gradient_sums = (
            arrays("task_gradient_sum") if accumulation_steps else []
        )
        dtypes = {reference.dtype for reference in self.references}
        dtype = "float64" if "float64" in dtypes else "float32"
        add = functools.partial(add_variable, optimizer)
        self.strength = add("strength", dtype, value=strength)
        self.damping = add("damping", dtype, value=damping)
        self.due = add("consolidation_due", "int32")
        shape = (len(self.variables),)
        self.steps = add("steps_since_consolidation", "int32", shape, -1)
        self.penalties = add("penalties", dtype, shape)
        self.known_penalties: Tensor | None = None
        self.fit = Fit.NONE
        self.warned: set[str] = set()
        self.others: list[tuple[int, keras.Variable]] = []
        self.loaded: dict[int, tuple[str, Sequence[Tensor]]] = {}

    def weights(self, slot: int) -> Tensor:
        """Returns the present theta, in the state's precision."""
        weights = ops.convert_to_tensor(self.variables[slot])
        # Outside a step, torch would record all that is done with them.
        return ops.cast(ops.stop_gradient(weights), self.references[slot].dtype)

    def _scalar(self, variable: keras.Variable, slot: int) -> Tensor:
        return ops.cast(variable, self.references[slot].dtype)

    # During a task.

    def follow_weights(self, slots: Sequence[int]) -> None:
        """Before the first step of variables: theta~ is theta."""
        steps = ops.convert_to_tensor(self.steps)
        if len(slots) < len(self.variables):
            steps = ops.stack([steps[slot] for slot in slots])
        backend.assign_if(
            ops.any(steps < 0),
            [self.references[slot] for slot in slots],
            lambda: [
                ops.where(
                    steps[i] < 0,
                    self.weights(slot),
                    ops.convert_to_tensor(self.references[slot]),
                )
                for i, slot in enumerate(slots)
            ],
        )

    def penalty_gradient(self, slot: int, weights: Tensor) -> Tensor:
        """Returns the gradient of the penalty at `weights`."""
        return equations.penalty_gradient(
            weights,
            self.importances[slot],
            self.references[slot],
            self._scalar(self.strength, slot),
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
            equations.accumulate(
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

    def forget_micro_batches(self) -> None:
        """Drops the sums of a step that is not complete."""
        for total in self.gradient_sums:
            total.assign(ops.zeros(total.shape, total.dtype))

    def count_step(self, slots: Container[int], stepped: Tensor) -> None:
        """Counts a call of the optimizer for these, if it took a step."""
        heard = [slot in slots for slot in range(len(self.variables))]
        steps = ops.convert_to_tensor(self.steps)
        counted = ops.logical_and(stepped, ops.array(heard))
        assign(
            self.steps,
            ops.where(counted, ops.maximum(steps, 0) + 1, steps),
        )

    def refresh_penalties(self) -> None:
        """Computes each variable's penalty at the present weights.

        They are NaN where the state was erased: a loop that calls
        `train_on_batch` alone asks no other question than its loss.
        """
        dtype = self.penalties.dtype
        penalties = [
            equations.penalty(
                self.weights(slot),
                self.importances[slot],
                self.references[slot],
                self._scalar(self.strength, slot),
            )
            for slot in range(len(self.variables))
        ]
        known = ops.stack([ops.cast(p, dtype) for p in penalties])
        nan = ops.full_like(known, float("nan"))
        assign(self.penalties, ops.where(self.is_erased(), nan, known))

    # At its end.

    def consolidate(self) -> None:
        """Ends a task: updates Omega, moves theta~ to theta, zeroes omega."""
        self.end_task_of(ops.ones(len(self.variables), "bool"))
        self.due.assign(0)

    def consolidate_after(self, steps: int) -> None:
        """Within a training step: ends a task that had so many steps."""
        counts = ops.convert_to_tensor(self.steps)
        ends = ops.max(counts) >= steps
        self.end_task_of(ops.logical_and(ends, counts > 0))

    def end_task_of(self, ended: Tensor) -> None:
        """Consolidates the variables for which `ended` is true.

        Elements that are not finite are left as they are: omega shows them at
        the epoch's end, and they reach neither Omega nor theta~.
        """
        for slot in range(len(self.variables)):
            omega, importance, reference = (
                ops.convert_to_tensor(arrays[slot]) for arrays in self.arrays
            )
            weights = self.weights(slot)
            consolidated = equations.consolidate(
                importance,
                omega,
                weights,
                reference,
                self._scalar(self.damping, slot),
            )
            moved = ops.logical_and(ended[slot], ops.isfinite(weights))
            measured = ops.logical_and(moved, ops.isfinite(omega))
            new = (
                ops.where(measured, ops.zeros_like(omega), omega),
                ops.where(measured, consolidated, importance),
                ops.where(moved, weights, reference),
            )
            self._assign(slot, new)
        steps = ops.convert_to_tensor(self.steps)
        assign(self.steps, ops.where(ended, ops.minimum(steps, 0), steps))

    def add_importance(self, added: Mapping[str, Tensor]) -> None:
        """Adds to Omega, by name; theta~ follows the weights no longer."""
        for name, importance in zip(self.names, self.importances, strict=True):
            if name in added:
                more = ops.cast(added[name], importance.dtype)
                importance.assign(importance + more)
        self.steps.assign(ops.maximum(self.steps, 0))

    @property
    def arrays(self) -> tuple[list[keras.Variable], ...]:
        """omega, Omega and theta~."""
        return self.path_integrals, self.importances, self.references

    def _assign(self, slot: int, values: Sequence[Tensor]) -> None:
        for arrays, value in zip(self.arrays, values, strict=True):
            assign(arrays[slot], value)

    def take_over(self, slot: int, known: Sequence[Tensor], steps: int) -> None:
        """Takes over omega, Omega, theta~ and the steps of one variable."""
        self._assign(slot, [copy(ops.convert_to_tensor(a)) for a in known])
        counts = ops.convert_to_numpy(self.steps).copy()
        counts[slot] = steps
        self.steps.assign(counts)

    # Questions.

    def is_erased(self) -> Tensor:
        """Returns whether somebody set all to 0: xi is above 0 otherwise."""
        return ops.equal(self.damping, 0)

    def penalty(self) -> float:
        """Returns the sum of the penalties, as last computed."""
        return float(ops.convert_to_numpy(ops.sum(self.penalties)))

    def counts(self) -> np.ndarray:
        """Returns `steps` as an array."""
        return ops.convert_to_numpy(self.steps)

    def steps_of_task(self) -> int:
        """Returns the number of optimizer steps since the consolidation."""
        return max(int(self.counts().max()), 0)

    def has_importance(self) -> bool:
        return any(bool(ops.any(each != 0)) for each in self.importances)


def as_int(variable: keras.Variable) -> int:
    return int(ops.convert_to_numpy(variable))
