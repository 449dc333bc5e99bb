"""In what runs differ; runs that differ in the seed alone become one."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ..experiments.config import text
from ..experiments.presets import BENCHMARKS
from ..methods import METHODS
from .results import Labelled, Results, Trial

# Options, and for each of their values the labels of the results with it.
Differences: TypeAlias = list[tuple[str, dict[str, list[str]]]]
# What a method is given to work with.
SETTINGS = ("strength", "damping", "memory")
# Options that change no trial: which trials there are, and names.
SEEDS = ("seed", "seeds")
NAMES = ("preset", "data_dir")
# The part of a checksum that is compared and shown.
DIGITS = len("sha256:") + 12


def title(results: Results) -> str:
    """Returns the benchmark's title, with what is not its default."""
    benchmark = BENCHMARKS.get(results.benchmark)
    if benchmark is None:
        return results.benchmark
    whole = benchmark.title
    dataset = results.config.get("dataset")
    if dataset and dataset != benchmark.dataset:
        whole += f" ({dataset})"
    scenario = results.config.get("scenario")
    if scenario and len(benchmark.scenarios) > 1:
        whole += f", {scenario} scenario"
    return whole


def load(paths: Iterable[str]) -> Labelled:
    """Reads run folders and merges them as `merge` does; labels are the paths.

    Raises:
        RunError: If a folder has no results, or they are not as written.
    """
    return merge(
        # Names may have bytes that are no text.
        (os.fsencode(path).decode(errors="replace"), Results.load(path))
        for path in paths
    )


def merge(labelled: Iterable[tuple[str, Results]]) -> Labelled:
    """Makes one run of those that differ in the seed alone.

    Machine and versions are no difference. A method with a seed that several
    runs have counts once: the first trial that is complete, if there is one.
    """
    groups: dict[str, list[tuple[str, Results]]] = {}
    for label, results in labelled:
        options = {**_options(results), "methods": results.config["methods"]}
        # An option that is newer than a run is as one that is not used.
        used = {name: v for name, v in options.items() if v is not None}
        group = json.dumps(used, sort_keys=True)
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
        members=members,
    )
    return f"{label} and {len(members) - 1} more", merged


def differences(labelled: Labelled) -> Differences:
    """Returns in what the options and the data of results differ.

    Methods are no difference, nor is a setting that no method uses.
    """
    return differing((label, _options(results)) for label, results in labelled)


def _options(results: Results) -> dict[str, Any]:
    """Returns what decides the outcome of each trial."""
    used = {
        setting
        for setting in SETTINGS
        for method in results.methods
        if method not in METHODS or setting in METHODS[method].uses
    }
    but = {"methods", *SEEDS, *NAMES, *SETTINGS} - used
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
