"""Results -> tables."""

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..errors import counted
from ..experiments.config import HELD_OUT
from . import compare
from .results import MEASURES, Labelled, Results, Spread

COLUMNS = (
    "method",
    "average\naccuracy\n%",
    "backward\ntransfer\npoints",
    "forward\ntransfer\npoints",
    "forgetting\npoints",
    "seeds",
)
ERRORS = "± is one standard error of the mean over the seeds"


def accuracy_title(results: Results) -> str:
    """The line above `accuracy_table`, which may be narrower."""
    return f"{compare.title(results)}: average accuracy in % after each task"


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
            width=widths[place] if widths else None,
            # Where there is no room, no number is cut.
            overflow="fold",
        )
    return table


def notes(results: Results) -> list[str]:
    """Returns a run's other measures, and how to read its table, in lines."""
    lines = []
    for method in results.methods:
        measures = [results.spread(method, name) for name in MEASURES[1:]]
        known = ", ".join(
            f"{name.replace('_', ' ')} {spread_text(of, ' points')}"
            for name, of in zip(MEASURES[1:], measures, strict=True)
            if of["n"]
        )
        if known:
            lines.append(f"{method}: {known}")
    if any(len(results.of(method)) > 1 for method in results.methods):
        lines.append(ERRORS)
    return lines


def comparison_table(labelled: Labelled) -> Group:
    """For each run folder its name, and a row for each of its methods.

    A name is too long for a column: it has a line of its own, between tables
    that have the same columns.
    """
    runs = [
        [(method, *measures(results, method)) for method in results.methods]
        for _, results in labelled
    ]
    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n"))
        for column in zip(COLUMNS, *sum(runs, []), strict=True)
    ]
    parts: list[Table | Text] = [_table(COLUMNS, widths)]
    for (label, _), rows in zip(labelled, runs, strict=True):
        table = _table(COLUMNS, widths)
        table.show_header = False
        for row in rows:
            table.add_row(*map(Text, row))
        parts += [Text(label, overflow="fold"), table]
    return Group(*parts)


def measures(results: Results, method: str) -> list[str]:
    """Returns the row of a method in a comparison: `COLUMNS` but the first."""
    spreads = [results.spread(method, name) for name in MEASURES]
    return [*map(spread_text, spreads), str(spreads[0]["n"])]


def comparison_notes(labelled: Labelled) -> list[str]:
    """Returns what must be known to read `comparison_table`, in lines."""
    lines = []
    spreads = [r.spread(m, MEASURES[0]) for _, r in labelled for m in r.methods]
    if any(spread["n"] > 1 for spread in spreads):
        lines.append(ERRORS)
    for label, results in labelled:
        if results.members:
            lines += _merged(label, results)
        lines += [
            f"{label}: {trial.method} with seed {trial.seed} was given up: "
            f"{trial.failed}"
            for trial in results.trials
            if trial.failed is not None
        ]
        for name, member in results.members or [(label, results)]:
            if not member.is_over:
                lines.append(f"{name} is not finished: what is done counts.")
        if results.config.get("held_out"):
            lines.append(f"{label} is judged on {HELD_OUT}.")
    differences = compare.differences(labelled)
    if differences:
        lines += [
            "The runs differ in more than their methods:",
            *_values(differences),
        ]
    return lines


def _merged(label: str, results: Results) -> list[str]:
    """Says which runs were merged, and in what they differ."""
    names = ", ".join(name for name, _ in results.members)
    lines = [f"{label} are one run, as at most the seed differs: {names}"]
    found = sum(len(member.trials) for _, member in results.members)
    repeated = found - len(results.trials)
    if repeated:
        lines.append(
            f"  {counted(repeated, 'trial')} left out: another run has the "
            "same method and seed"
        )
    versions = compare.differing(
        (name, member.versions) for name, member in results.members
    )
    return lines + [
        f"  versions of {line.strip()}" for line in _values(versions)
    ]


def _values(differences: compare.Differences) -> list[str]:
    return [
        f"  {name}: "
        + "; ".join(f"{v} in {', '.join(names)}" for v, names in of.items())
        for name, of in differences
    ]


def spread_text(spread: Spread, unit: str = "") -> str:
    """Returns a mean with its error in percent, or in points."""
    error, many = spread["standard_error"], spread["n"] > 1
    return percent(spread["mean"], error, many, unit)


def percent(
    mean: float, error: float = 0.0, many: bool = False, unit: str = " %"
) -> str:
    if math.isnan(mean):
        return "-"
    if not many or math.isnan(error):
        return f"{100 * mean:.2f}{unit}"
    return f"{100 * mean:.2f} ± {100 * error:.2f}{unit}"
