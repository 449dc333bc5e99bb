"""Every example runs as it is, and shows what it says."""

import contextlib
import io
import pathlib
import re
import runpy
import sys
from unittest import mock

import pytest
from helpers import finish, only_on, start, worker_environments

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

# How much better SI does on the first task, and how well on the last, at
# least: in points of a percent, and with room for other roundings.
TASKS = {
    "two_tasks.py": (4, 90),
    "convolutional_net.py": (20, 80),
    "tf_data.py": (4, 85),
    "custom_loop.py": (8, 85),
    "head_per_task.py": (4, 85),
}


def run(name):
    """Returns what an example prints.

    It runs in this process, where TensorFlow has started; that takes longer
    than most of them.
    """
    with (
        contextlib.redirect_stdout(io.StringIO()) as printed,
        mock.patch.object(sys, "argv", [name]),
    ):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return printed.getvalue()


def lines(printed):
    """Returns what stands before each line's colon -> the numbers after it."""
    return {
        name: [float(n) for n in re.findall(r"\d+\.\d+", rest)]
        for name, rest in re.findall(r"^([^:\n]+): (.+)$", printed, re.M)
    }


def test_every_example_is_run_here_and_named_in_the_readme():
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    tests = {f"{name.removeprefix('test_')}.py" for name in globals()}
    assert examples <= {*TASKS} | tests
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.py)\)", readme)) == examples


@pytest.mark.parametrize("name", TASKS)
def test_si_remembers_the_first_task(name):
    accuracies = lines(run(name))
    more, last = TASKS[name]
    assert set(accuracies) == {"naive", "SI"}
    assert accuracies["SI"][0] > accuracies["naive"][0] + more
    assert accuracies["SI"][-1] > last


def test_drifting_regression():
    """Less than half the error, and the stream's end is learned as well."""
    errors = lines(run("drifting_regression.py")).values()
    whole, began, ended = zip(*errors, strict=True)
    assert whole[1] < whole[0] / 2
    assert began[1] < began[0] / 2
    assert max(ended) < 0.15


def test_freezing_and_exclude():
    printed = run("freezing_and_exclude.py")
    first, second, moved, accuracies = printed.splitlines()
    kept = "net/hidden/kernel, net/head/kernel"
    assert first == f"SI follows net/features/kernel, {kept}"
    assert second == f"SI follows {kept}"
    assert moved == "the frozen layer moved by 0.0"
    assert all(float(a) > 70 for a in re.findall(r"([\d.]+)%", accuracies))


def test_save_and_go_on():
    """With SI's state the model remembers more than its weights alone do."""
    accuracies = lines(run("save_and_go_on.py"))
    first, second = accuracies["with SI's state"]
    assert first > accuracies["weights alone"][0] + 3
    assert second > 85


def test_protect_a_trained_model():
    """It remembers what it was trained for without SI, and learns as well."""
    accuracies = lines(run("protect_a_trained_model.py"))
    (before,), plain, protected = accuracies.values()
    assert plain[0] < before - 5
    assert protected[0] > before - 1.5
    assert protected[1] > plain[1] - 1.5


def test_new_classes():
    """Replay does most of it, SI adds to it; by itself it is not enough."""
    accuracies = lines(run("new_classes.py"))
    plain, si, replay, both = accuracies.values()
    assert list(accuracies) == ["plain", "SI", "replay", "replay and SI"]
    assert plain[0] < 5
    assert si[2] < replay[2] - 20
    assert both[0] > replay[0] + 3
    assert both[2] > replay[2] + 2


def test_log_to_tensorboard():
    printed = run("log_to_tensorboard.py")
    found = dict(re.findall(r"^(\S+ \S+): steps (\[.*\])", printed, re.M))
    for layer in ("head", "hidden"):
        for name in ("bias", "kernel"):
            assert found[f"importance net/{layer}/{name}"] == "[0, 1]"
    epochs = str([*range(10)])
    assert found["task_1/train epoch_si_penalty"] == epochs


def test_the_figure(tmp_path, monkeypatch):
    """It draws in the folder it is run in; SI is ahead, and forgets less."""
    monkeypatch.chdir(tmp_path)
    accuracies = lines(run("the_figure.py"))
    assert accuracies["SI"][0] > accuracies["naive"][0] + 3
    assert accuracies["SI"][1] < accuracies["naive"][1] - 4
    assert (tmp_path / "the_figure.png").read_bytes()[:4] == b"\x89PNG"


@only_on("tensorflow")
def test_several_machines():
    """Two workers agree, and remember the first task (naive: 79 %).

    Each is a process of its own, with nothing but what the example imports.
    """
    example = EXAMPLES / "several_machines.py"
    one, other = finish(
        [start(example, **each) for each in worker_environments(2)]
    )
    assert one == other
    first, second = re.fullmatch(
        r"workers: 2, task 1 ([\d.]+)%, task 2 ([\d.]+)%\n", one
    ).groups()
    assert float(first) > 90
    assert float(second) > 90
