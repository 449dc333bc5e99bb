"""How a run is spread over devices: checked before anything heavy starts."""

import dataclasses
import json
import os

from .errors import OptionError
from .wording import counted

DISTRIBUTIONS = ("none", "mirrored", "multiworker", "data-parallel")
BACKENDS = ("tensorflow", "jax")
# What only one backend can do, and what the other has in its place.
OWN = {
    "mirrored": ("tensorflow", "data-parallel"),
    "multiworker": ("tensorflow", "data-parallel"),
    "data-parallel": ("jax", "mirrored"),
}
TF_CONFIG = (
    """{"cluster": {"worker": ["host0:12345", "host1:12345"]}, """
    """"task": {"type": "worker", "index": 0}}"""
)


@dataclasses.dataclass(frozen=True)
class Worker:
    """This process among those of a run; worker 0 keeps the results.

    Args:
        index: Its place, from 0.
        count: How many there are.
    """

    index: int = 0
    count: int = 1


def check(distribute: str) -> Worker:
    """Refuses what cannot be run; returns this process's `Worker`.

    Args:
        distribute: A name in `DISTRIBUTIONS`.

    Raises:
        OptionError: If the backend does not have it, or TF_CONFIG does not
            say who the workers are.
    """
    chosen = backend()
    if chosen not in BACKENDS:
        raise OptionError(
            "KERAS_BACKEND",
            f"received {chosen!r}, expected one of {', '.join(BACKENDS)}: the "
            "command line runs on these, and the library on PyTorch too",
        )
    if distribute == "none":
        return Worker()
    needed, instead = OWN[distribute]
    if chosen != needed:
        raise OptionError(
            "--distribute",
            f"{distribute} needs KERAS_BACKEND={needed}, which is {chosen!r}; "
            f"set it, or use --distribute {instead}",
        )
    return _worker() if distribute == "multiworker" else Worker()


def backend() -> str:
    """Returns the backend that Keras will choose when it is imported."""
    if "KERAS_BACKEND" in os.environ:
        return os.environ["KERAS_BACKEND"]
    folder = os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
    try:
        with open(os.path.join(folder, "keras.json"), encoding="utf-8") as file:
            return str(json.load(file)["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def _worker() -> Worker:
    """Reads TF_CONFIG, as `MultiWorkerMirroredStrategy` will."""
    if "TF_CONFIG" not in os.environ:
        raise _bad_tf_config("it is not set")
    try:
        content = json.loads(os.environ["TF_CONFIG"])
    except ValueError as error:
        raise _bad_tf_config(f"it is no JSON ({error})") from None
    try:
        jobs, task = dict(content["cluster"]), content["task"]
        kind, index = task["type"], int(task["index"])
    except (KeyError, TypeError, ValueError):
        raise _bad_tf_config(
            "it has no cluster, or no task with type and index"
        ) from None
    if list(jobs) != ["worker"] or kind != "worker":
        raise _bad_tf_config(
            f"it has the jobs {', '.join(jobs)} and a task of type {kind}; "
            "worker is the only one here"
        )
    addresses = jobs["worker"]
    if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
        raise _bad_tf_config("its workers are no list of host:port")
    if len(set(addresses)) != len(addresses):
        raise _bad_tf_config("it names a worker twice")
    if not 0 <= index < len(addresses):
        raise _bad_tf_config(
            f"it has the index {index}, and "
            f"{counted(len(addresses), 'worker')}, counted from 0"
        )
    return Worker(index, len(addresses))


def _is_address(text: object) -> bool:
    if not isinstance(text, str):
        return False
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _bad_tf_config(problem: str) -> OptionError:
    return OptionError(
        "--distribute",
        "multiworker needs the environment variable TF_CONFIG to name all "
        f"workers and this one's index: {problem}. For the first of two: "
        f"TF_CONFIG='{TF_CONFIG}'",
    )
