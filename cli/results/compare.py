"""What a run did, apart from the methods: are two results comparable?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from ..experiments.presets import BENCHMARKS
from ..methods import METHODS

if TYPE_CHECKING:
    from .results import Labelled, Results

# Options, and for each of their values the labels of the results with it.
Differences: TypeAlias = list[tuple[str, dict[str, list[str]]]]
# What makes the protocol.
PROTOCOL = (
    "scenario",
    "dataset",
    "padding",
    "tasks",
    "epochs",
    "steps",
    "batch_size",
    "hidden",
    "learning_rate",
    "reset_optimizer",
    "output_weights",
    "precision",
)
# The test set, but for the points of a search.
JUDGED_ON = "judged on"
HELD_OUT = "the last sixth of the training data, held out"
# As much of a checksum as tells data apart.
DIGITS = len("sha256:") + 12
# What a method is given to work with.
SETTINGS = ("strength", "damping")


def is_held_out(results: Results) -> bool:
    """Whether it is judged on training data, as the points of a search."""
    return bool(results.config.get("held_out"))


def title(results: Results) -> str:
    """Returns the benchmark's title, with what is not its default."""
    benchmark = BENCHMARKS.get(results.benchmark)
    if benchmark is None:
        return results.benchmark
    text = benchmark.title
    dataset = results.config.get("dataset")
    if dataset and dataset != benchmark.dataset:
        text += f" ({dataset})"
    scenario = results.config.get("scenario")
    if scenario and len(benchmark.scenarios) > 1:
        text += f", {scenario} scenario"
    return text


def differences(labelled: Labelled) -> Differences:
    """Returns in what the protocols of results differ.

    Args:
        labelled: Pairs of a label and its `Results`.

    Returns:
        Pairs of an option and a dict, which gives the labels for each of
        its values. Empty if all have one protocol.
    """
    found = _differences(
        (name, labelled) for name in ("benchmark", *PROTOCOL, JUDGED_ON)
    )
    # Where these differ, the data do.
    if not {"benchmark", "dataset", JUDGED_ON} & {name for name, _ in found}:
        known = [(label, r) for label, r in labelled if "data" in r.versions]
        found += _differences([("data", known)])
    return found


def different_settings(labelled: Labelled) -> Differences:
    """Returns in what the settings of their methods differ.

    Only results with a method that uses a setting have it. Arguments and
    what is returned are those of `differences`.
    """
    return _differences(
        (
            name,
            [
                (label, results)
                for label, results in labelled
                if _uses(results, name)
            ],
        )
        for name in SETTINGS
    )


def _uses(results: Results, setting: str) -> bool:
    # A method that is not known here may use it.
    return any(
        method not in METHODS or setting in METHODS[method].uses
        for method in results.methods
    )


def _differences(named: Iterable[tuple[str, Labelled]]) -> Differences:
    found = []
    for name, labelled in named:
        labels: dict[str, list[str]] = {}
        for label, results in labelled:
            labels.setdefault(value(results, name), []).append(label)
        if len(labels) > 1:
            found.append((name.replace("_", " "), labels))
    return found


def value(results: Results, name: str) -> str:
    """Returns an option of results as text, or what else tells them apart."""
    if name == "benchmark":
        return results.benchmark
    if name == JUDGED_ON:
        return HELD_OUT if is_held_out(results) else "the test set"
    if name == "data":
        return str(results.versions["data"])[:DIGITS]
    value = results.config.get(name)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "-" if value is None else str(value)
