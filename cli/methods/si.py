"""Synaptic Intelligence."""

from .method import PAPER, Method


class SynapticIntelligence(Method):
    """One `SICallback` for all tasks; each `fit` is a task to it."""

    label = "Synaptic Intelligence"
    summary = "each weight is held back by what it did for earlier tasks"
    source = f"{PAPER}, section 3"
    uses = ("strength", "damping")

    def __init__(self, config):
        super().__init__(config)
        from keras_si import SICallback

        self._callback = SICallback(
            strength=config.strength, damping=config.damping
        )

    def callbacks(self):
        return [self._callback]

    def importance(self):
        return self._callback.get_importance()
