"""Results -> tables."""

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .compare import differences, different_settings, title
from .results import MEASURES, Labelled, Results

COLUMNS = (
    "method",
    "average\naccuracy\n%",
    "backward\ntransfer\npoints",
    "forward\ntransfer\npoints",
    "forgetting\npoints",
    "seeds",
)
ERRORS = "± is one standard error of the mean over the seeds"
PROTOCOLS_DIFFER = (
    "The protocols differ: the numbers compare more than methods."
)
SETTINGS_DIFFER = "The settings of the methods differ."


def accuracy_table(results: Results) -> Table:
    """Average accuracy after each task: a row a task, a column a method."""
    table = _table(["task", *results.methods])
    curves = [results.curve_of(method) for method in results.methods]
    for task in range(max((len(mean) for mean, _, _ in curves), default=0)):
        table.add_row(
            str(task + 1),
            *(
                percent(mean[task], error[task], many, "")
                for mean, error, many in curves
            ),
        )
    return table


def _table(headings: Sequence[str], widths: Sequence[int] = ()) -> Table:
    """Makes a table of numbers; five methods with errors fit 80 columns."""
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for place, heading in enumerate(headings):
        table.add_column(
            Text(heading),  # A string would be read as markup.
            justify="left" if heading == COLUMNS[0] else "right",
            vertical="bottom",
            min_width=widths[place] if widths else None,
            # Where there is no room, no number is cut.
            overflow="fold",
        )
    return table


def accuracy_title(results: Results) -> str:
    """The line above `accuracy_table`, which may be narrower."""
    return f"{title(results)}: average accuracy in % after each task"


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


def comparison_table(labelled: Labelled, width: int) -> Group:
    """For each run folder its name, and a row for each of its methods.

    Args:
        labelled: Pairs of a label, such as the folder, and its `Results`.
        width: The columns that there are.
    """
    rows = [
        [_comparison_row(results, method) for method in results.methods]
        for _, results in labelled
    ]
    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n"))
        for column in zip(COLUMNS, *sum(rows, []), strict=True)
    ]
    fits = sum(widths) + 2 * len(widths) <= width
    # A name is too long for a column: it has a line, between tables that have
    # the same columns, where there is room for that.
    parts: list[Table | Text] = [_table(COLUMNS, widths)] if fits else []
    for (label, _), of_run in zip(labelled, rows, strict=True):
        table = _table(COLUMNS, widths if fits else ())
        table.show_header = not fits
        for row in of_run:
            table.add_row(*map(Text, row))
        parts += [Text(label, overflow="fold"), table]
    return Group(*parts)


def _comparison_row(results: Results, method: str) -> list[str]:
    spreads = [results.spread(method, name) for name in MEASURES]
    return [
        f"  {method}",
        *(
            percent(s["mean"], s["standard_error"], s["n"] > 1, "")
            for s in spreads
        ),
        str(spreads[0]["n"]),
    ]


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
