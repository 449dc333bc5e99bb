"""Results -> tables."""

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from .protocols import differences, different_settings, title
from .results import MEASURES, Results, curve
from .types import Labelled

COLUMNS = ("average\naccuracy", "backward\ntransfer", "forward\ntransfer")
ERRORS = "± is one standard error of the mean over the seeds"
PROTOCOLS_DIFFER = (
    "The protocols differ: the numbers compare more than methods."
)
SETTINGS_DIFFER = "The settings of the methods differ."


def accuracy_table(results: Results) -> Table:
    """Average accuracy after each task: a row a task, a column a method."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("after task", justify="right")
    for method in results.methods:
        table.add_column(Text(method), justify="right", no_wrap=True)
    curves = [
        curve([run.average_accuracy for run in results.of(method)])
        for method in results.methods
    ]
    for task in range(max((len(mean) for mean, _, _ in curves), default=0)):
        table.add_row(
            str(task + 1),
            *(
                percent(mean[task], error[task], many)
                for mean, error, many in curves
            ),
        )
    return table


def accuracy_title(results: Results) -> str:
    """The line above `accuracy_table`, which may be narrower."""
    return f"{title(results)}: average accuracy over the tasks so far"


def _points(value: float, error: float, many: bool) -> str:
    """A difference of accuracies: in points, which are no percentage."""
    return percent(value, error, many, " points")


def notes(results: Results) -> list[str]:
    """What a run brought besides, and how to read its table, in lines."""
    lines = []
    for method in results.methods:
        measures = [results.spread(method, name) for name in MEASURES[1:]]
        told = ", ".join(
            f"{name.replace('_', ' ')} "
            + _points(s["mean"], s["standard_error"], s["n"] > 1)
            for name, s in zip(MEASURES[1:], measures, strict=True)
            if s["n"]
        )
        if told:
            lines.append(f"{method}: {told}")
    if any(len(results.of(method)) > 1 for method in results.methods):
        lines.append(ERRORS)
    return lines


def comparison_table(labelled: Labelled) -> Table:
    """One row for each run folder and method, over its finished runs.

    Args:
        labelled: Pairs of a label, such as the folder, and its `Results`.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("method")
    for name in (*COLUMNS, "forgetting"):
        table.add_column(f"{name} %", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right")
    for label, results in labelled:
        for method in results.methods:
            spreads = [results.spread(method, name) for name in MEASURES]
            table.add_row(
                # A string would be read as markup.
                Text(label),
                Text(method),
                *(
                    percent(s["mean"], s["standard_error"], s["n"] > 1, "")
                    for s in spreads
                ),
                str(spreads[0]["n"]),
            )
    return table


def comparison_notes(labelled: Labelled) -> list[str]:
    """Returns what must be known to read `comparison_table`, in lines."""
    lines = []
    if any(
        results.spread(method, MEASURES[0])["n"] > 1
        for _, results in labelled
        for method in results.methods
    ):
        lines.append(ERRORS)
    for different, heading in (
        (differences(labelled), PROTOCOLS_DIFFER),
        (different_settings(labelled), SETTINGS_DIFFER),
    ):
        if different:
            lines.append(heading)
        for name, values in different:
            told = (f"{v} in {', '.join(names)}" for v, names in values.items())
            lines.append(f"  {name}: {'; '.join(told)}")
    return lines


def percent(mean: float, error: float, many: bool, unit: str = " %") -> str:
    if math.isnan(mean):
        return "-"
    if not many or math.isnan(error):
        return f"{100 * mean:.2f}{unit}"
    return f"{100 * mean:.2f} ± {100 * error:.2f}{unit}"
