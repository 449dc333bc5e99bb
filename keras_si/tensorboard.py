"""What TensorBoard shows of SI, where a user's own callback for it runs."""

import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_si import backend, nonfinite
from keras_si.state import SIState
from keras_si.types import Logs

# Mean and maximum of each layer, by its path.
Layers: TypeAlias = dict[str, tuple[float, float]]


class SILog:
    """Writes to the `log_dir` of the `fit`'s own `keras.callbacks.TensorBoard`.

    In a run of its own, the folder `si`, with optimizer steps since SI began
    as the step, over all fits and saved with the model:

    * `si_penalty`, at the end of each epoch: its mean penalty.
    * `importance_mean/LAYER` and `importance_max/LAYER`, over all tracked
      variables of a layer, and the histogram `importance/PATH` of each
      variable: at each consolidation; of those within one compiled call
      (`steps_per_execution`), of the last one.

    A consolidation that is due when `fit` ends still waits, but what it comes
    to is written then, when all other callbacks have done their work; and
    once more when it is carried out, if the weights were changed in between.
    Without a TensorBoard callback nothing is read, computed or imported.
    """

    def __init__(self) -> None:
        self._folder: str | None = None
        self._writer: Any = None
        # Of which state, and at which step.
        self._written: tuple[weakref.ref[SIState], int] | None = None
        # What was written of a consolidation that is not carried out yet.
        self._foretold: Layers | None = None
        self._last = _Last()

    def look_for_tensorboard(self) -> None:
        """Follows the TensorBoard callback of the `fit` that begins, if any."""
        folder = None
        for callback in backend.callbacks_of_this_fit():
            if isinstance(callback, keras.callbacks.TensorBoard):
                folder = os.path.join(callback.log_dir, "si")
                break
        if folder != self._folder:
            if self._writer is not None:
                self._writer.close()
            self._folder, self._writer, self._written = folder, None, None
        if self._folder is not None:
            self._last.forget()  # what a `fit` that did not end has left
            backend.call_last_in_this_fit(self._last)

    def follow_batches(self, model: keras.Model, state: SIState) -> None:
        """Writes consolidations within an epoch after the batch they are of."""

        def look() -> None:
            backend.sync_variables(model)
            self.write_importance(state)

        if self._folder is not None:
            self._last.after_batch = look

    def write_epoch(self, state: SIState) -> None:
        """Writes the epoch's mean penalty, and importance if it is new."""
        if self._folder is None:
            return
        with self._recording() as summary:
            summary.scalar(
                "si_penalty", state.mean_penalty(), _int(state.all_steps)
            )
        self.write_importance(state)

    def write_importance(self, state: SIState) -> None:
        """Writes the importance, unless it was written already."""
        if self._folder is None:
            return
        step = _int(state.all_steps) - _int(state.steps)
        if step == 0:
            return  # Nothing has been consolidated yet.
        if self._written == (weakref.ref(state), step):
            foretold, self._foretold = self._foretold, None
            if foretold is None or foretold == _layers(
                state, map(ops.convert_to_numpy, state.importances)
            ):
                return
        self._write(state, state.importances, step)

    def write_due_when_fit_has_ended(
        self, state: SIState, damping: float
    ) -> None:
        """Writes what the importance is to be, after all other callbacks.

        They may still restore weights. The state is only read.
        """
        if self._folder is not None:
            self._last.at_end = functools.partial(
                self._write_due, state, damping
            )

    def _write_due(self, state: SIState, damping: float) -> None:
        step = _int(state.all_steps)
        if step == 0 or nonfinite.broken_weights(state):
            return  # There is nothing, or it will be refused.
        importances = [
            state.consolidated(slot, damping)[1]
            for slot in range(len(state.variables))
        ]
        self._foretold = self._write(state, importances, step)

    def _write(
        self, state: SIState, importances: Iterable[Any], step: int
    ) -> Layers:
        self._written, self._foretold = (weakref.ref(state), step), None
        arrays = [ops.convert_to_numpy(each) for each in importances]
        layers = _layers(state, arrays)
        with self._recording() as summary:
            for layer, (mean, greatest) in layers.items():
                summary.scalar(f"importance_mean/{layer}", mean, step)
                summary.scalar(f"importance_max/{layer}", greatest, step)
            for variable, array in zip(state.variables, arrays, strict=True):
                summary.histogram(f"importance/{variable.path}", array, step)
        return layers

    @contextlib.contextmanager
    def _recording(self) -> Iterator[Any]:
        from tensorflow import summary  # as Keras's own callback does

        if self._writer is None:
            self._writer = summary.create_file_writer(self._folder)
        # Between the batches that Keras's callback logs, it turns all
        # recording off.
        with self._writer.as_default(), summary.record_if(True):
            yield summary
        self._writer.flush()


class _Last(keras.callbacks.Callback):
    """Stands behind all other callbacks, and does what they must not miss."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.after_batch: Callable[[], None] | None = None
        self.at_end: Callable[[], None] | None = None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.after_batch is not None:
            self.after_batch()

    def on_train_end(self, logs: Logs | None = None) -> None:
        at_end = self.at_end
        self.forget()
        if at_end is not None:
            at_end()


def _layers(state: SIState, arrays: Iterable[np.ndarray]) -> Layers:
    """Returns mean and maximum over all elements of each layer."""
    totals: dict[str, tuple[float, int, float]] = {}
    for variable, array in zip(state.variables, arrays, strict=True):
        layer = variable.path.rpartition("/")[0] or variable.path
        total, count, greatest = totals.get(layer, (0.0, 0, -np.inf))
        totals[layer] = (
            # In float64: a sum of many small numbers.
            total + float(array.sum(dtype="float64")),
            count + array.size,
            max(greatest, float(array.max())),
        )
    return {
        layer: (total / count, greatest)
        for layer, (total, count, greatest) in totals.items()
    }


def _int(variable: keras.Variable) -> int:
    return int(ops.convert_to_numpy(variable))
