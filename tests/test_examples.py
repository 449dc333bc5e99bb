"""Every example runs as it is, and shows what it says."""

import pathlib
import re

from conftest import finish, only_on, start, worker_environments

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(name, environments=({},)):
    return finish([start(EXAMPLES / name, **each) for each in environments])


def test_every_example_is_run_here():
    tested = {"several_machines.py", "two_tasks.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_two_tasks():
    """SI remembers at least 4 points more of the first task."""
    (printed,) = run("two_tasks.py")
    accuracies = {
        name: float(first)
        for name, first in re.findall(
            r"^(\w+): task 1 (\d+\.\d)%", printed, re.MULTILINE
        )
    }
    assert accuracies["SI"] > accuracies["naive"] + 4


@only_on("tensorflow")
def test_several_machines():
    """Two workers agree, and remember the first task (naive: 79 %)."""
    one, other = run("several_machines.py", worker_environments(2))
    assert one == other
    first, second = re.fullmatch(
        r"2 worker\(s\): task 1 ([\d.]+)%, task 2 ([\d.]+)%\n", one
    ).groups()
    assert float(first) > 90
    assert float(second) > 90
