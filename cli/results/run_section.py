"""What a page says of one run folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..methods import METHODS, Method
from . import figures, made_with
from .html_table import Cell, table
from .inline_svg import framed
from .markup import Markup, element, join
from .results import IMPORTANCE, Labelled, Results, Trial, curve

# Of the colours of accuracies.
LEVELS = 8
MEASURES = {"mean": "Mean", "max": "Largest"}
# Of the bar of the smallest importance that there is.
SHORTEST_BAR = 0.05


@dataclasses.dataclass
class Scale:
    """Which colour an accuracy has: one scale for a page.

    Args:
        lowest: Where it starts, a fraction of 1; it ends at 1.
    """

    lowest: float

    @classmethod
    def of(cls, all_results: Iterable[Results]) -> Scale:
        """Makes the one that starts at a full ten percent, as the figures."""
        learned = [
            np.tril(run.accuracy)[np.tril_indices(len(run.accuracy))]
            for results in all_results
            for run in results.trials
        ]
        return cls(figures.full_ten_percent(learned))

    def level(self, accuracy: float) -> int:
        """Returns its level, from 0 to `LEVELS` - 1."""
        part = (accuracy - self.lowest) / (1 - self.lowest)
        return min(LEVELS - 1, int(part * LEVELS + 1e-9))

    def legend(self) -> Markup:
        """Returns the colours and where they start, as `Markup`."""
        step = (1 - self.lowest) / LEVELS
        return element(
            "p",
            "Colours, from: ",
            *(
                element(
                    "span",
                    f"{100 * (self.lowest + level * step):.4g} %",
                    class_=f"swatch level-{level}",
                )
                for level in range(LEVELS)
            ),
            class_="legend",
        )


def full_name(method: str) -> str:
    """Returns what a method is called, and the name of the option."""
    name = figures.method_name(method)
    return name if name == method else f"{name} ({method})"


def content(name: str, results: Results, scale: Scale) -> Markup:
    """Returns what there is to say of one run, as `Markup`.

    Args:
        name: A prefix for ids, of its own in the page.
        results: Its `Results`.
        scale: The `Scale` of the page.
    """
    return join(
        element("h3", "Accuracy on each task"),
        framed(
            lambda: figures.task_figure(results),
            figures.TASK_STYLE,
            f"{name}-figure",
            "Accuracy on each task over the number of tasks learned"
            + bands([(name, results)]),
            "One small figure for each task, from where it is learned to the "
            "end, with a line for each of: "
            f"{', '.join(map(figures.method_name, results.methods))}. The "
            "numbers are in the accuracy matrices.",
        ),
        element("h3", "Accuracy matrices"),
        element(
            "p",
            "Accuracy in % on the test set of each task, a column, after each "
            "task, a row. In italics: before it was learned.",
        ),
        scale.legend(),
        element(
            "div",
            *(
                _matrix(f"{name}-matrix-{place}", results, method, scale)
                for place, method in enumerate(results.methods)
            ),
            class_="side",
        ),
        element("h3", "Importance of each variable"),
        *_importance(name, results),
        element("h3", "Configuration and versions"),
        element(
            "div",
            made_with.configuration(f"{name}-config", results.config),
            made_with.versions(f"{name}-versions", results),
            class_="side",
        ),
        element("h3", "To make it again"),
        *made_with.command(results),
    )


def bands(labelled: Labelled) -> str:
    """Returns what is to be said of the bands in a figure, if it has any."""
    many = any(
        len(results.of(method)) > 1
        for _, results in labelled
        for method in results.methods
    )
    return "; the bands are ± one standard error" if many else ""


def _over(runs: Sequence[Trial]) -> str:
    return f", mean over {len(runs)} seeds" if len(runs) > 1 else ""


def _matrix(name: str, results: Results, method: str, scale: Scale) -> Markup:
    runs = results.of(method)
    tasks = len(runs[0].accuracy)
    mean, _, _ = curve([run.accuracy.ravel() for run in runs])
    matrix = mean.reshape(tasks, tasks)
    return table(
        name,
        f"Accuracy matrix of {full_name(method)}{_over(runs)}",
        ["", *(f"task {task + 1}" for task in range(tasks))],
        [
            [
                Cell(f"after task {after + 1}", header=True),
                *(
                    _heat(matrix[after, on], on > after, scale)
                    for on in range(tasks)
                ),
            ]
            for after in range(tasks)
        ],
    )


def _heat(accuracy: float, before: bool, scale: Scale) -> Cell:
    if math.isnan(accuracy):
        return Cell("", kind="heat")
    if before:
        return Cell(f"{100 * accuracy:.2f}", kind="heat before")
    return Cell(
        f"{100 * accuracy:.2f}", kind=f"heat level-{scale.level(accuracy)}"
    )


def _importance(name: str, results: Results) -> Iterator[Markup]:
    without = []
    for place, method in enumerate(results.methods):
        runs = [run for run in results.of(method) if run.importance]
        if runs:
            yield element(
                "div",
                *(
                    _importances(
                        f"{name}-{measure}-{place}", method, runs, measure
                    )
                    for measure in IMPORTANCE
                ),
                class_="side",
            )
        elif _has_importance(method):
            yield element("p", f"{full_name(method)}: not recorded.")
        else:
            without.append(full_name(method))
    if without:
        yield element("p", f"Without importance: {', '.join(without)}.")


def _has_importance(method: str) -> bool:
    known = METHODS.get(method, Method)
    # What is not known here may have one.
    return known is Method or known.importance is not Method.importance


def _importances(
    name: str, method: str, runs: Sequence[Trial], measure: str
) -> Markup:
    paths = dict.fromkeys(path for run in runs for path in run.importance)
    means = {
        path: curve(
            [r.importance[path][measure] for r in runs if path in r.importance]
        )[0]
        for path in paths
    }
    values = np.concatenate([*means.values()])
    above = values[values > 0]
    scale = ""
    if len(above):
        low, high = above.min(), above.max()
        scale = (
            "; bars on a logarithmic scale, from "
            f"{_three(low)} to {_three(high)}"
        )
    return table(
        name,
        f"{MEASURES[measure]} importance after each task in "
        f"{full_name(method)}{_over(runs)}{scale}",
        ["variable", *(f"task {t + 1}" for t in range(len(runs[0].accuracy)))],
        [
            [
                Cell(path, header=True, kind="path"),
                *(
                    Cell("-")
                    if math.isnan(value)
                    else Cell(_three(value), bar=_log(value, low, high))
                    if value
                    else Cell("0")
                    for value in mean
                ),
            ]
            for path, mean in means.items()
        ],
    )


def _three(value: float) -> str:
    """Returns a number with three significant digits."""
    return f"{value:#.3g}".rstrip(".")


def _log(value: float, low: float, high: float) -> float:
    """Returns where a value is between others, on a logarithmic scale."""
    if low == high:
        return 1.0
    part = math.log(value / low) / math.log(high / low)
    return SHORTEST_BAR + (1 - SHORTEST_BAR) * part
