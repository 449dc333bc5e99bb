"""Synaptic Intelligence with a small memory of earlier tasks."""

from .replay import Replay
from .si import SynapticIntelligence


class SIReplay(SynapticIntelligence):
    """SI on the batches of `replay`.

    The loss of the images in the memory is part of the task's: SI measures
    what a weight does for both.
    """

    label = "SI and replay"
    summary = "SI on the batches of replay"
    source = (
        f"{SynapticIntelligence.source}; "
        "experience replay of Chaudhry et al. 2019"
    )
    uses = (*SynapticIntelligence.uses, *Replay.uses)
    mixes_tasks = True
