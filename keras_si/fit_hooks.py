"""Moments of a `fit` that Keras has no callback for.

What is private to Keras in it is tested in `tests/library`.
"""

from collections.abc import Callable
from typing import Any

import keras


def call_last_in_this_fit(
    model: keras.Model, function: Callable[[], None], owner: Any
) -> bool:
    """Calls `function` once all callbacks of this `fit` have ended it.

    Keras puts its own `History` behind the user's callbacks, and into
    `model.history` before they begin. Returns `False` where there is none, or
    that of an earlier `fit`, which has begun: in a loop of the user's own.

    Raises:
        ValueError: If another owner has asked for it in the same `fit`.
    """
    history = getattr(model, "history", None)
    if history is None or hasattr(history, "epoch"):
        return False
    other = getattr(vars(history).get("on_train_end"), "owner", owner)
    if other is not owner:
        raise ValueError(
            "Two SICallbacks were passed to one `fit`. Pass one: its "
            "`include` and `exclude` take several patterns."
        )

    def on_train_end(logs: Any = None) -> None:
        # Nothing of it stays: a `History` can be pickled as before.
        del history.on_train_end
        history.on_train_end(logs)
        function()

    on_train_end.owner = owner  # type: ignore[attr-defined]
    history.on_train_end = on_train_end
    return True


def forget_initial_epoch(model: keras.Model) -> None:
    """Forgets the epoch at which `BackupAndRestore` made this `fit` begin.

    Keras never does: the next task's `fit` would silently skip epochs.
    """
    model._initial_epoch = None


def build_before_first_step(
    model: keras.Model, on_built: Callable[[], None]
) -> None:
    """Builds `model` from the first data that `fit` brings, before a step.

    Under TensorFlow, Keras builds a model only while it traces the first
    step; too late for the callback to attach to its variables.
    """

    def train_function(iterator: Any) -> Any:
        model.train_function = None  # whatever happens: one call alone
        try:
            spec = iterator.element_spec
            x, _, _ = keras.utils.unpack_x_y_sample_weight(spec)
            model(
                keras.tree.map_structure(
                    lambda leaf: keras.KerasTensor(
                        leaf.shape, dtype=leaf.dtype.name
                    ),
                    x,
                )
            )
        except Exception as error:
            raise ValueError(
                "SICallback could not build the model from the data given to "
                f"`fit`: {error} Build it first: start it with a "
                "`keras.Input`, or call it once on a batch."
            ) from error
        on_built()
        model.make_train_function(force=True)
        return model.train_function(iterator)

    model.train_function = train_function
