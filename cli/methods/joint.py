"""Training on all tasks so far: the ceiling."""

from .method import Method


class Joint(Method):
    """One net, trained on the union of the tasks so far.

    It learns task after task, as van de Ven & Tolias do it. An epoch is
    one pass over the union; with `--steps`, all methods take as many steps.
    """

    label = "all tasks together"
    summary = "training on all tasks so far together: the ceiling"
    source = "the upper bound of van de Ven & Tolias 2018"
    mixes_tasks = True
