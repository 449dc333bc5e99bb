"""A search -> lines, a table, a heat map."""

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import counted
from .grid import Point, at_the_edge, order
from .results import remake
from .results.compare import HELD_OUT, title
from .results.figures import FORMATS, STYLE, save
from .results.results import Results, Spread
from .results.tables import percent
from .tune import Search

HEAT_MAP = "heat_map"
# Dark enough for white figures, of a range from 0 to 1.
DARK = 0.6
# The strengths and the dampings of a method, in order.
AxesValues: TypeAlias = tuple[list[Any], ...]


class Lines:
    """Says a line for each point that is finished."""

    def __init__(self, search: Search, console: Console) -> None:
        self._console = console
        self._total = len(search.grid)
        self._done = self._total - len(search.todo())
        done = f", {self._done} of them done already" if self._done else ""
        self._say(f"{counted(self._total, 'setting')} to try{done}")

    def finished(self, point: Point, results: Results) -> None:
        """Hears of a point and its `Results`."""
        self._done += 1
        spread = results.spread(point.method, "final_average_accuracy")
        self._say(
            f"{self._done:>3}/{self._total}  {point.name:<36}  "
            f"average {_percent(spread)}{_failures(results)}"
        )

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def table(search: Search) -> Table:
    """One row for each point, the best one of each method marked."""
    bests = search.bests
    made = Table(box=SIMPLE_HEAD)
    made.add_column("method")
    for name in ("strength", "damping", "average accuracy"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("")
    for point in search.points:
        made.add_row(
            Text(point.method),
            *(
                f"{point.options[name]:g}" if name in point.options else "-"
                for name in ("strength", "damping")
            ),
            _percent(search.accuracy(point)),
            "best" if point in bests else "",
        )
    return made


def notes(search: Search) -> list[str]:
    """Returns what there is to say of the best points, in lines."""
    lines = [f"judged on {HELD_OUT}"]
    for best in search.bests:
        lines.append(f"best: {best.command}")
        command = _run_command(search, best)
        if command is not None:
            lines += ["on the test set, in a new run:", f"  {command}"]
        lines += [
            f"{edge}: there may be better ones beyond"
            for edge in at_the_edge(best, search.points)
        ]
    return lines


def _run_command(search: Search, point: Point) -> str | None:
    """Returns the `run` that does on the test set what a point did."""
    results = search.done[point]
    config = {**results.config, "held_out": False}
    return remake.command(dataclasses.replace(results, config=config))


def write_heat_map(search: Search) -> bool:
    """Draws accuracy over strength and damping, a field for each method.

    Returns:
        Whether there was something to draw.
    """
    methods = list(
        dict.fromkeys(point.method for point in search.points if point.options)
    )
    means = [_mean(search, point) for point in search.points]
    if not methods or np.isnan(means).all():
        return False
    limits = np.nanmin(means), np.nanmax(means)
    with rc_context(STYLE):
        sizes = [_axes(search, method) for method in methods]
        figure = Figure(
            figsize=(
                2.0 + sum(1.1 + 0.85 * len(x) for x, _ in sizes),
                1.8 + 0.7 * max(len(y) for _, y in sizes),
            ),
            layout="constrained",
        )
        fields = figure.subplots(
            1,
            len(methods),
            squeeze=False,
            width_ratios=[len(strengths) for strengths, _ in sizes],
        )[0]
        for axes, method, size in zip(fields, methods, sizes, strict=True):
            image = _draw(axes, search, method, size, limits)
        figure.colorbar(image, ax=list(fields), label="average accuracy, %")
        figure.suptitle(_heading(search), fontsize=10)
        for kind in FORMATS:
            save(figure, search.folder / (HEAT_MAP + kind))
    return True


def heat(search: Search, method: str) -> np.ndarray:
    """Returns the mean accuracies of a method: a row for each damping."""
    strengths, dampings = _axes(search, method)
    field = np.full((len(dampings), len(strengths)), np.nan)
    for point in search.points:
        if point.method == method:
            place = (
                dampings.index(point.damping),
                strengths.index(point.strength),
            )
            field[place] = _mean(search, point)
    return field


def _heading(search: Search) -> str:
    """Returns what was searched, and on what it was judged."""
    results = next(iter(search.done.values()))
    seeds = search.protocol["seeds"]
    mean = f", mean of {seeds} seeds" if seeds > 1 else ""
    return f"{title(results)}\nheld-out training data{mean}"


def _axes(search: Search, method: str) -> AxesValues:
    points = [point for point in search.points if point.method == method]
    return tuple(
        sorted({getattr(point, name) for point in points}, key=order)
        for name in ("strength", "damping")
    )


def _draw(
    axes: Axes,
    search: Search,
    method: str,
    size: AxesValues,
    limits: tuple[float, float],
) -> AxesImage:
    low, high = limits
    field = heat(search, method)
    image = axes.imshow(
        100 * field,
        cmap="Blues",
        vmin=100 * low,
        vmax=100 * high,
        aspect="auto",
        origin="lower",
    )
    for (row, column), mean in np.ndenumerate(field):
        dark = mean - low > DARK * (high - low)
        axes.text(
            column,
            row,
            "failed" if np.isnan(mean) else f"{100 * mean:.2f}",
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    axes.set_title(method)
    for name, axis, values in zip(
        ("strength c", "damping ξ"), (axes.xaxis, axes.yaxis), size, strict=True
    ):
        axis.set_ticks(
            range(len(values)),
            ["-" if value is None else f"{value:g}" for value in values],
        )
        axis.set_label_text(name)
    return image


def _mean(search: Search, point: Point) -> float:
    spread = search.accuracy(point)
    return math.nan if spread is None else spread["mean"]


def _failures(results: Results) -> str:
    failed = [run for run in results.trials if run.failed is not None]
    return "".join(f"  seed {run.seed}: {run.failed}" for run in failed)


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return percent(spread["mean"], spread["standard_error"], spread["n"] > 1)
