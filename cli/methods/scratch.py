"""A new net for each task, which learns nothing from the others."""

from .method import PAPER, Method


class Scratch(Method):
    """Each task has a net of its own, from the same initial weights."""

    label = "a net for each task"
    summary = "a new net for each task, tested on that task alone"
    source = f"{PAPER}, section 4.3 and figure 5"
    # The task must be known: it decides which net is asked.
    scenarios = ("task", "domain")
    new_net_per_task = True
