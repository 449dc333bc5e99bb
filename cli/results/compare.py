"""In what runs differ; runs that differ in the seed alone become one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..experiments.presets import BENCHMARKS
from ..methods import METHODS
from .results import Labelled, Results, Trial

# Options, and for each of their values the labels of the results with it.
Differences: TypeAlias = list[tuple[str, dict[str, list[str]]]]
HELD_OUT = "the last sixth of the training data, held out"
# What a method is given to work with.
SETTINGS = ("strength", "damping", "memory")
# Options that change no trial: which trials there are, and names.
SEEDS = ("seed", "seeds")
NAMES = ("preset", "data_dir")
# As much of a checksum as tells data apart.
DIGITS = len("sha256:") + 12


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


def load(paths: Iterable[str]) -> Labelled:
    """Reads run folders, each once, and merges them as `merge` does.

    Labels are the paths, without the folders that they share.

    Raises:
        RunError: If a folder has no results, or they are not as written.
    """
    folders: dict[str, str] = {}
    for path in paths:
        folders.setdefault(os.path.realpath(path), path)
    labels = [*folders.values()]
    if len(labels) > 1:
        whole = [os.path.abspath(path) for path in labels]
        shared = os.path.commonpath([os.path.dirname(path) for path in whole])
        labels = [os.path.relpath(path, shared) for path in whole]
    return merge(
        # A figure cannot show what is not printable.
        ("".join(c if c.isprintable() else "?" for c in label), results)
        for label, results in zip(
            labels, map(Results.load, folders.values()), strict=True
        )
    )


def merge(labelled: Iterable[tuple[str, Results]]) -> Labelled:
    """Makes one run of those that differ in the seed alone.

    Machine and versions are no difference. A method with a seed that several
    runs have counts once: the first trial that is complete, if there is one.
    """
    groups: dict[str, list[tuple[str, Results]]] = {}
    for label, results in labelled:
        options = _options(results, but=(*SEEDS, *NAMES))
        group = json.dumps(options, sort_keys=True)
        groups.setdefault(group, []).append((label, results))
    return [
        group[0] if len(group) == 1 else _merged(group)
        for group in groups.values()
    ]


def _merged(members: Labelled) -> tuple[str, Results]:
    label, first = members[0]
    trials: dict[tuple[str, int], Trial] = {}
    for _, results in members:
        for trial in results.trials:
            known = trials.setdefault((trial.method, trial.seed), trial)
            if trial.is_complete and not known.is_complete:
                trials[trial.method, trial.seed] = trial
    methods = list(dict.fromkeys(method for method, _ in trials))
    merged = dataclasses.replace(
        first,
        trials=sorted(
            trials.values(), key=lambda t: (methods.index(t.method), t.seed)
        ),
        config={k: v for k, v in first.config.items() if k not in SEEDS},
        members=members,
    )
    return f"{label} and {len(members) - 1} more", merged


def repeated(results: Results) -> dict[tuple[str, ...], list[str]]:
    """Returns the trials that several members have.

    Returns:
        A dict of the members' labels, first the one whose trial counts, and
        the names of the trials.
    """
    labels: dict[tuple[str, int], list[str]] = {}
    for label, member in results.members:
        for trial in member.trials:
            found = labels.setdefault((trial.method, trial.seed), [])
            counts = any(trial is other for other in results.trials)
            found.insert(0 if counts else len(found), label)
    trials: dict[tuple[str, ...], list[str]] = {}
    for (method, seed), found in labels.items():
        if len(found) > 1:
            trials.setdefault(tuple(found), []).append(f"{method} seed {seed}")
    return trials


def planned(results: Results) -> set[tuple[str, int]]:
    """Returns the methods and seeds that a run has, or is yet to have."""
    pairs = {(trial.method, trial.seed) for trial in results.trials}
    for _, member in results.members or [("", results)]:
        config = member.config
        first = config.get("seed", 0)
        for seed in range(first, first + config.get("seeds", 0)):
            pairs |= {(method, seed) for method in config.get("methods", ())}
    return pairs


def differences(labelled: Labelled) -> Differences:
    """Returns in what the protocols of results differ.

    Args:
        labelled: Pairs of a label and its `Results`.

    Returns:
        Pairs of an option and a dict, which gives the labels for each of its
        values. It is empty if all have one protocol.
    """
    but = ("methods", *SEEDS, *NAMES, *SETTINGS)
    found = differing((label, _options(r, but)) for label, r in labelled)
    # Where these differ, so do the data.
    known = {"benchmark", "dataset", "held out"} & {name for name, _ in found}
    return [each for each in found if not (known and each[0] == "data")]


def different_settings(labelled: Labelled) -> Differences:
    """Returns in what the settings of their methods differ.

    Only results with a method that uses a setting have it. Arguments and what
    is returned are those of `differences`.
    """
    return differing(
        (
            label,
            {name: r.config.get(name) for name in SETTINGS if _uses(r, name)},
        )
        for label, r in labelled
    )


def _uses(results: Results, setting: str) -> bool:
    # A method that is not known here may use it.
    return any(
        method not in METHODS or setting in METHODS[method].uses
        for method in results.methods
    )


def _options(results: Results, but: Sequence[str]) -> dict[str, Any]:
    options = {**results.config, "benchmark": results.benchmark}
    data = results.versions.get("data")
    if data is not None:
        options["data"] = str(data)[:DIGITS]
    return {name: v for name, v in options.items() if name not in but}


def differing(of: Iterable[tuple[str, Mapping[str, Any]]]) -> Differences:
    """Compares dicts: those without a key are left out of its comparison."""
    values: dict[str, dict[str, list[str]]] = {}
    for label, options in of:
        for name, value in options.items():
            labels = values.setdefault(name.replace("_", " "), {})
            labels.setdefault(text(value), []).append(label)
    return [(name, found) for name, found in values.items() if len(found) > 1]


def text(value: object) -> str:
    """Returns the value of an option as it is shown."""
    if isinstance(value, list | tuple):
        return ",".join(map(text, value))
    return "-" if value is None else str(value)
