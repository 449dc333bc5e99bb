"""What a run listens to while a model trains."""

import math
from collections.abc import Callable

import keras

from ..files import Record
from .observer import Observer


class Diverged(Exception):
    """The loss or a weight has turned NaN or infinite."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch {epoch + 1}")


class Batches(keras.callbacks.Callback):
    """Tells the observer of each training step; ends what has diverged."""

    def __init__(self, observer: Observer, passes: "Passes") -> None:
        super().__init__()
        self._observer = observer
        self._passes = passes
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Record | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(
        self, batch: int, logs: Record | None = None
    ) -> None:
        logs = logs or {}
        # A mean over the epoch so far: it does not recover either.
        if not math.isfinite(logs.get("loss", 0.0)):
            raise Diverged(self._passes.done)
        self._observer.batch_ended(self._epoch, logs)


class Passes(keras.callbacks.Callback):
    """Calls `save(done)` after each pass over the data but the last.

    A pass is an epoch, as Keras counts them; where the length of a task is
    given in steps, all of them are one epoch to Keras, with passes within.

    Args:
        done: How many there were before this `fit`.
        steps: Of one pass.
        save: What to call, with how many are done.
    """

    def __init__(
        self, done: int, steps: int, save: Callable[[int], None]
    ) -> None:
        super().__init__()
        self.done = done
        self._steps_per_pass = steps
        self._save = save
        self._steps = 0

    def on_epoch_begin(self, epoch: int, logs: Record | None = None) -> None:
        self._steps = 0

    def on_train_batch_end(
        self, batch: int, logs: Record | None = None
    ) -> None:
        self._steps += 1
        within = self._steps < self.params["steps"]
        if within and self._steps % self._steps_per_pass == 0:
            self._ended()

    def on_epoch_end(self, epoch: int, logs: Record | None = None) -> None:
        # Not at its last batch: SI's own work for the epoch is done by now.
        if epoch + 1 < self.params["epochs"]:
            self._ended()

    def _ended(self) -> None:
        self.done += 1
        # Under JAX, variables are empty while an epoch runs, until the model
        # is asked for.
        self.model  # noqa: B018
        self._save(self.done)
