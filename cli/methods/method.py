"""The base class of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import keras
    import numpy as np

PAPER = "Zenke, Poole & Ganguli 2017"


class Learned(Protocol):
    """What a method may ask of the task that has just been learned."""

    @property
    def index(self) -> int:
        """The task's place, from 0."""

    @property
    def seed(self) -> int:
        """The seed of the trial."""

    def sample(self, count: int) -> np.ndarray:
        """Returns training images as the net gets them, `(count, features)`.

        Seed and task alone decide which; all, if there are fewer.
        """


class Method:
    """A way to deal with forgetting. The base class does nothing.

    A method is made once for each trial and serves all of its tasks. Naming it
    must not import Keras: what needs Keras imports it where it is used.

    Args:
        strength, damping: The paper's c and xi.

    Attributes:
        label: Its name in figures.
        summary: What it does, in a line.
        source: Paper and section.
        uses: Which of strength, damping and memory it uses.
        own_strength: Whether its strength has another scale than SI's, which
            the presets have.
        scenarios: The scenarios that it supports.
        new_net_per_task: Whether each task has a net of its own. It is made
            when the task starts, and is the one that is tested on it.
        mixes_tasks: Whether its batches mix the tasks so far: all their data
            or, if it uses memory, the new task and a memory of the earlier
            ones.
    """

    label = summary = source = ""
    uses: tuple[str, ...] = ()
    own_strength = False
    scenarios: tuple[str, ...] = ("task", "domain", "class")
    new_net_per_task = False
    mixes_tasks = False

    def __init__(self, strength: float, damping: float) -> None:
        self.strength, self.damping = strength, damping

    @property
    def variables(self) -> list[keras.Variable]:
        """Its state beside the model's.

        A list of `keras.Variable`, the same in every process once `attach`
        was called: a checkpoint of a run has them.
        """
        return []

    def attach(self, model: keras.Model) -> None:
        """Is called with each new model, built and compiled."""

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Returns the Keras callbacks for the `fit` of the next task."""
        return []

    def end_task(self, model: keras.Model, learned: Learned) -> None:
        """Is called when a task has been learned.

        The outputs that were active in `fit` are still active.
        """

    def importance(self) -> dict[str, np.ndarray]:
        """Returns how much each weight matters to the tasks so far.

        A dict of `variable.path` to an array, as it is after the task that
        has just been learned; empty if the method measures none.
        """
        return {}
