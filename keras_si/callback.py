"""Attaches Synaptic Intelligence to a model, and knows where tasks end."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_si.arguments import (
    Consolidate,
    Patterns,
    check_added_importance,
    check_consolidate,
    check_damping,
    check_patterns,
    check_strength,
    matches,
)
from keras_si.attach import attach, detach
from keras_si.task_ends import TaskEnds


class SICallback(TaskEnds):
    """Synaptic Intelligence for `model.fit`: learn a task, keep the others.

    While a task is learned, every tracked weight measures how much it
    contributed to the fall of the loss (the path integral omega). When the
    task ends, that becomes importance (Omega), and later tasks pay
    `c * sum(Omega * (theta - theta~)^2)` for moving important weights away
    from their reference theta~. Zenke, Poole & Ganguli, "Continual Learning
    Through Synaptic Intelligence", ICML 2017.

    By default one `fit` is one task, and one callback serves all tasks. All
    state is in the model (in its optimizer), so `model.save` keeps it. A new
    `SICallback` on a model with such state continues with it.

    Importance is in units of the loss, so all tasks should have a loss of one
    scale (Keras's default, the mean over the batch, gives that).

    Args:
        strength: c, at least 0. How strongly old tasks are protected; 0
            measures importance without using it. Settable between fits.
            Defaults to 0.1, the paper's value for permuted MNIST.
        damping: xi, above 0. Keeps importance bounded where a weight hardly
            moved; in units of squared weights. Defaults to 0.1.
        consolidate: When a task ends. `"train_end"` (the default): when `fit`
            ends. `"epoch_end"`: with every epoch; it is carried out before
            the next one's first step. An int N of at least 2: every N
            optimizer steps, for streams without task boundaries. `None`: only
            when `consolidate()` is called.
        include: Which trainable variables to track: a regular expression, or
            several, searched for in `variable.path`; or a callable
            `variable -> bool`. Defaults to `None`: all.
        exclude: The same, for variables not to track. Defaults to `None`.

    Raises:
        ValueError: If an argument is not as described.

    Logs: `loss` includes the penalty, and each epoch's logs gain `si_penalty`,
    the penalty at the epoch's end.

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
        super().__init__(check_consolidate(consolidate))
        self._strength = check_strength(strength)
        self._damping = check_damping(damping)
        self._include = check_patterns("include", include)
        self._exclude = check_patterns("exclude", exclude)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy has: the settings, and no model."""
        return {
            **vars(self),
            **{"_model": None, "_optimizer": None},
        }

    # Public.

    @property
    def strength(self) -> float:
        """c: how strongly old tasks are protected. Settable between fits.

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
        squared weights. Where variables share a path, the second has the
        suffix `#2`.

        Raises:
            ValueError: If no model is attached.
        """
        return self._read("importances")

    def get_path_integral(self) -> dict[str, np.ndarray]:
        """Returns omega of this task: `variable.path` to numpy array.

        Each of the variable's shape, in the unit of the loss; 0 after a `fit`
        that ended its task. Raises as `get_importance` does.
        """
        return self._read("path_integrals")

    def get_reference(self) -> dict[str, np.ndarray]:
        """Returns theta~: a dict of `variable.path` to numpy array.

        Each of the variable's shape, in the unit of the weights: where the
        task before ended; before the first step, the present weights. Raises
        as `get_importance` does.
        """
        references = self._read("references")
        state = self._state
        counts = state.counts()
        for slot, name in enumerate(state.names):
            if counts[slot] < 0:
                references[name] = ops.convert_to_numpy(state.weights(slot))
        return references

    def consolidate(self) -> None:
        """Ends a task now: Omega gains from omega, theta~ is theta, omega 0.

        For `consolidate=None`, and for a training loop of your own.

        Raises:
            ValueError: If no model is attached, or weights are not finite.
        """
        self._consolidate_now(stacklevel=3)

    def add_importance(
        self, importance: Mapping[str, Any], scale: float = 1.0
    ) -> None:
        """Protects what the present weights have learned without SI.

        Ends the task as `consolidate()` does, which makes theta~ theta, and
        adds `scale * importance` to Omega. Use it on a model that was trained
        before, with what `fisher_importance` estimates; SI continues there.
        The importance of several outputs or data sets adds up. A task that SI
        has measured and that is added here as well counts twice.

        Args:
            importance: A dict of `variable.path` to array of the variable's
                shape, at least 0, in units of loss over squared weights. A
                tracked variable that is not in it gains nothing.
            scale: A number of at least 0. SI's own importance is larger than
                a Fisher information and needs a smaller `strength`; a scale of
                10 or 100 brings both under one. Defaults to 1.

        Raises:
            ValueError: If an argument is not as described, if no model is
                attached, or if weights are not finite. Nothing changes then.
        """
        state = self._state
        shapes = [tuple(variable.shape) for variable in state.variables]
        added = check_added_importance(
            importance, scale, dict(zip(state.names, shapes, strict=True))
        )
        # Weights that were loaded, or a task of one step, are no mistake here.
        self._consolidate_now(stacklevel=3, unsaid=("one step", "unheard"))
        state.add_importance(added)

    def reset_optimizer(self) -> None:
        """Gives the user's optimizer the state of a new one: no moments.

        SI's state and the learning rate stay; a schedule begins again.
        Setting all of `model.optimizer.variables` to 0 would erase what SI
        knows, too.

        Raises:
            ValueError: If no model is attached.
        """
        optimizer = self._attached()
        optimizer.reset_inner_optimizer()
        optimizer.state.forget_micro_batches()

    def detach(self) -> None:
        """Gives the model its own optimizer and regularizers back.

        What SI knew is forgotten; weights stay as they are.

        Raises:
            ValueError: If no model is attached.
        """
        detach(self.model, self._attached())
        self._optimizer = None

    # Hooks.

    def set_model(self, model: keras.Model) -> None:
        """Attaches SI to a built, compiled model, or continues with its state.

        `fit` does it by itself. Call it before a training loop of your own,
        `train_on_batch`, or to look at a loaded model's state.

        Args:
            model: A `keras.Model`. One that is not built is attached when
                `fit` brings the first data.

        Raises:
            ValueError: If the model cannot be trained with SI; it says why.
        """
        if model is not None and not isinstance(model, keras.Model):
            raise ValueError(
                "SICallback needs a model of Keras 3, a `keras.Model`. "
                f"Received: a {type(model).__module__}.{type(model).__name__}."
            )
        super().set_model(model)
        self._optimizer = None
        if model is not None and model.built:
            self._attach()

    # Attaching.

    def _attach(self) -> None:
        every = self._consolidate
        self._optimizer = attach(
            self.model,
            self._tracks if self._include or self._exclude else None,
            self._damping,
            every if isinstance(every, int) else None,
        )
        self._continue_task()
        self._state.strength.assign(self._strength)
        self._state.refresh_penalties()

    def _tracks(self, variable: keras.Variable, name: str) -> bool:
        include, exclude = self._include, self._exclude
        return (include is None or matches(include, variable, name)) and not (
            exclude is not None and matches(exclude, variable, name)
        )

    # State.

    def _read(self, name: str) -> dict[str, np.ndarray]:
        self._end_task_if_due()
        return self._named(getattr(self._state, name))

    def _named(self, arrays: Iterable[Any]) -> dict[str, np.ndarray]:
        arrays = map(ops.convert_to_numpy, arrays)
        return dict(zip(self._state.names, arrays, strict=True))
