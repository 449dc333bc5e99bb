"""Figures as SVG within a page: its font and its colours, light or dark."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from .figures import line_looks
from .markup import Markup, element, possible, scrolling

# Colours that stand for those of the page, which are put in their place.
INK, GRID, SERIES = "#fe0100", "#fe0200", "#fe03"
# How many colours the page has for lines.
NUM_SERIES = 6
STYLE: Any = {
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.prop_cycle": line_looks(
        [f"{SERIES}{i:02x}" for i in range(NUM_SERIES)]
    ),
}
# What a page has of its own, or no use for.
LEFT_OUT = ("metadata", "style")
REFERENCE = re.compile(r"(url\(|^)#(\w+)")


def framed(
    draw: Callable[[], Figure],
    style: Any,
    name: str,
    title: str,
    description: str,
) -> Markup:
    """Returns `inline_svg` in a `figure`, with its title below.

    Arguments are the same. It scrolls in a frame of its own.
    """
    return element(
        "figure",
        scrolling(
            inline_svg(draw, style, name, title, description),
            aria_label=f"Figure: {title}",
        ),
        element("figcaption", title),
    )


def inline_svg(
    draw: Callable[[], Figure],
    style: Any,
    name: str,
    title: str,
    description: str,
) -> Markup:
    """Returns a figure as an `svg` element, in `Markup`.

    Args:
        draw: Called without arguments; returns the matplotlib figure.
        style: The `rcParams` that it is drawn with; ours come on top.
        name: A prefix for ids, of its own in the page.
        title: What it is, for those who do not see it.
        description: What it shows, likewise.
    """
    content = io.BytesIO()
    with rc_context({**style, **STYLE}), warnings.catch_warnings():
        # Text stays text: the browser has other fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        draw().savefig(content, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(possible(content.getvalue().decode()))
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in LEFT_OUT:
                parent.remove(child)
    for node in root.iter():
        node.tag = _local(node.tag)
        node.attrib = {
            _local(key): _adapted(key, value, name)
            for key, value in node.attrib.items()
        }
    told = {"title": title, "desc": description}
    box = root.attrib["viewBox"]
    width = float(box.split()[2])
    root.attrib = {
        "viewBox": box,
        # The page decides how large a point is.
        "style": f"--points: {width:g}",
        "role": "img",
        "aria-labelledby": " ".join(f"{name}-{tag}" for tag in told),
    }
    for place, (tag, text) in enumerate(told.items()):
        node = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        node.text = possible(text)
        root.insert(place, node)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """Without the namespace: in HTML, `svg` says which it is."""
    return name.rpartition("}")[2]


def _adapted(key: str, value: str, name: str) -> str:
    """Returns an attribute with ids and colours that are the page's."""
    if key == "id":
        return f"{name}-{value}"
    value = REFERENCE.sub(rf"\1#{name}-\2", value)
    if key == "style":
        value = re.sub(r"font-family: [^;]*; ?", "", value)
        value = value.replace(INK, "currentColor")
        value = value.replace(GRID, "var(--grid)")
        value = re.sub(
            f"{SERIES}([0-9a-f]{{2}})",
            lambda found: f"var(--series-{int(found[1], 16)})",
            value,
        )
    return value
