"""Knows where tasks begin and end: the hooks of `SICallback`."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_si import diagnostics, fit_hooks
from keras_si.arguments import Consolidate
from keras_si.links import consolidate_frozen, is_linked_in_part
from keras_si.optimizer import SIOptimizer
from keras_si.state import Fit, SIState, as_int

Logs: TypeAlias = dict[str, Any]


class TaskEnds(keras.callbacks.Callback):
    """Consolidates where a task ends.

    By default that is where its `fit` has ended, after all other callbacks:
    they may set weights in `on_train_end`. What must not be lost in between is
    state: `due`, that a task has ended and is still to be consolidated, and
    `fit`, how far the last `fit` came.

    Args:
        consolidate: When a task ends, see `SICallback`.
    """

    # Or Keras would wait after each step for its logs: see `CallbackList`.
    async_safe = True

    def __init__(self, consolidate: Consolidate | None) -> None:
        super().__init__()
        self._consolidate = consolidate
        self._optimizer: SIOptimizer | None = None
        self._continues = self._is_called_last = False
        self._fit_has_begun = self._epoch_has_begun = False
        self._has_batch_ended = self._is_broken = self._ends_task = False

    def _attach(self) -> None:
        """Sets `_optimizer` to the SI optimizer of the model, now built."""
        raise NotImplementedError

    def _attached(self) -> SIOptimizer:
        """Returns the SI optimizer; its variables have their present values."""
        if self._optimizer is None:
            raise ValueError(
                "This SICallback is not attached to a model. Pass it to "
                "`model.fit(..., callbacks=[si])` first, or call "
                "`si.set_model(model)` on a built, compiled model."
            )
        if not is_linked_in_part(self._optimizer.state):
            raise ValueError(
                "This SICallback is no longer attached: another one was given "
                "to the model, or took SI out of it. Call "
                "`si.set_model(model)` to continue with the model's state."
            )
        # Under JAX, variables are empty while an epoch runs, and what is
        # assigned to them is lost, until the model is asked for.
        self.model  # noqa: B018
        return self._optimizer

    @property
    def _state(self) -> SIState:
        return self._attached().state

    # The beginning of a `fit`, of an epoch.

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._is_called_last = fit_hooks.call_last_in_this_fit(
            self.model, self._end_fit, owner=self
        )
        self._fit_has_begun = self._epoch_has_begun = False
        self._is_broken = self._ends_task = False
        if self._optimizer is not None:
            self._begin_fit()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        # Not in `on_train_begin`: callbacks listed after this one may restore
        # weights there.
        fit_hooks.forget_initial_epoch(self.model)
        self._epoch_has_begun = self._has_batch_ended = False

    def on_train_batch_begin(
        self, batch: int, logs: Logs | None = None
    ) -> None:
        # Here, when all callbacks have begun the epoch: `SwapEMAWeights` puts
        # the weights back only then.
        if self._epoch_has_begun:
            return
        self._fit_has_begun = self._epoch_has_begun = True
        if self._optimizer is None:
            fit_hooks.build_before_first_step(self.model, self._begin_unbuilt)
        else:
            self._begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        # A batch may begin and find that the data have run out.
        self._has_batch_ended = True

    def _begin_unbuilt(self) -> None:
        self._attach()
        self._begin_fit()
        self._begin_epoch()

    def _begin_fit(self) -> None:
        if self._continues:
            diagnostics.warn_of_interrupted_fit()
        self._state.due.assign(0)
        self._note_that_fit_runs()

    def _note_that_fit_runs(self) -> None:
        self._state.fit = Fit.RUNNING if self._ends_tasks else Fit.NONE

    def _begin_epoch(self) -> None:
        state = self._state
        self._end_task_if_due()
        self._note_that_fit_runs()  # a backup may have been loaded
        ends = self._consolidate == "epoch_end" and not self._is_broken
        if ends and state.steps_of_task():
            self._consolidate_now()
        state.refresh_penalties()
        self._counts_at_begin = self._counts()

    @property
    def _ends_tasks(self) -> bool:
        return self._consolidate in ("train_end", "epoch_end")

    def _continue_task(self) -> None:
        """Once attached: ends a task that is due, or notes one under way."""
        self._end_task_if_due()
        self._continues = (
            self._ends_tasks
            and self._state.fit is Fit.RUNNING
            and self._state.steps_of_task() > 0
        )

    # The end.

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if not self._epoch_has_begun:
            return  # there was no batch
        state = self._state
        if logs is not None:
            logs["si_penalty"] = state.penalty()
        counts = self._counts() if self._has_batch_ended else None
        if counts is not None and counts == self._counts_at_begin:
            diagnostics.warn_of_no_step()
        self._is_broken = bool(diagnostics.warn_of_nonfinite(state))

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._optimizer is None:
            return
        # A loop of the user's own need not call the hooks of batches.
        is_own_loop = not self._is_called_last
        steps = self._state.steps_of_task() if is_own_loop else 0
        if not self._fit_has_begun and not steps:
            return
        if self._is_broken or self._consolidate is None:
            return  # either was warned of, or the user ends tasks
        if isinstance(self._consolidate, int):
            diagnostics.warn_of_doubts(
                self.model, self._state, unsaid=("one step",)
            )
        elif not np.isfinite((logs or {}).get("loss", 0.0)):
            diagnostics.warn_of_nonfinite_loss()
        else:
            # So what another callback saves now is a task that has ended.
            self._state.due.assign(1)
            self._ends_task = True
            if not self._is_called_last:
                self._end_fit()

    def _end_fit(self) -> None:
        """After all other callbacks' `on_train_end`: they may set weights.

        They may load some, too, with a file's `due`.
        """
        self._is_called_last = False
        ends_task, self._ends_task = self._ends_task, False
        if self._optimizer is not None and ends_task:
            self._state.fit = Fit.ENDED
            self._consolidate_now()

    def _end_task_if_due(self) -> None:
        """Carries out a consolidation that was not done when `fit` ended.

        The model was saved between a task's end and its consolidation, or a
        checkpoint from before the end was loaded after it.
        """
        state = self._state
        diagnostics.check_not_erased(state)
        if as_int(state.due) and state.fit is not Fit.RUNNING:
            self._consolidate_now()

    def _consolidate_now(
        self, stacklevel: int = 2, unsaid: Iterable[str] = ()
    ) -> None:
        state = self._state
        diagnostics.check_task_end(state, stacklevel)
        diagnostics.warn_of_doubts(self.model, state, stacklevel, unsaid)
        state.consolidate()
        consolidate_frozen(state)
        # The weights are at their reference now.
        state.penalties.assign(ops.zeros(len(state.variables)))

    def _counts(self) -> list[float] | None:
        """Returns counts that a step changes, also one that was skipped."""
        optimizer = self._attached()
        if optimizer.gradient_accumulation_steps:
            return None
        counts = [optimizer.iterations]
        outer = self.model.optimizer
        if outer is not optimizer:  # a loss scale, which may skip steps
            counts += outer.variables[: -len(optimizer.variables)]
        return [float(ops.convert_to_numpy(each)) for each in counts]
