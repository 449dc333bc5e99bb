"""Results -> tables and figures."""

import io
import math
import pathlib

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from .files import write_atomically
from .methods import METHODS
from .presets import BENCHMARKS

FIGURES = ("average_accuracy.png", "average_accuracy.svg")


def accuracy_table(results):
    """Average accuracy after each task: a row a task, a column a method."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("after task", justify="right")
    for method in results.methods:
        table.add_column(Text(method), justify="right", no_wrap=True)
    curves = [_curve(results, method) for method in results.methods]
    for task in range(max((len(mean) for mean, _, _ in curves), default=0)):
        table.add_row(
            str(task + 1),
            *(
                _percent(mean[task], std[task], many)
                for mean, std, many in curves
            ),
        )
    return table


def accuracy_title(results):
    """The line above `accuracy_table`, which may be narrower."""
    return f"{_title(results)}: average accuracy over the tasks so far"


def comparison_table(labelled):
    """One row for each run folder and method, over its finished runs.

    Args:
        labelled: Pairs of a label, such as the folder, and its `Results`.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    table.add_column("method")
    for name in ("average\naccuracy", "backward\ntransfer", "forgetting"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("seeds\nfinished", justify="right")
    for label, results in labelled:
        for method in results.methods:
            spreads = [
                results.spread(method, name)
                for name in (
                    "final_average_accuracy",
                    "backward_transfer",
                    "forgetting",
                )
            ]
            count = spreads[0]["n"]
            table.add_row(
                # A string would be read as markup.
                Text(label),
                Text(method),
                *(_percent(s["mean"], s["std"], count > 1) for s in spreads),
                str(count),
            )
    return table


def write_figures(results, folder):
    """Writes the figure of one run, as PNG and SVG."""
    for name in FIGURES:
        path = pathlib.Path(folder) / name
        write_figure([("", results)], path)


def remove_figures(folder):
    """Removes the figures of an earlier run, and nothing else."""
    for name in FIGURES:
        (pathlib.Path(folder) / name).unlink(missing_ok=True)


def write_figure(labelled, path):
    """Draws average accuracy over the number of tasks, a line a method.

    With several seeds the line is their mean, and a band shows plus and
    minus one standard deviation.

    Args:
        labelled: Pairs of a label and its `Results`; the label is shown
            before the method where there are several.
        path: The file; its ending, .png or .svg, decides the format.
    """
    path = pathlib.Path(path)
    style = {
        # Same results, same bytes: no random ids and no date in the SVG.
        "svg.hashsalt": "keras-si",
        # Names are shown as they are, $ included.
        "text.parse_math": False,
        "font.size": 11,
    }
    with rc_context(style):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for label, results in labelled:
            for method in results.methods:
                known = METHODS.get(method)
                name = known.label if known else method
                name = f"{label}: {name}" if label else name
                _draw(axes, name, *_curve(results, method))
        titles = dict.fromkeys(_title(results) for _, results in labelled)
        axes.set_title(", ".join(titles))
        axes.set_xlabel("number of tasks learned")
        axes.set_ylabel("average accuracy on the tasks learned")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        drawn = [line.get_ydata() for line in axes.lines]
        drawn = np.concatenate([*drawn, [1.0]])
        # From a full ten percent, to all that there is to get.
        axes.set_ylim(np.floor(10 * np.nanmin(drawn)) / 10 - 1e-9, 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
        content = io.BytesIO()
        kind = path.suffix[1:]
        figure.savefig(
            content,
            format=kind,
            dpi=160,
            metadata={"Date": None} if kind == "svg" else None,
        )
    write_atomically(path, content.getvalue())


def _draw(axes, name, mean, std, many):
    tasks = np.arange(1, len(mean) + 1)
    (line,) = axes.plot(tasks, mean, marker="o", markersize=4, label=name)
    if many:
        axes.fill_between(
            tasks,
            mean - std,
            mean + std,
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )


def _curve(results, method):
    """Returns mean and standard deviation after each task, and if many.

    Seeds that have not come to a task yet are left out of its mean.
    """
    curves = np.array([run.average_accuracy for run in results.of(method)])
    counts = (~np.isnan(curves)).sum(axis=0)
    # Where nothing was measured yet: NaN, without NumPy's warning.
    mean = np.full(counts.shape, np.nan)
    std = np.zeros(counts.shape)
    for task in range(len(counts)):
        values = curves[~np.isnan(curves[:, task]), task]
        if len(values):
            mean[task] = values.mean()
        if len(values) > 1:
            std[task] = values.std(ddof=1)
    return mean, std, bool((counts > 1).any())


def _title(results):
    benchmark = BENCHMARKS.get(results.benchmark)
    title = benchmark.title if benchmark else results.benchmark
    dataset = results.config.get("dataset")
    if benchmark and dataset and dataset != benchmark.dataset:
        title += f" ({dataset})"
    return title


def _percent(mean, std, many):
    if math.isnan(mean):
        return "-"
    text = f"{100 * mean:.2f} %"
    return f"{100 * mean:.2f} ± {100 * std:.2f} %" if many else text
