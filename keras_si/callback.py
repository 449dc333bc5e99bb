"""Attaches Synaptic Intelligence to a model, and knows where tasks end."""

import warnings
import weakref

import keras
import numpy as np
from keras import ops

from keras_si import attachment, backend, nonfinite, tensorboard
from keras_si.arguments import (
    as_predicate,
    check_consolidate,
    check_damping,
    check_order,
    check_strength,
)
from keras_si.optimizer import SIOptimizer
from keras_si.state import SIState
from keras_si.types import Consolidate, Logs, Patterns, Predicate


class SICallback(keras.callbacks.Callback):
    """Synaptic Intelligence for `model.fit`: learn a task, keep the others.

    While a task is learned, every tracked weight measures how much it
    contributed to the fall of the loss (the path integral omega). When the
    task ends, that becomes importance (Omega), and later tasks pay
    `c * sum(Omega * (theta - theta~)^2)` for moving important weights away
    from their reference theta~. Zenke, Poole & Ganguli, "Continual Learning
    Through Synaptic Intelligence", ICML 2017.

    By default one `fit` is one task, and one callback serves all of them. All
    state is in the model (in its optimizer), so that `model.save` keeps it; a
    new `SICallback` on a model that carries such state takes it up again.

    Importance scales with the loss: a loss should be the mean over the batch
    (Keras's default), or `strength` wants scaling too.

    Args:
        strength: c, at least 0. How strongly old tasks are held on to; 0
            measures importance without using it. Settable between fits.
            Defaults to 0.1, the paper's value for permuted MNIST.
        damping: xi, above 0. Keeps importance bounded where a weight hardly
            moved; in units of squared weights. Defaults to 0.1.
        consolidate: When a task ends. `"train_end"` (the default): when `fit`
            ends. `"epoch_end"`: after every epoch. A positive int N: every N
            optimizer steps, for streams without task boundaries. `None`: only
            when `consolidate()` is called.
        include: Which trainable variables to track: a regular expression, or
            several, searched for in `variable.path`; or a callable
            `variable -> bool`. Defaults to `None`: all.
        exclude: The same, for variables not to track. Defaults to `None`.

    Raises:
        ValueError: If an argument is not as described.

    Logs: each epoch's logs gain `si_penalty`, the mean penalty; `loss` holds
    it, so that `loss - si_penalty` is the loss of the task alone. A
    `keras.callbacks.TensorBoard` in the same `fit` is written to as well.

    Examples:
        >>> x = keras.random.normal((64, 3), seed=0)
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> si = SICallback(strength=0.1, damping=0.1)
        >>> for y in (x[:, 0], x[:, 1]):  # one fit is one task
        ...     history = model.fit(x, y, epochs=2, callbacks=[si], verbose=0)
        >>> sorted(history.history)
        ['loss', 'si_penalty']
        >>> kernel, bias = si.get_importance().values()
        >>> kernel.shape, bool((kernel >= 0).all())
        ((3, 1), True)
        >>> si.detach()  # the model is as it was without SI
        >>> model.optimizer.name
        'sgd'
    """

    def __init__(
        self,
        strength: float = 0.1,
        damping: float = 0.1,
        consolidate: Consolidate | None = "train_end",
        include: Patterns | None = None,
        exclude: Patterns | None = None,
    ) -> None:
        super().__init__()
        self._strength = check_strength(strength)
        self._damping = check_damping(damping)
        self._consolidate = check_consolidate(consolidate)
        self._include = as_predicate("include", include)
        self._exclude = as_predicate("exclude", exclude)
        self._optimizer: SIOptimizer | None = None
        # The model whose last `fit` ended a task, as a weak reference.
        self._ended: weakref.ref[keras.Model] | None = None
        self._log = tensorboard.SILog()

    # Public.

    @property
    def strength(self) -> float:
        """c: how strongly old tasks are held on to. Settable between fits.

        Raises:
            ValueError: If it is set to anything but a number of at least 0.
        """
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self._strength = check_strength(strength)
        if self._optimizer is not None:
            self._state.strength.assign(self._strength)
            self._state.refresh_penalties()

    @property
    def damping(self) -> float:
        """xi: keeps importance bounded where a weight hardly moved.

        In units of squared weights. It cannot be set.
        """
        return self._damping

    def get_importance(self) -> dict[str, np.ndarray]:
        """Returns Omega: a dict of `variable.path` to numpy array.

        Each of the variable's shape, at least 0, in units of loss over
        squared weights.

        A consolidation that is due is carried out first, here and in
        `get_path_integral` and `get_reference`: after a `fit` that ended its
        task, omega is zero.

        Raises:
            ValueError: If no model is attached, or the consolidation that is
                due finds weights that are not finite.
        """
        return self._read("importances")

    def get_path_integral(self) -> dict[str, np.ndarray]:
        """Returns omega of this task: `variable.path` to numpy array.

        Each of the variable's shape, in the unit of the loss. Raises as
        `get_importance` does.
        """
        return self._read("path_integrals")

    def get_reference(self) -> dict[str, np.ndarray]:
        """Returns theta~: a dict of `variable.path` to numpy array.

        Each of the variable's shape, in the unit of the weights. Raises as
        `get_importance` does.
        """
        return self._read("references")

    def consolidate(self) -> None:
        """Ends a task now: Omega gains from omega, theta~ is theta, omega 0.

        For `consolidate=None`, and for a training loop of your own.

        Raises:
            ValueError: If no model is attached, or weights are not finite.
        """
        state = self._state
        nonfinite.warn(state, stacklevel=2)
        state.consolidate(self._damping)
        self._ended = None
        self._log.write_importance(state)

    def detach(self) -> None:
        """Gives the model its own optimizer and regularizers back.

        What SI knew is forgotten; weights stay as they are.

        Raises:
            ValueError: If no model is attached.
        """
        attachment.detach(self.model, self._attached())
        self._optimizer = self._ended = None

    # Hooks.

    def set_model(self, model: keras.Model) -> None:
        """Attaches SI to a built, compiled model, or takes its state up again.

        `fit` does it by itself. Call it before a training loop of your own,
        `train_on_batch`, `load_weights`, or to look at a loaded model's state.

        Args:
            model: A `keras.Model`. One that is not built is attached when
                `fit` brings the first data.

        Raises:
            ValueError: If the model cannot be trained with SI; it says why.
        """
        super().set_model(model)
        self._optimizer = None
        if model is not None and model.built:
            self._attach()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self._consolidate == "epoch_end":
            check_order(backend.callbacks_of_this_fit(), self)
        self._log.look_for_tensorboard()
        if self._optimizer is not None:
            self._optimizer.driver = self

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        # Not in `on_train_begin`: callbacks listed after this one may restore
        # weights there.
        backend.forget_initial_epoch(self.model)
        if self._optimizer is None:
            backend.build_before_first_step(self.model, self._begin_unbuilt)
            return
        if self._optimizer.driver is not self:
            raise ValueError(
                "Two SICallbacks were passed to one `fit`. Pass one: its "
                "`include` and `exclude` take several patterns."
            )
        self._settle()
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        state = self._state
        state.refresh_penalties()
        state.reset_mean_penalty()
        self._iterations = self._count_iterations()
        if isinstance(self._consolidate, int):
            self._log.follow_batches(self.model, state)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        state = self._state
        if logs is not None:
            logs["si_penalty"] = state.mean_penalty()
        accumulates = (
            self._attached().inner_optimizer.gradient_accumulation_steps
        )
        if self._count_iterations() == self._iterations and not accumulates:
            warnings.warn(
                "SICallback heard no optimizer step in this epoch: SI has no "
                "effect. A custom `train_step` must use `self.optimizer`.",
                stacklevel=2,
            )
        nonfinite.warn(state, stacklevel=2)
        if self._consolidate == "epoch_end":
            state.consolidate(self._damping)
        self._log.write_epoch(state)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._optimizer is None:
            return
        self._optimizer.driver = None
        if self._consolidate == "train_end":
            # Carried out when next needed: callbacks listed after this one
            # may still restore weights. Remembered twice: a checkpoint that
            # is loaded meanwhile may be from before the end.
            self._state.due.assign(1)
            self._ended = weakref.ref(self.model)
            self._log.write_due_when_fit_has_ended(self._state, self._damping)

    # Attaching.

    def _attach(self) -> None:
        every = self._consolidate
        self._optimizer = attachment.attach(
            self.model,
            self._tracks(),
            self._damping,
            every if isinstance(every, int) else None,
        )
        self._state.strength.assign(self._strength)
        self._settle()
        self._state.refresh_penalties()

    def _tracks(self) -> Predicate | None:
        include, exclude = self._include, self._exclude
        if include is None and exclude is None:
            return None
        return lambda variable: (
            (include is None or bool(include(variable)))
            and not (exclude is not None and exclude(variable))
        )

    def _begin_unbuilt(self) -> None:
        self._attach()
        self._attached().driver = self
        self._begin_epoch()

    def _attached(self) -> SIOptimizer:
        """Returns the SI optimizer; its variables hold the values of now."""
        if self._optimizer is None:
            raise ValueError(
                "This SICallback is not attached to a model. Pass it to "
                "`model.fit(..., callbacks=[si])` first, or call "
                "`si.set_model(model)` on a built, compiled model."
            )
        # Under JAX, variables are empty while an epoch runs, and what is
        # assigned to them is lost, until the model is asked for.
        self.model  # noqa: B018
        return self._optimizer

    # State.

    @property
    def _state(self) -> SIState:
        return self._attached().state

    def _settle(self) -> None:
        """Carries out a consolidation that is due."""
        ended = self._ended is not None and self._ended() is self.model
        if ended or int(ops.convert_to_numpy(self._state.due)):
            self.consolidate()

    def _count_iterations(self) -> int:
        return int(ops.convert_to_numpy(self._attached().iterations))

    def _read(self, name: str) -> dict[str, np.ndarray]:
        self._settle()
        state = self._state
        return {
            variable.path: ops.convert_to_numpy(array)
            for variable, array in zip(
                state.variables, getattr(state, name), strict=True
            )
        }
