"""Methods: what is added to plain training so that tasks are not forgotten.

A method is a class with a `label` for figures, a `summary`, a `source` and
`callbacks()`. It is made once for each run, from the run's configuration, and
so may hold state from task to task.
"""

PAPER = "Zenke, Poole & Ganguli 2017"


class Naive:
    """Plain training on one task after another."""

    label = "plain training"
    summary = "plain training, task after task: the lower bound"
    source = f"the baseline of {PAPER}, section 4"

    def __init__(self, config):
        del config

    def callbacks(self):
        """Returns the callbacks for the `fit` of the next task."""
        return []


class SynapticIntelligence(Naive):
    """One `SICallback` for all tasks; each `fit` is a task to it."""

    label = "Synaptic Intelligence"
    summary = "each weight is held back by what it did for earlier tasks"
    source = f"{PAPER}, section 3"

    def __init__(self, config):
        # Here, so that naming the methods does not import Keras.
        from keras_si import SICallback

        self._callback = SICallback(
            strength=config.strength, damping=config.damping
        )

    def callbacks(self):
        return [self._callback]


METHODS = {"si": SynapticIntelligence, "naive": Naive}
