"""HTML elements, whose text is escaped as it goes in."""

import html
import re

# What neither HTML nor XML can hold, escaped or not.
IMPOSSIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)
WITHOUT_END = ("link", "meta")


class Markup(str):
    """Text that is HTML already."""


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """Returns an element, as `Markup`.

    Args:
        name: Its name.
        content: What is in it. `Markup` is put in as it is; all else is text,
            and is escaped.
        attributes: By name, with underscores for hyphens; one at the end is
            left out, as in `class_`. `None` is no attribute. Values are
            escaped.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in WITHOUT_END:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{join(*content)}</{name}>")


def scrolling(content: Markup, **label: str) -> Markup:
    """Returns content in a frame that scrolls by itself, with keys too.

    Args:
        content: What is in it.
        label: `aria_label` or `aria_labelledby`.
    """
    return element(
        "div", content, class_="scroll", role="region", tabindex="0", **label
    )


def join(*content: object) -> Markup:
    """Returns elements and text one after the other, as `Markup`."""
    return Markup(
        "".join(
            part if isinstance(part, Markup) else escape(part)
            for part in content
        )
    )


def escape(text: object) -> str:
    """Returns text as HTML, in an element or an attribute."""
    return html.escape(possible(str(text)), quote=True)


def possible(text: str) -> str:
    """Returns text with marks in the place of what HTML cannot hold."""
    return IMPOSSIBLE.sub("\N{REPLACEMENT CHARACTER}", text)
