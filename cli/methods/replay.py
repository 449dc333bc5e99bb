"""Experience replay: a small memory of earlier tasks."""

from .method import Method


class Replay(Method):
    """Plain training on the new task and a memory of the earlier ones.

    The memory has `--memory` training images in all, shared equally by the
    classes met so far and chosen by the seed. From the second task on, each
    batch is the new task's and as many images drawn from the memory, and the
    loss is the mean over both. There are as many steps as for other methods.
    """

    label = "replay"
    summary = (
        "plain training; half of each batch is from a memory of earlier tasks"
    )
    source = (
        "experience replay of Chaudhry et al. 2019: the batch of the task, and "
        "as many images of a memory of --memory images, shared equally by all "
        "classes met"
    )
    uses = ("memory",)
    mixes_tasks = True
