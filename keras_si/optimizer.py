"""The optimizer that hears gradients and steps, and owns SI's state."""

import contextlib

import keras
from keras import ops

from keras_si import importance as si
from keras_si.backend import compile_update
from keras_si.regularizer import SIRegularizer


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
        strength: c, a float, at least 0.
        damping: xi, a float, above 0.
        consolidate_every: Consolidate after this many optimizer steps, or
            `None` (the default): only when `consolidate` is called.
        tracked: For each trainable variable whether SI tracks it, a list of
            bools, or `None` (the default): all.
        name: Name of the optimizer.
    """

    def __init__(
        self,
        inner_optimizer,
        strength=0.1,
        damping=0.1,
        consolidate_every=None,
        tracked=None,
        name=None,
    ):
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.damping = damping
        self.consolidate_every = consolidate_every
        self.tracked = None if tracked is None else list(tracked)
        self.strength = self._add_scalar("strength", strength)
        # 1 when a task has ended and its consolidation is still to be done.
        self.due = self._add_scalar("consolidation_due", 0, "int32")
        self.steps = self._add_scalar("steps_since_consolidation", 0, "int32")
        self.penalty_sum = self._add_scalar("penalty_sum", 0.0)
        self.sample_count = self._add_scalar("sample_count", 0.0)

    def _add_scalar(self, name, value, dtype="float32"):
        return self.add_variable(
            shape=(),
            initializer=keras.initializers.Constant(value),
            dtype=dtype,
            aggregation="only_first_replica",
            name=name,
        )

    def build(self, variables):
        """Creates the state: three arrays for each tracked variable."""
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
        self.tracked_variables = [
            v for v, track in zip(variables, self.tracked, strict=True) if track
        ]
        self.path_integrals = self._add_state("path_integral")
        self.importances = self._add_state("importance")
        self.references = self._add_state("reference", self._copies())
        self.gradient_sums = (
            self._add_state("task_gradient_sum")
            if self.inner_optimizer.gradient_accumulation_steps
            else []
        )
        # What each regularizer adds to the loss at the weights of now. The
        # update computes it while the weights are at hand, so that the next
        # step need not read all of the state again.
        self.penalties = self.add_variable(
            shape=(len(self.tracked_variables),),
            dtype=self._log_dtype(),
            aggregation="only_first_replica",
            name="penalties",
        )
        self.regularizers = []
        # One compiled update serves every trace of the training function.
        # Not by plain assignment: Keras would track the dict.
        self.__dict__["_compiled_updates"] = {}
        super().build(variables)

    def _add_state(self, name, values=None):
        state = []
        for index, variable in enumerate(self.tracked_variables):
            initializer = (
                "zeros"
                if values is None
                else lambda shape, dtype, i=index: ops.cast(values[i], dtype)
            )
            if variable.dtype in ("float32", "float64"):
                state.append(
                    self.add_variable_from_reference(
                        variable, name=name, initializer=initializer
                    )
                )
            else:  # a sum of small steps needs more digits than bfloat16 has
                state.append(
                    self.add_variable(
                        shape=variable.shape,
                        initializer=initializer,
                        dtype="float32",
                        name=f"{variable.path.replace('/', '_')}_{name}",
                    )
                )
        return state

    def _log_dtype(self):
        dtypes = {state.dtype for state in self.references}
        return "float64" if "float64" in dtypes else "float32"

    def _copies(self):
        # Adding zero makes a new buffer: a plain read shares the variable's.
        return [v + ops.zeros((), v.dtype) for v in self.tracked_variables]

    @property
    def variables(self):
        return self._variables + self.inner_optimizer.variables

    # The step.

    def apply(self, grads, trainable_variables=None):
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

        def update(gradients):
            # A variable without a gradient is left alone, as Keras does.
            total = [None] * len(variables)
            for i, gradient in zip(present, gradients, strict=True):
                total[i] = gradient
            self._update(total, variables)

        key = (present, tuple(self._var_key(v) for v in variables))
        gradients = [grads[i] for i in present]
        compile_update(update, self._compiled_updates, key)(gradients)

    def _update(self, grads, variables):
        slot_of = {self._var_key(v): i for i, v in self._slots()}
        scale = self.inner_optimizer.loss_scale_factor or 1.0
        task_gradients, before = {}, {}
        for i, (gradient, variable) in enumerate(
            zip(grads, variables, strict=True)
        ):
            slot = slot_of.get(self._var_key(variable))
            if slot is None or gradient is None:
                continue
            weights = ops.copy(variable)
            before[slot] = ops.cast(weights, self.references[slot].dtype)
            gradient = ops.convert_to_tensor(gradient)
            task_gradients[slot] = (
                ops.cast(gradient, before[slot].dtype) / scale
            )
            grads[i] = gradient + ops.cast(
                scale
                * si.penalty_gradient(
                    before[slot],
                    self.importances[slot],
                    self.references[slot],
                    self._cast_strength(slot),
                ),
                gradient.dtype,
            )
        steps_before = ops.copy(self.inner_optimizer.iterations)
        self.inner_optimizer.apply(grads, variables)
        stepped = ops.not_equal(self.inner_optimizer.iterations, steps_before)
        for slot, gradient in task_gradients.items():
            if self.gradient_sums:
                gradient = self._mean_gradient(slot, gradient, stepped)
            self.path_integrals[slot].assign(
                si.accumulate(
                    self.path_integrals[slot],
                    gradient,
                    before[slot],
                    self._weights(slot),
                )
            )
        self.steps.assign_add(ops.cast(stepped, "int32"))
        if self.consolidate_every is not None:
            self._consolidate_if(self.steps >= self.consolidate_every)
        self.refresh_penalties()

    def _slots(self):
        return enumerate(self.tracked_variables)

    def _weights(self, slot):
        variable = self.tracked_variables[slot]
        return ops.cast(
            ops.convert_to_tensor(variable), self.references[slot].dtype
        )

    def _cast_strength(self, slot):
        return ops.cast(self.strength, self.references[slot].dtype)

    def _mean_gradient(self, slot, gradient, stepped):
        """Accumulates over micro-batches as the inner optimizer does.

        Between its steps the weights stand still, so that what is returned
        then meets a step of zero.
        """
        count = self.inner_optimizer.gradient_accumulation_steps
        total = self.gradient_sums[slot] + gradient
        self.gradient_sums[slot].assign(
            ops.where(stepped, ops.zeros_like(total), total)
        )
        return total / count

    # Consolidation.

    def configure_consolidation(self, damping, every):
        """Sets xi, and after how many steps to consolidate within a step.

        Returns whether the training function must be traced anew.
        """
        before = self.damping, self.consolidate_every
        self.damping, self.consolidate_every = damping, every
        changed = before != (damping, every) and {every, before[1]} != {None}
        if changed:
            self._compiled_updates.clear()
        return changed

    def consolidate(self):
        """Ends a task: updates importance and reference, zeroes omega.

        Raises:
            ValueError: If a weight is NaN or infinite. Nothing is changed.
        """
        broken = self.nonfinite_weights()
        if broken:
            raise ValueError(
                "Cannot consolidate: there are NaN or infinite values in the "
                f"weights of {broken}. Importance and reference are kept as "
                "they were. Restore finite weights (for instance with "
                "`model.load_weights`), then go on."
            )
        for slot, _ in self._slots():
            self._assign_consolidated(slot, self._consolidated(slot))
        self.due.assign(0)
        self.steps.assign(0)
        self.refresh_penalties()

    def _consolidated(self, slot):
        weights = self._weights(slot)
        return [
            ops.zeros_like(weights),
            si.consolidate(
                self.importances[slot],
                self.path_integrals[slot],
                weights,
                self.references[slot],
                self.damping,
            ),
            weights + ops.zeros((), weights.dtype),
        ]

    def _assign_consolidated(self, slot, values):
        self.path_integrals[slot].assign(values[0])
        self.importances[slot].assign(values[1])
        self.references[slot].assign(values[2])

    def _consolidate_if(self, condition):
        """Consolidates within a training step, where `condition` holds."""
        for slot, _ in self._slots():
            now = [
                ops.convert_to_tensor(state[slot])
                for state in (
                    self.path_integrals,
                    self.importances,
                    self.references,
                )
            ]
            new = self._consolidated(slot)
            self._assign_consolidated(
                slot,
                [
                    ops.where(condition, n, o)
                    for n, o in zip(new, now, strict=True)
                ],
            )
        self.steps.assign(ops.where(condition, 0, self.steps))

    def nonfinite_weights(self):
        """Returns the paths of tracked variables that are not finite."""
        return [
            variable.path
            for slot, variable in self._slots()
            if not bool(ops.all(ops.isfinite(self._weights(slot))))
        ]

    def drop_nonfinite(self):
        """Zeroes what is not finite in omega; returns its count by path."""
        dropped = {}
        for slot, variable in self._slots():
            omega = ops.convert_to_tensor(self.path_integrals[slot])
            finite = ops.isfinite(omega)
            count = int(ops.sum(ops.cast(~finite, "int32")))
            if count:
                dropped[variable.path] = count
                self.path_integrals[slot].assign(
                    ops.where(finite, omega, ops.zeros_like(omega))
                )
        return dropped

    # The penalty in loss and logs.

    def refresh_penalties(self):
        """Computes each variable's penalty at the weights of now."""
        self.penalties.assign(
            ops.stack(
                [
                    ops.cast(
                        si.penalty(
                            self._weights(slot),
                            self.importances[slot],
                            self.references[slot],
                            self._cast_strength(slot),
                        ),
                        self.penalties.dtype,
                    )
                    for slot, _ in self._slots()
                ]
            )
        )

    def reset_mean_penalty(self):
        self.penalty_sum.assign(0.0)
        self.sample_count.assign(0.0)

    def mean_penalty(self):
        """Mean of the penalty over the samples since the last reset."""
        count = float(ops.convert_to_numpy(self.sample_count))
        total = float(ops.convert_to_numpy(self.penalty_sum))
        return total / count if count else 0.0

    def attached(self):
        """Whether every tracked variable has this optimizer's regularizer."""
        return len(self.regularizers) > 0 and all(
            variable.regularizer is regularizer
            for variable, regularizer in zip(
                self.tracked_variables, self.regularizers, strict=True
            )
        )

    def attach_regularizers(self):
        """Puts an `SIRegularizer` on every tracked variable.

        State that another SI optimizer has of a variable is taken over: the
        one before `compile` gave the model a new optimizer, or that of
        another model which shares the layer.
        """
        self.regularizers = []
        for slot, variable in self._slots():
            previous = variable.regularizer
            if isinstance(previous, SIRegularizer) and previous.optimizer:
                if previous.optimizer is not self:
                    self._adopt(slot, previous)
                previous = previous.previous
            regularizer = SIRegularizer(
                self.strength,
                self.importances[slot],
                self.references[slot],
                previous,
            )
            regularizer.optimizer = self
            variable.regularizer = regularizer
            self.regularizers.append(regularizer)

    def detach_regularizers(self):
        """Gives every variable the regularizer back that it had before."""
        for regularizer, variable in zip(
            self.regularizers, self.tracked_variables, strict=True
        ):
            if variable.regularizer is regularizer:
                variable.regularizer = regularizer.previous
        self.regularizers = []

    @contextlib.contextmanager
    def known_penalties(self, penalties):
        """While it lasts, the regularizers answer with `penalties`."""
        try:
            for slot, regularizer in enumerate(self.regularizers):
                regularizer.penalty_in_step = penalties[slot]
            yield
        finally:
            for regularizer in self.regularizers:
                regularizer.penalty_in_step = None

    def _adopt(self, slot, regularizer):
        other = regularizer.optimizer
        other_slot = other.regularizers.index(regularizer)
        for own, others in (
            (self.path_integrals, other.path_integrals),
            (self.importances, other.importances),
            (self.references, other.references),
        ):
            own[slot].assign(others[other_slot] + 0.0)
        self.due.assign(ops.maximum(self.due, other.due))
        self.steps.assign(ops.maximum(self.steps, other.steps))

    # What Keras expects of an optimizer, passed on to the inner one.

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    # Saving. Keras saves the inner optimizer's variables by itself.

    def save_own_variables(self, store):
        for index, variable in enumerate(self._variables):
            store[str(index)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        keys = set(store.keys())
        for index, variable in enumerate(self._variables):
            if str(index) not in keys:
                raise ValueError(
                    "The saved SI state does not fit this model: it holds "
                    f"{len(keys)} arrays, expected {len(self._variables)}; "
                    f"the one for '{variable.path}' is missing. Load it into "
                    "the model it was saved from, with the same layers "
                    "trainable and the same `include` and `exclude`."
                )
            value = store[str(index)]
            if tuple(value.shape) != tuple(variable.shape):
                raise ValueError(
                    "The saved SI state does not fit this model: "
                    f"'{variable.path}' has shape {tuple(variable.shape)}, "
                    f"the saved array {tuple(value.shape)}. Load it into the "
                    "model it was saved from."
                )
        if len(keys) != len(self._variables):
            raise ValueError(
                "The saved SI state does not fit this model: it holds "
                f"{len(keys)} arrays, expected {len(self._variables)}, the "
                f"last for '{self._variables[-1].path}'. Load it into the "
                "model it was saved from."
            )
        for index, variable in enumerate(self._variables):
            variable.assign(store[str(index)])

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "strength": float(ops.convert_to_numpy(self.strength)),
            "damping": self.damping,
            "consolidate_every": self.consolidate_every,
            "tracked": None if self.tracked is None else list(self.tracked),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        inner_optimizer = keras.saving.deserialize_keras_object(
            config.pop("inner_optimizer"), custom_objects=custom_objects
        )
        return cls(inner_optimizer, **config)
