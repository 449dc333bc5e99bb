"""What a page says of how a run was made, and how to make it again."""

import json
from collections.abc import Iterator
from typing import Any

from ..files import Record
from . import remake
from .html_table import Cell, table
from .markup import Markup, element
from .results import Results


def configuration(name: str, config: Record) -> Markup:
    """Returns every option, as a table with the id `name`."""
    return table(
        name,
        "Configuration",
        ["option", "value"],
        [
            [
                Cell(key, header=True, kind="text"),
                Cell(_plain(value), kind="text"),
            ]
            for key, value in config.items()
        ],
    )


def versions(name: str, results: Results) -> Markup:
    """Returns versions and device, as a table with the id `name`.

    A column for all that it was made with: a run may go on with others.
    """
    columns = [
        {**made["versions"], "device": made["device"]}
        for made in results.made_with
    ]
    caption, headings = "Versions and device", ["value"]
    if len(columns) > 1:
        caption += ", at first and where the run was resumed with others"
        headings = ["begun with", *["resumed with"] * (len(columns) - 1)]
    parts = dict.fromkeys(part for column in columns for part in column)
    return table(
        name,
        caption,
        ["part", *headings],
        [
            [
                Cell(part, header=True, kind="text"),
                *(
                    Cell(_plain(column.get(part, "-")), kind="text")
                    for column in columns
                ),
            ]
            for part in parts
        ],
    )


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "not given"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return json.dumps(value, ensure_ascii=False)


def command(results: Results) -> Iterator[Markup]:
    """Yields the command that makes a run again, or why there is none."""
    found = remake.command(results)
    if found is None:
        yield element(
            "p",
            "Its configuration is not one that this keras-si can run: there "
            "is no command to give.",
        )
        return
    yield element("pre", element("code", found))
    version = results.versions.get("keras_si", "-")
    yield element("p", f"It was made with keras-si {version}.")
