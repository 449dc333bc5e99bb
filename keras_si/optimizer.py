"""The optimizer that hears every gradient and every step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

from keras_si import backend, replicas, saving
from keras_si.equations import Tensor
from keras_si.links import link
from keras_si.state import Fit, SIState, as_int
from keras_si.wrapper import OptimizerWrapper, settings_of


@keras.saving.register_keras_serializable(package="keras_si")
class SIOptimizer(OptimizerWrapper):
    """Runs another optimizer, and Synaptic Intelligence around its steps.

    Each step: the gradient of the penalty, `2 * c * Omega * (theta - theta~)`,
    is added to the gradient of the task's loss; the inner optimizer does what
    it always does; the step that really happened is added to the path
    integral. `SICallback` installs it; nobody needs to name it.

    It wraps by composition, as `keras.optimizers.LossScaleOptimizer` does, so
    that Keras saves, restores and traces SI's state like any optimizer's. Its
    settings (`clipnorm`, `beta_1`, ...) are the inner optimizer's.

    Args:
        inner_optimizer: The user's `keras.optimizers.Optimizer`.
        strength: c, a float, at least 0. Defaults to 0.1.
        damping: xi, a float, above 0. Defaults to 0.1.
        consolidate_every: Consolidate after this many optimizer steps, or
            `None` (the default): only when a callback asks for it.
        tracked: For each trainable variable whether SI tracks it, a list of
            bools, or `None` (the default): all.
        name: Name of the optimizer. Defaults to `"si_optimizer"`.

    Attributes:
        state: The `SIState`, once built.
        is_used: Whether a callback drives it, or it was loaded with state. A
            copy made from its config is not: it trains as the inner optimizer
            does, and its state is unused.
    """

    state: SIState

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        strength: float = 0.1,
        damping: float = 0.1,
        consolidate_every: int | None = None,
        tracked: Iterable[bool] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.consolidate_every = consolidate_every
        self.tracked = None if tracked is None else list(tracked)
        self.is_used = False
        self._initial_strength = strength
        self.damping = damping
        self._misfit: str | None = None
        # One compiled update serves every trace of the training function.
        # Not by plain assignment: Keras would track the dict.
        self.__dict__["_compiled_updates"] = {}
        self.inner_optimizer = inner_optimizer

    def build(self, variables: Iterable[keras.Variable]) -> None:
        """Builds the inner optimizer, and SI's state on the present weights."""
        if self.built:
            return
        variables = list(variables)
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        tracked = self.tracked
        if tracked is not None and len(tracked) != len(variables):
            self._misfit = (
                "it was made for a model with "
                f"{len(tracked)} trainable variables, this model has "
                f"{len(variables)}: {[v.path for v in variables]}"
            )
            tracked = None
        self.tracked = tracked or [True] * len(variables)
        # Not by plain assignment: the inner optimizer may have a `state`, too.
        self.__dict__["state"] = SIState(
            self,
            [
                variable
                for variable, is_tracked in zip(
                    variables, self.tracked, strict=True
                )
                if is_tracked
            ],
            self._initial_strength,
            self.damping,
            self.inner_optimizer.gradient_accumulation_steps,
        )
        self._slots = {
            self._var_key(variable): slot
            for slot, variable in enumerate(self.state.variables)
        }
        super().build(variables)

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
        if not present or not self.state.variables:
            # Nothing to learn from: the inner optimizer says so.
            self.inner_optimizer.apply(grads, variables)
            return

        def update(gradients: list[Tensor]) -> None:
            # A variable without a gradient is left alone, as Keras does.
            full = [None] * len(variables)
            for i, gradient in zip(present, gradients, strict=True):
                full[i] = gradient
            self._update(full, variables)

        key = (
            present,
            tuple(self._var_key(v) for v in variables),
            settings_of(self.inner_optimizer),
        )
        gradients = [
            backend.as_dense(grads[i])
            if self._var_key(variables[i]) in self._slots
            else grads[i]
            for i in present
        ]
        gradients = replicas.sum_over_replicas(gradients)
        keys = [self._var_key(variables[i]) for i in present]
        slots = [self._slots[key] for key in keys if key in self._slots]
        if slots:
            self.state.follow_weights(slots)
        with replicas.already_summed(self.inner_optimizer):
            backend.run_update(update, gradients, self._compiled_updates, key)

    def _update(
        self, grads: list[Tensor | None], variables: list[keras.Variable]
    ) -> None:
        state = self.state
        scale = self.inner_optimizer.loss_scale_factor or 1.0
        task_gradients, before = {}, {}
        for i, gradient in enumerate(grads):
            slot = self._slots.get(self._var_key(variables[i]))
            if slot is None or gradient is None:
                continue
            dtype = state.references[slot].dtype
            # theta, and g: the gradient of the task's loss alone.
            before[slot] = ops.cast(ops.copy(variables[i]), dtype)
            task_gradients[slot] = ops.cast(gradient, dtype) / scale
            # + 2 c Omega (theta - theta~)
            pull = scale * state.penalty_gradient(slot, before[slot])
            grads[i] = gradient + ops.cast(pull, gradient.dtype)
        iterations = ops.copy(self.inner_optimizer.iterations)
        self.inner_optimizer.apply(grads, variables)  # theta becomes theta'
        stepped = ops.not_equal(self.inner_optimizer.iterations, iterations)
        for slot, gradient in task_gradients.items():
            # omega -= g (theta' - theta)
            state.accumulate(slot, gradient, before[slot], stepped)
        state.count_step(before, stepped)
        if self.consolidate_every is not None and self.is_used:
            state.consolidate_after(self.consolidate_every)
        state.refresh_penalties()  # what the next step's loss shows

    def configure(self, damping: float, consolidate_every: int | None) -> bool:
        """Sets xi, and after how many steps to consolidate within a step.

        Returns whether the training function must be traced again.
        """
        changed = consolidate_every != self.consolidate_every
        if changed:
            self._compiled_updates.clear()
        self.damping, self.consolidate_every = damping, consolidate_every
        self.state.damping.assign(damping)
        return changed

    # Saving. Keras saves the inner optimizer's variables by itself.

    def save_own_variables(self, store: dict[str, Any]) -> None:
        if self.built:
            saving.save(self.state, self._variables, store)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Restores SI's state; raises where Keras would warn and skip."""
        if not saving.has_state(store):
            if self.is_used:
                warnings.warn(
                    "There is no state of SI in what was loaded: importance, "
                    "path integral, reference and the state of your optimizer "
                    "stay as they were (`si.reset_optimizer()` resets the "
                    "last). A file has them if SI was attached when the model "
                    "was saved.",
                    stacklevel=2,
                )
        elif not self.built or self._misfit is not None:
            warnings.warn(
                "The saved SI state was not restored: "
                f"{self._misfit or 'the model is not built yet'}.",
                stacklevel=2,
            )
        else:
            saving.load(self.state, self._variables, store)
            self.is_used = True
            # `model.losses` and a new `compile` find the state through them.
            link(self.state)
            if self.state.steps_of_task() and self.state.fit is Fit.ENDED:
                self.state.due.assign(1)  # a checkpoint from before the end
            self.state.fit = Fit.NONE
            if as_int(self.state.due):
                self.state.fit = Fit.ENDED
            elif self.state.steps_of_task():
                self.state.fit = Fit.RUNNING

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
                "optimizer still has them: what is saved now cannot be "
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
