"""Results -> figures."""

import io
import math
import pathlib
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .. import files
from ..files import Path
from ..methods import METHODS
from .compare import differences, title
from .results import Curve, Labelled, Results, curve

FORMATS = (".png", ".svg")
# How lines look: none differs from another by colour alone, and one that lies
# under another shows between its dashes.
COLORS = rcParamsDefault["axes.prop_cycle"].by_key()["color"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
LOOKS = cycler(color=14 * COLORS, marker=20 * MARKERS, linestyle=35 * DASHES)
STYLE: Any = {  # Its keys are a type of Matplotlib's own.
    # Same results, same bytes: no random ids and no date in the SVG.
    "svg.hashsalt": "keras-si",
    # Names are shown as they are, $ included.
    "text.parse_math": False,
    "axes.prop_cycle": LOOKS,
}
MOST_COLUMNS = 5


def write_figures(results: Results, folder: Path) -> None:
    """Writes the figures of one run, each as PNG and SVG."""
    path = pathlib.Path(folder)
    for kind in FORMATS:  # Drawing a figure moves its parts: one a file.
        average = average_figure([("", results)])
        save(average, path / f"average_accuracy{kind}")
        save(task_figure(results), path / f"accuracy_per_task{kind}")


def remove_figures(folder: Path) -> None:
    """Removes the figures of an earlier run, and nothing else."""
    for name in ("average_accuracy", "accuracy_per_task"):
        for kind in FORMATS:
            (pathlib.Path(folder) / f"{name}{kind}").unlink(missing_ok=True)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure; the path's ending, .png or .svg, decides the format."""
    files.write_atomically(path, image(figure, pathlib.Path(path).suffix))


def image(figure: Figure, kind: str) -> bytes:
    """Returns a figure as a file, in a format of `FORMATS`."""
    content = io.BytesIO()
    metadata = {"Date": None} if kind == ".svg" else None
    with rc_context(STYLE):
        figure.savefig(content, format=kind[1:], dpi=160, metadata=metadata)
    return content.getvalue()


@rc_context(STYLE)
def average_figure(labelled: Labelled) -> Figure:
    """Draws average accuracy over the number of tasks, a line a method.

    With several seeds the line is their mean, and a band shows plus and
    minus one standard error. If the runs differ in options, the title says so.
    """
    count = sum(len(results.methods) for _, results in labelled)
    figure = Figure(figsize=(7, 4.2 + 0.22 * count), layout="constrained")
    axes = figure.add_subplot()
    for label, results in labelled:
        for method in results.methods:
            name = method_name(method)
            name = f"{label}: {name}" if label else name
            look = {} if len(labelled) > 1 else _look(method)
            _draw(axes, name, look, *results.curve_of(method))
    heading = ["; ".join(dict.fromkeys(title(r) for _, r in labelled))]
    names = ", ".join(name for name, _ in differences(labelled))
    if names:
        heading.append(f"the runs differ in: {names}")
    axes.set_title("\n".join(textwrap.fill(line, 60) for line in heading))
    axes.set_xlabel("number of tasks learned")
    axes.set_ylabel("average accuracy on the tasks learned")
    _format(axes)
    _write_legend(figure, axes)
    return figure


@rc_context(STYLE)
def task_figure(results: Results) -> Figure:
    """Draws a small figure for each task: the accuracy on it since then."""
    count = max((len(run.accuracy) for run in results.trials), default=1)
    rows = math.ceil(count / MOST_COLUMNS)
    columns = math.ceil(count / rows)
    height = 0.9 + 1.7 * rows + 0.2 * len(results.methods)
    size = (1.2 + 1.8 * columns, height)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        rows, columns, sharex=True, sharey=True, squeeze=False
    )
    for task, axes in enumerate(grid.flat):
        if task >= count:
            axes.set_visible(False)
            continue
        for method in results.methods:
            name, look = method_name(method), _look(method)
            _draw(axes, name, look, *_of_task(results, method, task))
        axes.set_title(f"task {task + 1}", fontsize=9)
    _format(*grid.flat[:count])
    figure.suptitle(title(results))
    for axes in grid[-1]:
        axes.set_xlabel("tasks learned")
    figure.supylabel("accuracy on the task")
    _write_legend(figure, grid.flat[0])
    return figure


def _write_legend(figure: Figure, axes: Axes) -> None:
    """Names the lines of `axes` below the figure, where it covers none."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", frameon=False)


def method_name(method: str) -> str:
    """Returns what a method is called where there is room for it."""
    return METHODS[method].label if method in METHODS else method


def _look(method: str) -> dict[str, Any]:
    """Returns how a method's line looks: the same in every run's figures."""
    return [*LOOKS][[*METHODS, method].index(method)]


def full_ten_percent(accuracies: Iterable[np.ndarray]) -> float:
    """Returns where an axis of accuracies starts, at most at 90 %."""
    lowest = np.nanmin(np.concatenate([*accuracies, [0.9]]))
    return math.floor(10 * lowest + 1e-9) / 10


def _of_task(results: Results, method: str, task: int) -> Curve:
    """The accuracy on a task; before it is learned, it is not shown."""
    columns = [run.accuracy[:, task].copy() for run in results.of(method)]
    for column in columns:
        column[:task] = np.nan
    return curve(columns)


def _draw(
    axes: Axes,
    name: str,
    look: dict[str, Any],
    mean: np.ndarray,
    error: np.ndarray,
    many: bool,
) -> None:
    """Draws a line; without a `look` it has the style's next one."""
    tasks = np.arange(1, len(mean) + 1)
    # Not clipped: a marker at 100 % lies half above the axes.
    (line,) = axes.plot(
        tasks, mean, markersize=4, label=name, clip_on=False, **look
    )
    if many:
        band, color = (mean - error, mean + error), line.get_color()
        axes.fill_between(tasks, *band, color=color, alpha=0.2, linewidth=0)


def _format(*all_axes: Axes) -> None:
    # The lowest point of all lines and bands.
    bottoms = np.array([axes.dataLim.y0 for axes in all_axes])
    lowest = full_ten_percent([bottoms]) - 1e-9
    for axes in all_axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Without 2.5, which Matplotlib would take too: full percents.
        axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(lowest, 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
