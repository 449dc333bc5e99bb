"""What a page says of all runs together."""

import datetime
import math
from collections.abc import Callable

import numpy as np

from . import compare, figures
from .html_table import Cell, Row, table
from .inline_svg import framed
from .markup import Markup, element, join
from .results import MEASURES, Labelled, Results, Spread
from .run_section import bands, full_name
from .tables import ERRORS, PROTOCOLS_DIFFER, SETTINGS_DIFFER, percent


def what(labelled: Labelled) -> Markup:
    """Returns which runs there are, and in what they differ, as `Markup`."""
    columns = [
        *("run", "benchmark", "scenario", "dataset", "tasks", "methods"),
        *("seeds", "date", "device", "state"),
    ]
    rows = []
    for label, results in labelled:
        devices = dict.fromkeys(made["device"] for made in results.made_with)
        rows.append(
            [
                Cell(label, header=True, kind="text"),
                *(
                    Cell(compare.value(results, name), kind="text")
                    for name in ("benchmark", "scenario", "dataset", "tasks")
                ),
                Cell(", ".join(results.methods), kind="text"),
                Cell(_seeds(results), kind="text"),
                Cell(_date(results), kind="text"),
                Cell(", then ".join(devices), kind="text"),
                Cell(_state(results), kind="text"),
            ]
        )
    return join(
        table(
            "what-table", "The runs, and how far they have come", columns, rows
        ),
        _differing(
            "protocols", labelled, compare.differences, PROTOCOLS_DIFFER
        ),
        _differing(
            "settings", labelled, compare.different_settings, SETTINGS_DIFFER
        ),
    )


def _date(results: Results) -> str:
    """Says when a run was started, as far as that is known."""
    if results.started is not None:
        started = datetime.datetime.fromisoformat(results.started)
        return f"{started.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    return "not recorded"


def _seeds(results: Results) -> str:
    seeds = sorted({run.seed for run in results.trials})
    if len(seeds) > 2 and seeds == [*range(seeds[0], seeds[-1] + 1)]:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or "-"


def _state(results: Results) -> str:
    """Says how many of its runs are complete: methods times seeds."""
    complete = sum(run.is_complete for run in results.trials)
    failed = sum(run.failed is not None for run in results.trials)
    methods, seeds = (results.config.get(n) for n in ("methods", "seeds"))
    count = len(results.trials)
    if type(methods) is list and type(seeds) is int:
        count = max(count, len(methods) * seeds)
    if complete == count:
        return "complete"
    told = f"{complete} of {count} complete"
    return f"{told}, {failed} failed" if failed else told


def _differing(
    name: str,
    labelled: Labelled,
    find: Callable[[Labelled], compare.Differences],
    heading: str,
) -> Markup:
    """Says in what runs differ, as a table of a column for each of them."""
    found = find(labelled)
    if not found:
        return Markup()
    rows = []
    for option, values in found:
        # `values` has the labels of each value, which may come twice.
        of = {label: v for v, labels in values.items() for label in labels}
        rows.append(
            [
                Cell(option, header=True, kind="text"),
                *(
                    Cell(of.get(label, "-"), kind="text")
                    for label, _ in labelled
                ),
            ]
        )
    columns = ["option", *(label for label, _ in labelled)]
    return element(
        "div",
        element("p", heading),
        table(name, f"Different {name}", columns, rows),
        class_="notice",
    )


def summary(labelled: Labelled) -> Markup:
    """Returns what there is to say of each method at the end."""
    # One run alone is named above.
    several = len(labelled) > 1
    rows: list[Row] = []
    failures: list[Markup] = []
    many = False
    for label, results in labelled:
        for method in results.methods:
            spreads = [results.spread(method, name) for name in MEASURES]
            seconds = [
                results.spread(method, f"{name}_seconds")
                for name in ("train", "evaluate")
            ]
            many |= spreads[0]["n"] > 1
            rows.append(
                [
                    *([Cell(label, header=True, kind="text")] * several),
                    Cell(full_name(method), header=True, kind="text"),
                    Cell(_percent(spreads[0]), bar=_bar(spreads[0]["mean"])),
                    *(_percent(spread) for spread in spreads[1:]),
                    *map(_seconds, seconds),
                    str(spreads[0]["n"]),
                ]
            )
        failures += [
            element(
                "li", f"{label}: {run.method}, seed {run.seed}: {run.failed}"
            )
            for run in results.trials
            if run.failed is not None
        ]
    made = [
        table(
            "summary-table",
            "Each method after its last task: accuracies in %, transfer and "
            "forgetting in points, times in seconds; over the seeds that are "
            "complete",
            [
                *(["run"] * several),
                *("method", "average accuracy", "backward transfer"),
                *("forward transfer", "forgetting", "training", "testing"),
                "seeds",
            ],
            rows,
        )
    ]
    if many:
        made.append(element("p", f"{ERRORS}."))
    if failures:
        made += [
            element("p", "Given up, and not in the table:"),
            element("ul", *failures),
        ]
    return join(*made)


def _percent(spread: Spread) -> str:
    return percent(
        spread["mean"], spread["standard_error"], spread["n"] > 1, ""
    )


def _bar(value: float) -> float | None:
    return None if math.isnan(value) else value


def _seconds(spread: Spread) -> str:
    if not spread["n"]:
        return "-"
    digits = 1 if spread["mean"] < 100 else 0
    text = f"{spread['mean']:.{digits}f}"
    if spread["n"] > 1:
        text += f" ± {spread['standard_error']:.{digits}f}"
    return text


def average(labelled: Labelled) -> Markup:
    """Returns average accuracy over the tasks: figure and table."""
    # One run alone needs no label in its figure.
    drawn = labelled if len(labelled) > 1 else [("", labelled[0][1])]
    curves = []
    for label, results in drawn:
        for method in results.methods:
            name = figures.method_name(method)
            name = f"{label}: {name}" if label else name
            curves.append((name, *results.curve_of(method)))
    tasks = max((len(mean) for _, mean, _, _ in curves), default=0)
    rows: list[Row] = [
        [
            Cell(f"after task {task + 1}", header=True),
            *(
                percent(mean[task], error[task], many, "")
                if task < len(mean)
                else "-"
                for _, mean, error, many in curves
            ),
        ]
        for task in range(tasks)
    ]
    return join(
        framed(
            lambda: figures.average_figure(drawn),
            figures.STYLE,
            "average-figure",
            "Average accuracy over the number of tasks learned"
            + bands(labelled),
            "; ".join(
                f"{name}: {_from_to(mean)}" for name, mean, _, _ in curves
            ),
        ),
        table(
            "average-table",
            "Average accuracy in % on the tasks learned so far",
            ["", *(name for name, *_ in curves)],
            rows,
        ),
    )


def _from_to(mean: np.ndarray) -> str:
    known = [task for task, value in enumerate(mean) if not math.isnan(value)]
    if not known:
        return "nothing yet"
    first, last = known[0], known[-1]
    return (
        f"{100 * mean[first]:.2f} % after task {first + 1}, "
        f"{100 * mean[last]:.2f} % after task {last + 1}"
    )
