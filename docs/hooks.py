"""A hook of MkDocs: the page of the command line has all that `--help` says.

mkdocs-click shows a command's description, usage and options, and leaves out
the epilog, in which the examples are. What it takes for the description is
Markdown, so that the epilog can be written below it.
"""

import inspect
from typing import Any

from keras_si_cli.main import main


def on_startup(**_: Any) -> None:
    """Before the first page is made; `mkdocs serve` makes them many times."""
    _describe(main)


def _describe(command: Any) -> None:
    parts = [inspect.cleandoc(command.help)]
    # Each paragraph of an epilog is a heading and its lines.
    for part in command.epilog.split("\b\n")[1:]:
        heading, _, lines = part.strip().partition("\n")
        code = inspect.cleandoc(f"\n{lines}")
        parts.append(f"**{heading}**\n\n```text\n{code}\n```")
    command.help = "\n\n".join(parts)
    for part in getattr(command, "commands", {}).values():
        _describe(part)
