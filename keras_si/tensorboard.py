"""What TensorBoard shows of SI, where a user's own callback for it runs."""

import contextlib
import os
import weakref
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_si import backend
from keras_si.state import SIState


class SILog:
    """Writes to the `log_dir` of the `fit`'s own `keras.callbacks.TensorBoard`.

    In a run of its own, the folder `si`, with optimizer steps since SI began
    as the step, over all fits and saved with the model:

    * `si_penalty`, at the end of each epoch: its mean penalty.
    * `importance_mean/PATH` and `importance_max/PATH` for each tracked
      variable, and the histogram `importance/PATH`: at each consolidation;
      where that happens within an epoch (every N steps), at the epoch's end,
      of the last one.

    A consolidation that is due when `fit` ends is written when it is carried
    out: by the next `fit`, a `get_*` call or `consolidate()`. Without such a
    callback nothing is read, computed or imported.
    """

    def __init__(self) -> None:
        self._folder: str | None = None
        self._writer: Any = None
        self._written: tuple[weakref.ref[SIState], int] | None = None

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
        # 0: nothing has been consolidated yet.
        if step == 0 or self._written == (weakref.ref(state), step):
            return
        self._written = weakref.ref(state), step
        with self._recording() as summary:
            for variable, importance in zip(
                state.variables, state.importances, strict=True
            ):
                path = variable.path
                values = ops.convert_to_numpy(importance)
                mean = values.mean(dtype="float64")
                summary.scalar(f"importance_mean/{path}", mean, step)
                summary.scalar(f"importance_max/{path}", values.max(), step)
                summary.histogram(f"importance/{path}", values, step)

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


def _int(variable: keras.Variable) -> int:
    return int(ops.convert_to_numpy(variable))
