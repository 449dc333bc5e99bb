"""Results -> a page: HTML that needs no network and no script."""

import base64
import pathlib

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

import keras_si

from ..experiments.config import text
from ..files import Record
from . import figures, tables
from .compare import NAMES, SEEDS, title
from .results import Labelled, Results, curve

FOLDER = pathlib.Path(__file__).parent
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(labelled: Labelled) -> str:
    """Returns the page of runs, as text: the same for the same results."""
    # One run alone needs no label in its figure.
    drawn = labelled if len(labelled) > 1 else [("", labelled[0][1])]
    made = TEMPLATES.get_template("page.html.j2").render(
        version=keras_si.__version__,
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        titles=dict.fromkeys(title(results) for _, results in labelled),
        notes=tables.comparison_notes(labelled),
        figure_address=_address(figures.average_figure(drawn)),
        runs=[_run(label, results) for label, results in labelled],
        hidden=(*SEEDS, *NAMES),
    )
    # Names of folders may have bytes that are no text.
    return made.encode(errors="replace").decode()


def _address(figure: Figure) -> str:
    """Returns a figure as the address of an image."""
    data = base64.b64encode(figures.image(figure, ".svg")).decode()
    return f"data:image/svg+xml;base64,{data}"


def _name(method: str) -> str:
    """Returns what a method is called, and the name of the option."""
    name = figures.method_name(method)
    return name if name == method else f"{name} ({method})"


def _run(label: str, results: Results) -> Record:
    """Returns what the template says of one run."""
    return {
        "label": label,
        "results": results,
        "rows": [(m, tables.measures(results, m)) for m in results.methods],
        "figure_address": _address(figures.task_figure(results)),
        "matrices": [_matrix(results, m) for m in results.methods],
        # Of each method's first seed that has one.
        "importances": {
            t.method: t for t in results.trials[::-1] if t.importance
        },
    }


def _matrix(results: Results, method: str) -> Record:
    """Returns the mean accuracy matrix of a method, with the averages."""
    trials = results.of(method)
    mean, _, _ = curve([trial.accuracy.ravel() for trial in trials])
    averages = [
        tables.percent(average, error, len(trials) > 1, "")
        for average, error in zip(*results.curve_of(method)[:2], strict=True)
    ]
    rows = mean.reshape(trials[0].accuracy.shape).tolist()
    return {
        "method": method,
        "seeds": len(trials),
        "rows": list(zip(rows, averages, strict=True)),
    }


TEMPLATES.filters.update(
    method_name=_name,
    option=text,
    percent=lambda value: tables.percent(value, unit=""),
)
