"""Synaptic Intelligence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .method import PAPER, Method

if TYPE_CHECKING:
    import keras
    import numpy as np


class SynapticIntelligence(Method):
    """One `SICallback` for all tasks; each `fit` is a task to it."""

    label = "Synaptic Intelligence"
    summary = "weights that mattered for earlier tasks resist change"
    source = f"{PAPER}, section 3"
    uses: tuple[str, ...] = ("strength", "damping")

    def __init__(self, strength: float, damping: float) -> None:
        super().__init__(strength, damping)
        from keras_si import SICallback

        self._callback = SICallback(strength=strength, damping=damping)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        return [self._callback]

    def importance(self) -> dict[str, np.ndarray]:
        return self._callback.get_importance()
