"""What `--help` says, and what the shell completes."""

import re
import shlex

import pytest
from click.testing import CliRunner
from keras_si_cli import commands, listing, main
from keras_si_cli.training import run_folder

COMMANDS = [
    "",
    "run",
    "run pmnist",
    "run smnist",
    "run scifar",
    "tune",
    "tune pmnist",
    "tune smnist",
    "tune scifar",
    "resume",
    "report",
    "list",
]


def call(*args, **environment):
    return CliRunner().invoke(
        main.main, args, prog_name="keras-si", env=environment
    )


def help_of(command):
    result = call(*command.split(), "--help", COLUMNS="80")
    assert result.exit_code == 0
    return result.output


def test_every_command_is_looked_at():
    def names(group, prefix=""):
        yield prefix.strip()
        for name, command in getattr(group, "commands", {}).items():
            yield from names(command, f"{prefix} {name}")

    assert sorted(names(main.main)) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_and_has_examples(command):
    text = help_of(command)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^Examples?:$", text, re.MULTILINE)
    usage, *_ = text.splitlines()
    assert usage.startswith(f"Usage: keras-si {command}".rstrip())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_work(command, monkeypatch, tmp_path):
    """Each is a command line whose options are all right."""
    monkeypatch.chdir(tmp_path)
    done = []
    for where, name in (
        (run_folder, "train_and_show"),
        (commands, "_search"),
        (commands, "resume"),
        (commands, "report"),
        (listing, "show"),
    ):
        monkeypatch.setattr(where, name, lambda *_, **__: done.append(1))
    examples = re.findall("^ +keras-si (.+)$", help_of(command), re.MULTILINE)
    assert examples
    for example in examples:
        done.clear()
        result = call(*shlex.split(example))
        assert result.exit_code == 0, result.stderr
        assert len(done) == (0 if example.endswith("--help") else 1), example


def complete(words):
    """Returns what bash is offered for the last of the words."""
    count = len(shlex.split(words)) - (not words.endswith(" "))
    result = call(
        _KERAS_SI_COMPLETE="bash_complete",
        COMP_WORDS=f"keras-si {words}",
        COMP_CWORD=str(count + 1),
    )
    assert result.exit_code == 0
    return [line.split(",")[-1] for line in result.output.splitlines()]


@pytest.mark.parametrize(
    "words, expected",
    [
        ("ru", ["run"]),
        ("run pm", ["pmnist"]),
        ("run pmnist --preset ", ["quick", "paper", "vandeven"]),
        ("run smnist --scenario d", ["domain"]),
        ("tune scifar --meth", ["--method"]),
        ("tune smnist --strength 1 2 --method na", ["naive"]),
    ],
)
def test_completion(words, expected):
    assert complete(words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_as_the_readme_says(shell):
    result = call(_KERAS_SI_COMPLETE=f"{shell}_source")
    assert result.exit_code == 0
    assert f"_KERAS_SI_COMPLETE={shell}_complete" in result.output
