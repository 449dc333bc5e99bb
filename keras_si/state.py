"""omega, Omega and theta~ of every tracked variable; consolidation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_si import backend, equations
from keras_si.arguments import unique_names
from keras_si.equations import Tensor
from keras_si.regularizer import TrackedRegularizer
from keras_si.replicas import assign

# Values of `SIState.phase`: no step was heard yet, or some. 0 is none of them:
# then somebody has zeroed all variables of the optimizer.
FOLLOWING, BEGUN = 1, 2


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
        names: A name for each variable, no two alike: its path, or the path
            with a suffix.
        path_integrals: omega, one variable of the weights' shape a slot.
        importances: Omega, likewise.
        references: theta~, likewise; the weights of now until the first step.
        strength: c, a scalar variable.
        damping: xi, a scalar variable.
        phase: `FOLLOWING` until SI hears the first step: weights that are set
            or loaded before are where the first task starts. Then `BEGUN`.
        due: 1 when a task has ended and its consolidation is still to be
            done, else 0.
        steps: Optimizer steps since the last consolidation.
        penalties: What each variable's penalty is at the weights of now,
            shape `(len(variables),)`. The update computes it while the
            weights are at hand, so the next step need not read all of the
            state again.
        gradient_sums: Of the task's loss over the micro-batches of the step
            under way, likewise; none without gradient accumulation.
        known_penalties: The values of `penalties`, while a step is running,
            else `None`.
        frozen: omega, Omega and theta~ of variables that are frozen now, by
            the variable's position in `model.weights`. They are saved, and
            taken up when the variable is trained again.
        untracked: The model's other variables, by their id.
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
        self._optimizer = optimizer
        self._accumulation_steps = accumulation_steps
        self.path_integrals = self._add_arrays("path_integral")
        self.importances = self._add_arrays("importance")
        self.references = self._add_arrays("reference", copy=True)
        self.gradient_sums = (
            self._add_arrays("task_gradient_sum") if accumulation_steps else []
        )
        dtypes = {reference.dtype for reference in self.references}
        dtype = "float64" if "float64" in dtypes else "float32"
        self.strength = self._add("strength", dtype, value=strength)
        self.damping = self._add("damping", dtype, value=damping)
        self.phase = self._add("phase", "int32", value=FOLLOWING)
        self.due = self._add("consolidation_due", "int32")
        self.steps = self._add("steps_since_consolidation", "int32")
        self.penalties = self._add("penalties", dtype, (len(variables),))
        self.known_penalties: Tensor | None = None
        self.frozen: dict[int, Sequence[Tensor]] = {}
        self.untracked: dict[int, keras.Variable] = {}

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
            dtype = variable.dtype
            if dtype not in ("float32", "float64"):
                dtype = "float32"  # bfloat16 cannot add up small steps
            array = self._optimizer.add_variable(
                shape=variable.shape,
                initializer=_CopyOf(variable) if copy else "zeros",
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

    def _scalar(self, variable: keras.Variable, slot: int) -> Tensor:
        return ops.cast(variable, self.references[slot].dtype)

    # During a task.

    def follow_weights(self) -> None:
        """Before a step: theta~ is theta, where SI has heard no step yet."""
        backend.assign_if(
            ops.equal(self.phase, FOLLOWING),
            self.references,
            lambda: [
                _copy(self.weights(slot)) for slot in range(len(self.variables))
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

    def count_step(self, stepped: Tensor) -> None:
        """Counts a call of the optimizer, if it took a step."""
        assign(self.steps, self.steps + ops.cast(stepped, "int32"))
        begins = ops.logical_and(stepped, ops.equal(self.phase, FOLLOWING))
        assign(self.phase, self.phase + ops.cast(begins, "int32"))

    def refresh_penalties(self) -> None:
        """Computes each variable's penalty at the weights of now."""
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
        assign(
            self.penalties, ops.stack([ops.cast(p, dtype) for p in penalties])
        )

    # At its end.

    def consolidate(self, condition: Tensor | bool = True) -> None:
        """Ends a task: updates Omega, moves theta~ to theta, zeroes omega.

        Args:
            condition: A scalar; where it is false, nothing is done. With a
                tensor, within a training step, elements that are not finite
                are left as they are: omega shows them at the epoch's end, and
                they reach neither Omega nor theta~. Defaults to `True`, for
                which weights and omega must be finite.
        """
        for slot in range(len(self.variables)):
            weights = self.weights(slot)
            omega, importance, reference = (
                ops.convert_to_tensor(arrays[slot]) for arrays in self.arrays
            )
            values = (
                ops.zeros_like(weights),
                equations.consolidate(
                    importance,
                    omega,
                    weights,
                    reference,
                    self._scalar(self.damping, slot),
                ),
                _copy(weights),
            )
            if condition is not True:
                moved = condition & ops.isfinite(weights)
                measured = moved & ops.isfinite(omega)
                values = (
                    ops.where(measured, values[0], omega),
                    ops.where(measured, values[1], importance),
                    ops.where(moved, values[2], reference),
                )
            self._assign(slot, values)
        for count in (self.steps, self.due):
            assign(count, ops.where(condition, 0, ops.convert_to_tensor(count)))

    def add_importance(self, added: Mapping[str, Tensor]) -> None:
        """Adds to Omega, by name; theta~ follows the weights no longer."""
        for name, importance in zip(self.names, self.importances, strict=True):
            if name in added:
                more = ops.cast(added[name], importance.dtype)
                importance.assign(importance + more)
        self.phase.assign(BEGUN)

    @property
    def arrays(self) -> tuple[list[keras.Variable], ...]:
        return self.path_integrals, self.importances, self.references

    def _assign(self, slot: int, values: Sequence[Tensor]) -> None:
        for arrays, value in zip(self.arrays, values, strict=True):
            assign(arrays[slot], value)

    # What there is to know of it.

    def penalty(self) -> float:
        """Returns the penalty at the weights of now, as last computed."""
        return float(ops.convert_to_numpy(ops.sum(self.penalties)))

    def is_following(self) -> bool:
        """Whether the reference follows the weights: no step was heard."""
        return as_int(self.phase) == FOLLOWING

    def knows(self) -> bool:
        """Whether any weight has importance."""
        return any(bool(ops.any(each != 0)) for each in self.importances)

    def is_erased(self) -> bool:
        """Whether somebody has zeroed all of the optimizer's variables."""
        return as_int(self.phase) == 0

    # The regularizers of its variables, by which it is found again.

    def attach(self) -> None:
        """Puts a regularizer on every tracked variable."""
        for slot, variable in enumerate(self.variables):
            previous = variable.regularizer
            if isinstance(previous, TrackedRegularizer):
                previous = previous.previous
            variable.regularizer = TrackedRegularizer(self, slot, previous)

    def adopt(self, slot: int, other: SIState, known: Sequence[Tensor]) -> None:
        """Takes over omega, Omega and theta~ of one variable, and where
        the other state stands within its task."""
        self._assign(slot, [_copy(ops.convert_to_tensor(a)) for a in known])
        for name in ("phase", "due", "steps"):
            mine, others = getattr(self, name), getattr(other, name)
            mine.assign(ops.maximum(mine, others))

    def is_attached(self) -> bool:
        """Whether every tracked variable has its regularizer of this state."""
        return all(_is_of(self, variable) for variable in self.variables)

    def detach(self) -> None:
        """Gives every variable the regularizer back that it had before."""
        for variable in self.variables:
            if _is_of(self, variable):
                variable.regularizer = variable.regularizer.previous


def _is_of(state: SIState, variable: keras.Variable) -> bool:
    regularizer = variable.regularizer
    return (
        isinstance(regularizer, TrackedRegularizer)
        and regularizer.state is state
    )


def as_int(variable: keras.Variable) -> int:
    return int(ops.convert_to_numpy(variable))


def _copy(x: Tensor) -> Tensor:
    # Adding zero makes a new buffer: a plain read may share the variable's.
    return x + ops.zeros((), x.dtype)


class _CopyOf(keras.initializers.Initializer):
    """Initializes a variable with what another one holds now."""

    def __init__(self, variable: keras.Variable) -> None:
        self.variable = variable

    def __call__(self, shape: Any, dtype: str | None = None) -> Tensor:
        return ops.cast(_copy(self.variable), dtype)
