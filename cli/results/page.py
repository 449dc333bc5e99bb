"""Results -> a page: HTML that needs no network and no script."""

import base64
import dataclasses
import pathlib
from collections.abc import Iterable

import jinja2
import numpy as np
from markupsafe import Markup

import keras_si

from ..files import Record
from . import figures, tables
from .compare import NAMES, SEEDS, planned, text, title
from .results import MEASURES, Labelled, Results, curve

FOLDER = pathlib.Path(__file__).parent
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclasses.dataclass
class Image:
    """A figure in the page, with what it says to those who do not see it."""

    content: bytes
    alt: str

    @property
    def address(self) -> str:
        data = base64.b64encode(self.content).decode()
        return f"data:image/svg+xml;base64,{data}"


def page(labelled: Labelled) -> str:
    """Returns the page of runs, as text.

    The same results give the same page.

    Args:
        labelled: Pairs of a label, such as the folder, and its `Results`.
    """
    # One run alone needs no label in its figure.
    drawn = labelled if len(labelled) > 1 else [("", labelled[0][1])]
    template = TEMPLATES.get_template("page.html.j2")
    made = template.render(
        version=keras_si.__version__,
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        titles=dict.fromkeys(title(results) for _, results in labelled),
        notes=tables.comparison_notes(labelled),
        average=Image(
            figures.average_image(drawn, ".svg"), "; ".join(_averages(drawn))
        ),
        runs=[_run(label, r, _lowest(labelled)) for label, r in labelled],
    )
    # Names of folders may have bytes that are no text.
    return made.encode(errors="replace").decode()


def _row(results: Results, method: str) -> tuple[str, list[str]]:
    spreads = [results.spread(method, name) for name in MEASURES]
    numbers = [tables.spread_text(spread) for spread in spreads]
    return _name(method), [*numbers, str(spreads[0]["n"])]


def _name(method: str) -> str:
    """Returns what a method is called, and the name of the option."""
    name = figures.method_name(method)
    return name if name == method else f"{name} ({method})"


def _averages(labelled: Labelled) -> Iterable[str]:
    """Says in words where each line of the figure starts and ends."""
    for label, results in labelled:
        for method in results.methods:
            mean, _, _ = results.curve_of(method)
            known = np.flatnonzero(~np.isnan(mean))
            name = f"{label}: {_name(method)}" if label else _name(method)
            yield f"{name}: " + " and ".join(
                f"{tables.percent(mean[task], 0, False)} after task {task + 1}"
                for task in dict.fromkeys([*known[:1], *known[-1:]])
            )


def _lowest(labelled: Labelled) -> float:
    """Returns where the colours of all matrices start."""
    return figures.full_ten_percent(
        trial.accuracy[np.tril_indices(len(trial.accuracy))]
        for _, results in labelled
        for trial in results.trials
    )


def _run(label: str, results: Results, lowest: float) -> Record:
    """Returns what the template says of one run."""
    names = [_name(method) for method in results.methods]
    members = results.members or [(label, results)]
    return {
        "label": label,
        "rows": [_row(results, method) for method in results.methods],
        "trials": f"{sum(t.is_complete for t in results.trials)} of "
        f"{len(planned(results))}",
        "seeds": text(sorted({trial.seed for trial in results.trials})),
        "figure": Image(
            figures.task_image(results, ".svg"),
            f"Accuracy on each task over the tasks learned, with a line for "
            f"each of: {', '.join(names)}. The matrices have the numbers.",
        ),
        "matrices": [
            _matrix(results, method, lowest) for method in results.methods
        ],
        "settings": {
            name.replace("_", " "): text(value)
            for name, value in results.config.items()
            if name not in (*SEEDS, *NAMES)
        },
        "members": [_member(*member) for member in members],
    }


def _matrix(results: Results, method: str, lowest: float) -> Record:
    """Returns the mean accuracy matrix of a method, as rows of cells.

    A cell has its text and its shade, from 0 to 1; before the task was learned
    it has none.
    """
    trials = results.of(method)
    tasks = len(trials[0].accuracy)
    mean, _, _ = curve([trial.accuracy.ravel() for trial in trials])
    averages = zip(*results.curve_of(method)[:2], strict=True)
    many = len(trials) > 1
    return {
        "name": _name(method),
        "seeds": len(trials),
        "rows": [
            (
                [
                    (
                        tables.percent(value, 0, False, ""),
                        (value - lowest) / (1 - lowest)
                        if on <= after
                        else None,
                    )
                    for on, value in enumerate(row)
                ],
                tables.percent(*average, many, ""),
            )
            for after, (row, average) in enumerate(
                zip(mean.reshape(tasks, tasks), averages, strict=True)
            )
        ],
    }


def _member(label: str, results: Results) -> Record:
    """Returns how a run was made, and what with."""
    started = (results.started or "not recorded").replace("T", " ")
    return {
        "label": label,
        "command": results.command or "not recorded",
        "started": started.replace("+00:00", " UTC"),
        "made_with": [
            {"device": made["device"], **made["versions"]}
            for made in results.made_with
        ],
    }
