"""Every example runs as it is, and shows what it says."""

import pathlib
import re
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(name):
    return subprocess.run(
        [sys.executable, EXAMPLES / name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_every_example_is_run_here():
    tested = {"two_tasks.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_two_tasks():
    """SI remembers at least 4 points more of the first task."""
    accuracies = {
        name: float(first)
        for name, first in re.findall(
            r"^(\w+): task 1 (\d+\.\d)%", run("two_tasks.py"), re.MULTILINE
        )
    }
    assert accuracies["SI"] > accuracies["naive"] + 4
