"""The command line as the documentation shows it: with all of `--help`.

mkdocs-click shows a command's description, usage and options. It leaves out
the epilog, which has the examples, and takes the description for Markdown. So
this copy of the command line has its epilogs in its descriptions.
"""

import copy
import inspect
from typing import Any

from keras_si_cli.main import main as _main


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


main = copy.deepcopy(_main)
_describe(main)
