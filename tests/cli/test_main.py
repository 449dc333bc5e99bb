"""Options, help and errors: all settled before anything heavy starts."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner
from keras_si_cli import listing, main, methods, training
from keras_si_cli.experiments import presets

COMMANDS = ["", *main.main.commands]


def call(*args, **environment):
    return CliRunner().invoke(
        main.main, args, prog_name="keras-si", env=environment
    )


# What is refused: a command, and what the line says. A line goes on in an
# indented one.

REFUSED = """
run pmnist --tasks 0 :: '--tasks': 0 is not in the range x>=1.
run pmnist --hidden 10;10 :: '--hidden': '10;10' is not a valid int
run pmnist --padding 101 :: 101 is not in the range 0<=x<=100.
run pmnist --learning-rate 0 :: 0.0 is not in the range x>0.
run pmnist --strength -1 :: -1.0 is not in the range x>=0.
run pmnist --strength nan :: '--strength': nan is not finite.
run pmnist --damping 0 :: '--damping': 0.0 is not in the range x>0.
run pmnist --seed 4294967296 :: is not in the range 0<=x<=2147483648.
run pmnist --method gem :: 'gem' is not one of 'si', 'naive', 'joint'
run pmnist --preset slow :: 'slow' is not one of 'quick', 'paper'
run pmnist --dataset MNIST :: '--dataset': 'MNIST' is no TFDS name
run pmnist --data-dir nowhere :: Directory 'nowhere' does not exist.
run pmnist --taks 3 :: --taks
run imagenet :: 'imagenet' is not one of 'pmnist', 'smnist', 'scifar'
run :: Missing argument '{pmnist|smnist|scifar}'. Choose from: pm
run pmnist --scenario task ::
    --scenario: received 'task', expected domain for pmnist
run smnist --tasks 6 :: --tasks: received 6, expected at most 5: the 10
run scifar --dataset cifar10 --tasks 6 ::
    --tasks: received 6, expected at most 5
run smnist --epochs 1 --steps 9 :: --steps: received together with --ep
run smnist --scenario class --method scratch ::
    --method: scratch cannot be run in the class scenario, only in ta
run smnist --method naive --method joint --strength 1 ::
    --strength: means nothing to naive and joint, only to si, l2, ewc
run smnist --memory 9 :: --memory: means nothing to si and naive, only to
run smnist --method replay --strength 1 :: --strength: means nothing to
run smnist --method l2 --damping 1 :: --damping: means nothing to l2
run smnist --method replay --memory 0 :: 0 is not in the range x>=1.
run smnist --method si-replay --memory 7 ::
    --memory: received 7, expected at least 8: an image of each class of the 4
    tasks before the last
run pmnist --method replay --tasks 50 ::
    --memory: received 200, expected at least 490
run pmnist --method ewc :: --strength: is missing: the preset's value is
run pmnist --method si --method ewc --strength 1 ::
    --method: received si, ewc, which need a --strength each; run
run scifar --preset vandeven ::
    --preset: received 'vandeven', expected quick or paper for scifar
run pmnist --output taken :: Directory 'taken' is a file.
run pmnist --output full :: --output: full is not empty; name another folder,
    continue the run in it by `keras-si resume full` if it has one, or replace
    it with --overwrite
resume nowhere :: DIR: nowhere has no run; name a folder that
report :: Missing argument 'DIR...'.
report nowhere :: Path 'nowhere' does not exist.
report . --output a.pdf :: --output: received a.pdf, expected a name in .png or
    .svg
