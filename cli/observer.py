"""How a run tells what it is doing, without knowing who listens."""


class Observer:
    """Hears how a run goes. Every method may be overridden; none need be."""

    def loading(self, dataset):
        """The dataset is about to be loaded."""

    def started(self, config, total_steps):
        """The training is about to start: so many steps in all."""

    def notice(self, text):
        """Something that the user should know, one line."""

    def resumed(self, steps):
        """So many steps of the whole were trained before."""

    def task_started(self, method, seed, task):
        """The `fit` on a task is about to start."""

    def batch_ended(self, epoch, logs):
        """A training step has ended; `logs` are means over the epoch."""

    def task_trained(self):
        """The `fit` on a task has ended; its evaluation starts."""

    def task_ended(self, run, task, seconds):
        """A task has been evaluated on all tasks so far, and written."""

    def finished(self, results):
        """All is done and written."""
