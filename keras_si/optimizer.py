"""The optimizer that hears every gradient and every step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_si import backend, distribution, steps
from keras_si.regularizer_group import RegularizerGroup
from keras_si.state import SIState
from keras_si.types import Tensor


@keras.saving.register_keras_serializable(package="keras_si")
class SIOptimizer(keras.optimizers.Optimizer):
    """Runs another optimizer, and Synaptic Intelligence around its steps.

    Each step: the gradient of the penalty, `2 * c * Omega * (theta - theta~)`,
    is added to the gradient of the task's loss; the inner optimizer does what
    it always does; the step that really happened is added to the path
    integral. `SICallback` installs it; nobody needs to name it.

    It wraps by composition, as `keras.optimizers.LossScaleOptimizer` does, so
    that Keras saves, restores and traces SI's state like any optimizer's.

    Args:
        inner_optimizer: The user's `keras.optimizers.Optimizer`.
        strength: c, a float, at least 0. Defaults to 0.1.
        damping: xi, a float, above 0. Defaults to 0.1.
        consolidate_every: Consolidate after this many optimizer steps, or
            `None` (the default): only when told to.
        tracked: For each trainable variable whether SI tracks it, a list of
            bools, or `None` (the default): all.
        name: Name of the optimizer. Defaults to `"si_optimizer"`.

    Attributes:
        state: The `SIState`, once built.
        regularizers: The `RegularizerGroup` of the tracked variables, once
            built.
    """

    state: SIState
    regularizers: RegularizerGroup
    driver: keras.callbacks.Callback | None

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        strength: float = 0.1,
        damping: float = 0.1,
        consolidate_every: int | None = None,
        tracked: Iterable[bool] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.damping = damping
        self.consolidate_every = consolidate_every
        self.tracked = None if tracked is None else list(tracked)
        self.__dict__["driver"] = None  # the callback whose `fit` is running
        self._initial_strength = strength
        # One compiled update serves every trace of the training function.
        # Not by plain assignment: Keras would track the dict.
        self.__dict__["_compiled_updates"] = {}

    def build(self, variables: Iterable[keras.Variable]) -> None:
        """Builds the inner optimizer, and SI's state on the weights of now."""
        if self.built:
            return
        variables = list(variables)
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        if self.tracked is None:
            self.tracked = [True] * len(variables)
        if len(self.tracked) != len(variables):
            raise ValueError(
                "The SI state was made for a model with "
                f"{len(self.tracked)} trainable variables; this model has "
                f"{len(variables)}: {[v.path for v in variables]}. Use the "
                "model that the state was saved with, with the same layers "
                "frozen."
            )
        self.state = SIState(
            self,
            [
                v
                for v, track in zip(variables, self.tracked, strict=True)
                if track
            ],
            self._initial_strength,
            self.inner_optimizer.gradient_accumulation_steps,
        )
        # Not by plain assignment: Keras would track what it holds.
        self.__dict__["regularizers"] = RegularizerGroup(self.state)
        self._slots = {
            self._var_key(variable): slot
            for slot, variable in enumerate(self.state.variables)
        }
        super().build(variables)

    def join_step_under_way(self, previous: SIOptimizer | None) -> None:
        """Takes up what the inner optimizer has summed of a step already.

        With gradient accumulation, a `fit` may end between two steps.

        Args:
            previous: The SI optimizer that was around the inner one, which
                knows the sums without the penalty's gradients, or `None`.
        """
        scale = self.inner_optimizer.loss_scale_factor or 1.0
        for variable, total in backend.accumulated_gradients(
            self.inner_optimizer
        ):
            key = self._var_key(variable)
            slot = self._slots.get(key)
            if slot is None:
                continue
            if previous is not None and key in previous._slots:
                known = previous.state.gradient_sums[previous._slots[key]]
                value = ops.copy(known)
            else:
                value = ops.cast(total, self.state.references[slot].dtype)
                value = value / scale
            self.state.gradient_sums[slot].assign(value)

    @property
    def variables(self) -> list[keras.Variable]:
        return self._variables + self.inner_optimizer.variables

    # The step.

    def apply(
        self,
        grads: Iterable[Tensor | None],
        trainable_variables: Iterable[keras.Variable] | None = None,
    ) -> None:
        """Applies gradients of the task's loss, without the penalty's."""
        grads = list(grads)
        if trainable_variables is None:
            variables = self._trainable_variables
        else:
            variables = list(trainable_variables)
        if not self.built:
            self.build(variables)
        present = tuple(i for i, g in enumerate(grads) if g is not None)
        if not present:
            # Nothing to learn from: the inner optimizer says so.
            self.inner_optimizer.apply(grads, variables)
            return

        def update(gradients: list[Tensor]) -> None:
            # A variable without a gradient is left alone, as Keras does.
            full = [None] * len(variables)
            for i, gradient in zip(present, gradients, strict=True):
                full[i] = gradient
            self._update(full, variables)

        key = (present, tuple(self._var_key(v) for v in variables))
        gradients = [
            backend.as_dense(grads[i])
            if self._var_key(variables[i]) in self._slots
            else grads[i]
            for i in present
        ]
        gradients = distribution.sum_over_replicas(gradients)
        with distribution.already_summed(self.inner_optimizer):
            backend.run_update(update, gradients, self._compiled_updates, key)

    def _update(
        self, grads: list[Tensor | None], variables: list[keras.Variable]
    ) -> None:
        state = self.state
        scale = self.inner_optimizer.loss_scale_factor or 1.0
        task_gradients, before = {}, {}
        for i, (gradient, variable) in enumerate(
            zip(grads, variables, strict=True)
        ):
            slot = self._slots.get(self._var_key(variable))
            if slot is None or gradient is None:
                continue
            dtype = state.references[slot].dtype
            before[slot] = ops.cast(ops.copy(variable), dtype)
            task_gradients[slot] = ops.cast(gradient, dtype) / scale
            pull = scale * state.penalty_gradient(slot, before[slot])
            grads[i] = gradient + ops.cast(pull, gradient.dtype)
        iterations = ops.copy(self.inner_optimizer.iterations)
        self.inner_optimizer.apply(grads, variables)
        stepped = ops.not_equal(self.inner_optimizer.iterations, iterations)
        for slot, gradient in task_gradients.items():
            state.accumulate(slot, gradient, before[slot], stepped)
        state.count_step(stepped)
        if self.consolidate_every is not None:
            state.consolidate_if(
                state.steps >= self.consolidate_every, self.damping
            )
        state.refresh_penalties()

    def configure_consolidation(
        self, damping: float, every: int | None
    ) -> bool:
        """Sets xi, and after how many steps to consolidate within a step.

        Returns whether the training function must be traced anew.
        """
        before = self.damping, self.consolidate_every
        self.damping, self.consolidate_every = damping, every
        changed = before != (damping, every) and {every, before[1]} != {None}
        if changed:
            self._compiled_updates.clear()
        return changed

    # What Keras expects of an optimizer, passed on to the inner one.

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> keras.Variable:
        return self.inner_optimizer.iterations

    def apply_gradients(
        self, grads_and_vars: Iterable[tuple[Tensor, keras.Variable]]
    ) -> keras.Variable:
        super().apply_gradients(grads_and_vars)
        return self.iterations

    def scale_loss(self, loss: Tensor) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)
        if self.inner_optimizer.use_ema:
            # Weights and their average would share one buffer, with which
            # JAX refuses to train in the next `fit`.
            for variable in var_list:
                variable.assign(ops.copy(variable))

    # Saving. Keras saves the inner optimizer's variables by itself.

    def save_own_variables(self, store: dict[str, Any]) -> None:
        for index, variable in enumerate(self._variables):
            store[str(index)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Restores SI's state; raises where Keras would warn and skip."""
        problem = _misfit(self._variables, store)
        if problem:
            raise ValueError(
                f"The saved SI state does not fit this model: {problem}. Load "
                "it into the model it was saved from, with the same layers "
                "trainable and the same `include` and `exclude`."
            )
        for index, variable in enumerate(self._variables):
            variable.assign(store[str(index)])
        if not self.regularizers.attached():
            # So that a new `compile`, and `model.losses`, know of the state.
            self.regularizers.attach(silent=steps.must_be_wrapped())

    def get_config(self) -> dict[str, Any]:
        strength = self._initial_strength
        if self.built:
            self._warn_of_frozen()
            strength = float(ops.convert_to_numpy(self.state.strength))
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "strength": strength,
            "damping": self.damping,
            "consolidate_every": self.consolidate_every,
            "tracked": None if self.tracked is None else list(self.tracked),
        }

    def _warn_of_frozen(self) -> None:
        frozen = [v.path for v in self._trainable_variables if not v.trainable]
        if frozen:
            warnings.warn(
                f"{frozen} were frozen after the model was compiled, and SI's "
                "optimizer still holds them: what is saved now cannot be "
                "loaded with its optimizer. Call `compile` and "
                "`SICallback.set_model`, then save again.",
                stacklevel=2,
            )

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> SIOptimizer:
        config = dict(config)
        inner_optimizer = keras.saving.deserialize_keras_object(
            config.pop("inner_optimizer"), custom_objects=custom_objects
        )
        return cls(inner_optimizer, **config)


def _misfit(
    variables: Sequence[keras.Variable], store: Mapping[str, Any]
) -> str | None:
    """Returns what keeps a saved store from fitting, or `None`."""
    keys = set(store.keys())
    for index, variable in enumerate(variables):
        if str(index) not in keys:
            return (
                f"it holds {len(keys)} arrays, expected {len(variables)}; the "
                f"one for '{variable.path}' is missing"
            )
        shape = tuple(store[str(index)].shape)
        if shape != tuple(variable.shape):
            return (
                f"'{variable.path}' has shape {tuple(variable.shape)}, the "
                f"saved array {shape}"
            )
    if len(keys) != len(variables):
        return (
            f"it holds {len(keys)} arrays, expected {len(variables)}, the "
            f"last for '{variables[-1].path}'"
        )
    return None