report . --html a.txt :: --html: received a.txt, expected a name
report . --html no/a.html :: --html: there is no folder no; make it first
tune pmnist --strength 1,,2 :: '' is not a valid float range
tune pmnist --damping 0.1,0 :: '--damping': 0.0 is not in the range
tune pmnist --method naive --strength 1 :: means nothing to naive
report . :: DIR: . has no results.json; name a folder that
walk :: No such command 'walk'.
--verison :: --verison
"""


def cases(table):
    lines = re.sub(r"\n +", " ", table).strip().splitlines()
    return [re.split(" :: ?", line) for line in lines]


@pytest.mark.parametrize(("args", "expected"), cases(REFUSED))
def test_what_is_wrong_is_named_in_one_line(cli, args, expected):
    pathlib.Path("taken").write_text("mine")
    os.mkdir("full")
    pathlib.Path("full/notes.txt").touch()
    result = cli(*args.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert sorted(os.listdir()) == ["full", "taken"]


def test_ctrl_c_ends_any_command_in_one_line(cli, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "show", interrupt)
    result = cli("list")
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")


@pytest.mark.parametrize("command", ["run", "tune"])
def test_a_backend_that_the_command_line_does_not_run_on_is_refused(
    cli, monkeypatch, command
):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    result = cli(command, "pmnist")
    assert result.exit_code == 2
    expected = "KERAS_BACKEND: received 'torch', expected tensorflow or jax"
    assert expected in result.stderr
    assert os.listdir() == []


def test_options_reach_the_run_as_they_are_given(cli, monkeypatch):
    heard = []
    monkeypatch.setattr(
        training, "train", lambda *args, **_: heard.append(args)
    )
    given = (
        "--preset vandeven --scenario domain --method l2 --method joint "
        "--tasks 4 --steps 7 --batch-size 9 --hidden 20,30 --learning-rate 0.5 "
        "--reset-optimizer --output-weights zeros --padding 1 --seed 5 "
        "--seeds 2 --dataset kmnist --data-dir . --precision mixed_float16 "
        "--no-jit --deterministic --strength 0.25 --output out --overwrite"
    )
    assert cli("run", "smnist", *given.split()).exit_code == 0
    ((options, *folder),) = heard
    assert folder == ["out", True]
    assert options.to_dict() == {
        **{"benchmark": "smnist", "preset": "vandeven", "scenario": "domain"},
        **{"methods": ("l2", "joint"), "tasks": 4, "epochs": None, "steps": 7},
        **{"batch_size": 9, "hidden": (20, 30), "learning_rate": 0.5},
        **{"reset_optimizer": True, "output_weights": "zeros", "padding": 1},
        **{"seed": 5, "seeds": 2, "dataset": "kmnist", "data_dir": "."},
        **{"precision": "mixed_float16", "jit": False, "deterministic": True},
        **{"strength": 0.25, "damping": 0.1, "held_out": False},
        **{"memory": None},
    }
    assert cli("run", "pmnist").exit_code == 0
    options, folder, overwrite = heard[1]
    assert folder.startswith("runs/pmnist-2") and not overwrite
    assert (options.methods, options.jit) == (("si", "naive"), "auto")
    assert (options.seed, options.seeds) == (0, 1)


# What is shown.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_and_its_examples_are_commands_whose_options_are_right(
    command, monkeypatch, tmp_path
):
    shown = call(*command.split(), "--help", COLUMNS="80")
    assert shown.exit_code == 0
    text = shown.output
    assert max(map(len, text.splitlines())) <= 80
    usage, *_ = text.splitlines()
    assert usage.startswith(f"Usage: keras-si {command}".rstrip())
    monkeypatch.chdir(tmp_path)
    for name in ("runs/pmnist-*", "with-si", "with-l2"):
        os.makedirs(name)
    # In place of what the commands do: nothing.
    for each in main.main.commands.values():
        monkeypatch.setattr(each, "callback", lambda **_: print("called"))
    examples = re.findall("^ +keras-si (.+)$", text, re.MULTILINE)
    assert examples
    for example in examples:
        result = call(*shlex.split(example))
        assert result.exit_code == 0, result.stderr
        assert example.endswith("--help") or result.stdout == "called\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ru", ["run"]),
        ("run pm", ["pmnist"]),
        ("run pmnist --preset ", ["quick", "paper", "vandeven"]),
        ("run smnist --scenario d", ["domain"]),
        ("tune smnist --strength 1,2 --method na", ["naive"]),
    ],
)
def test_the_shell_completes(words, expected):
    count = len(shlex.split(words)) - (not words.endswith(" "))
    result = call(
        _KERAS_SI_COMPLETE="bash_complete",
        COMP_WORDS=f"keras-si {words}",
        COMP_CWORD=str(count + 1),
    )
    assert result.exit_code == 0
    found = [line.split(",")[-1] for line in result.output.splitlines()]
    assert found == expected


def test_list_names_everything_with_its_source(cli):
    result = cli("list")
    assert result.exit_code == 0
    words = result.stdout.split()
    for name, benchmark in presets.BENCHMARKS.items():
        assert {name, *benchmark.presets, *benchmark.scenarios} <= {*words}
    assert {*methods.METHODS} <= {*words}
    # 3 benchmarks with 3, 3 and 2 presets, and 8 methods.
    assert result.stdout.count("source:") == 3 + 8 + 8
    text = " ".join(words)
    assert "--strength 500.0 (domain) --strength 0.5 (class)" in text
    assert "--hidden 2000,2000 --learning-rate 0.003 --keep-optimizer" in text
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_light_commands_import_nothing_heavy():
    script = """
import sys
from keras_si_cli.main import main
for line in (
    *("--version", "--help", "run --help", "run pmnist --tasks 0"),
    *("report .", "tune pmnist --strength 0"),
):
    try:
        main(line.split(), prog_name="keras-si")
    except SystemExit:
        pass
heavy = {"keras", "tensorflow", "tensorflow_datasets", "numpy", "matplotlib",
         "keras_si", "rich", "optuna"} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout.startswith("keras-si, version ")
    assert done.stdout.endswith("heavy: []\n")
