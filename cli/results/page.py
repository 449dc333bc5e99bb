"""Results -> a page: HTML that needs no network and no script."""

import pathlib

import keras_si

from . import compare, overview, run_section
from .markup import Markup, element, join
from .results import Labelled

STYLE_SHEET = pathlib.Path(__file__).with_name("page.css")
# Nothing may be loaded and nothing run, whatever a file of results holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
MEANINGS = {
    "average accuracy": "after a task: the mean of the accuracies on it and "
    "the tasks before it",
    "backward transfer": "what the tasks but the last gained from when they "
    "were learned to the end, in points, on average; below zero if they were "
    "forgotten",
    "forward transfer": "by how much a task not learned yet was ahead of the "
    "untrained net, in points, on average",
    "forgetting": "what the tasks but the last lost from their best accuracy "
    "to the end, in points, on average",
    "importance": "the paper's Ω: how much each weight contributed to the "
    "fall of the loss, over the square of its way; what holds it back later",
}


def page(labelled: Labelled) -> str:
    """Returns the page of runs, as text.

    The same results give the same page.

    Args:
        labelled: Pairs of a label, such as the folder, and its `Results`.
    """
    titles = dict.fromkeys(compare.title(results) for _, results in labelled)
    heading = ", ".join(titles)
    scale = run_section.Scale.of([results for _, results in labelled])
    sections = [
        ("what", "What was run", overview.what(labelled)),
        ("summary", "Summary", overview.summary(labelled)),
        ("average", "Average accuracy", overview.average(labelled)),
    ]
    for place, (label, results) in enumerate(labelled, 1):
        name = f"run-{place}"
        made = run_section.content(name, results, scale)
        sections.append((name, f"Run {label}", made))
    meanings = [
        join(element("dt", name), element("dd", meaning))
        for name, meaning in MEANINGS.items()
    ]
    sections.append(("measures", "The measures", element("dl", *meanings)))
    contents = [
        element("li", element("a", title, href=f"#{name}"))
        for name, title, _ in sections
    ]
    body = element(
        "body",
        element(
            "header",
            element("h1", f"Continual learning: {heading}"),
            element("p", f"A report of keras-si {keras_si.__version__}."),
            element("nav", element("ul", *contents), aria_label="Contents"),
        ),
        element(
            "main",
            *(
                element(
                    "section",
                    element("h2", title, id=name),
                    content,
                    aria_labelledby=name,
                )
                for name, title, content in sections
            ),
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element(
            "meta",
            name="viewport",
            content="width=device-width, initial-scale=1",
        ),
        element("title", f"keras-si: {heading}"),
        # So that none is asked for.
        element("link", rel="icon", href="data:,"),
        element("style", Markup(STYLE_SHEET.read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"
