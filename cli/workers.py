"""The processes that train one net in step, each on its share of a batch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import OptionError, RunError
from .types import Record

if TYPE_CHECKING:
    from .config import RunConfig
    from .resume import Standing

# What a fact is, and what to do if it is not the same for all.
ADVICE = {
    "options": "the workers were given different options: start the same "
    "command on each",
    "versions": "the workers have different versions of keras-si, Python or "
    "what it needs: install the same on each",
    "standing": "the workers do not find the same run to go on with: --output "
    "must be a folder that all of them share",
}
# They may differ: where the results are, and where the data is.
FREE_OPTIONS = ("output", "data_dir")


def check_same(
    config: RunConfig, versions: Record, standing: Standing | None
) -> None:
    """Refuses workers that would not do the same thing, on all of them.

    Nothing has been written: worker 0 waits here until all have read what
    there is to go on from.

    Args:
        config: The `RunConfig` of this worker.
        versions: What it runs with.
        standing: The `Standing` it found, or `None`.
    """
    from . import devices

    options = config.to_dict()
    at = None
    if standing is not None:
        runs = [run.to_dict() for run in standing.runs]
        at = [runs, dataclasses.asdict(standing.position), standing.newest]
    facts = {
        "options": {
            **{n: options[n] for n in options if n not in FREE_OPTIONS},
            "resume": standing is not None,
        },
        "versions": versions,
        "standing": at,
    }
    numbers = [_number(facts[name]) for name in ADVICE]
    for name, same in zip(ADVICE, devices.agreed(numbers), strict=True):
        if not same:
            raise OptionError("--distribute", ADVICE[name])


def _number(content: object) -> int:
    """Returns 63 bits that are the same for what is the same."""
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def telling_of_lost_ones() -> Iterator[None]:
    """Turns what TensorFlow says when a worker is gone into one line."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise RunError(
            "another worker has ended or cannot be reached "
            f"({type(error).__name__}): see what it says, then start the same "
            "command on every worker again, with --resume"
        ) from error
