"""Tables of a page: they scroll in a frame of their own, and fit on paper."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from .markup import Markup, element, join, scrolling

# Longer ones, as those of paths, may be broken, after a mark if there is one.
LONGEST_WORD = 16
PART = re.compile(
    rf"[^/_.=-]{{0,{LONGEST_WORD - 1}}}[/_.=-]|[^/_.=-]{{1,{LONGEST_WORD}}}"
)
# The classes of cells that begin at the left.
TEXTS = ("text", "path")


@dataclasses.dataclass
class Cell:
    """A cell that is not plain text.

    Args:
        text: What it says.
        header: Whether it is what the row is about.
        kind: Its class in the style sheet.
        bar: How long the bar below the text is, from 0 to 1, or `None`.
    """

    text: str
    header: bool = False
    kind: str | None = None
    bar: float | None = None


Row: TypeAlias = Sequence[Cell | str]


def table(
    name: str, caption: str, columns: Sequence[str], rows: Iterable[Row]
) -> Markup:
    """Returns a table, as `Markup`.

    Args:
        name: An id, of its own in the page.
        caption: Text, or `Markup`.
        columns: The headings of the columns.
        rows: A list of `Cell` and text for each row.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    head = element(
        "tr",
        *(
            element(
                "th",
                _breakable(heading),
                scope="col",
                class_=_kind(cells, place),
            )
            for place, heading in enumerate(columns)
        ),
    )
    body = [element("tr", *map(_element, row)) for row in cells]
    return scrolling(
        element(
            "table",
            element("caption", element("span", caption), id=name),
            element("thead", head),
            element("tbody", *body),
            style=f"--characters: {_characters(columns, cells)}",
        ),
        aria_labelledby=name,
    )


def _kind(rows: list[list[Cell]], place: int) -> str | None:
    """Returns the class of a heading: that of text, if it is over text."""
    kinds = {row[place].kind for row in rows if row[place].kind in TEXTS}
    return "text" if kinds else None


def _cell(cell: Cell | str) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _element(cell: Cell) -> Markup:
    classes = [cell.kind] if cell.kind else []
    style = None
    if cell.bar is not None:
        classes.append("bar")
        style = f"--bar: {100 * cell.bar:.1f}%"
    return element(
        "th" if cell.header else "td",
        _breakable(cell.text),
        scope="row" if cell.header else None,
        class_=" ".join(classes) or None,
        style=style,
    )


def _characters(columns: Sequence[str], rows: list[list[Cell]]) -> int:
    """Returns how many characters stand in a row, for the size on paper."""
    widths = [
        max(
            [_longest_word(heading)]
            + [
                _longest_word(row[place].text)
                if row[place].kind in TEXTS
                else len(row[place].text)
                for row in rows
            ]
        )
        for place, heading in enumerate(columns)
    ]
    return sum(widths) + 2 * len(widths)


def _longest_word(text: str) -> int:
    return min(LONGEST_WORD, max(map(len, text.split()), default=0))


def _breakable(text: str) -> Markup:
    """Returns text whose long words have places to break, as `Markup`."""
    made: list[str] = []
    for part in re.split(r"(\s+)", text):
        parts = PART.findall(part) if len(part) > LONGEST_WORD else [part]
        for place, piece in enumerate(parts):
            made += [Markup("<wbr>"), piece] if place else [piece]
    return join(*made)
