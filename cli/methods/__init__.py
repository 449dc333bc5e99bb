"""Methods by name. To add one: a file here, and a line below."""

from .ewc import ElasticWeightConsolidation
from .joint import Joint
from .l2 import L2
from .method import Method
from .naive import Naive
from .replay import Replay
from .scratch import Scratch
from .si import SynapticIntelligence
from .si_replay import SIReplay

METHODS: dict[str, type[Method]] = {
    "si": SynapticIntelligence,
    "naive": Naive,
    "joint": Joint,
    "scratch": Scratch,
    "l2": L2,
    "ewc": ElasticWeightConsolidation,
    "replay": Replay,
    "si-replay": SIReplay,
}

__all__ = ["METHODS", "Method"]
