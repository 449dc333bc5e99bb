"""The command that makes a run again: read back, it is the same run."""

import dataclasses
import json
import shlex

import pytest
from click.testing import CliRunner
from keras_si_cli import commands, grid, main
from keras_si_cli.experiments import config
from keras_si_cli.results import remake, results
from keras_si_cli.training import run_folder

COMMANDS = (
    "run pmnist",
    "run pmnist --preset paper --tasks 3 --epochs 7 --seed 4 --seeds 2",
    "run pmnist --preset vandeven --epochs 2 --dataset fashion_mnist:3.0.1",
    "run pmnist --preset vandeven --padding 0 --batch-size 256",
    "run pmnist --padding 3",
    "run pmnist --steps 50 --hidden 7,8,9 --learning-rate 1e-07 --jit",
    "run pmnist --reset-optimizer --output-weights zeros --no-jit --data-dir .",
    "run smnist --keep-optimizer --precision mixed_bfloat16 --deterministic",
    "run smnist --scenario class --strength 1e-09 --damping 0.3000000000004",
    "run smnist --preset vandeven --scenario domain --strength 50000",
    "run smnist --method joint --method l2 --strength 2",
    "run smnist --method naive --batch-size 1",
    "run scifar",
    "run scifar --dataset cifar10",
    "run scifar --dataset cifar10 --tasks 2 --scenario domain",
    "tune smnist --strength 3 --damping 0.5 --seed 1",
    "tune pmnist --method naive",
)


@pytest.fixture
def configured(monkeypatch):
    """Returns the `RunConfig` that a command line has, and runs nothing."""
    found = []

    def hear(chosen, *args, **kwargs):
        found.append(chosen)

    def hear_search(benchmark, preset, strengths, dampings, **options):
        del options["jobs"], options["output"]
        given = commands._given(**options)
        points = grid.points(benchmark, preset, given, strengths, dampings)
        (chosen,) = points.values()
        found.append(chosen)

    monkeypatch.setattr(run_folder, "train_and_show", hear)
    monkeypatch.setattr(commands, "tune", hear_search)

    def configure(line):
        result = CliRunner().invoke(main.main, shlex.split(line))
        assert result.exit_code == 0, result.stderr
        return found.pop()

    return configure


def results_of(options, **changes):
    options = json.loads(json.dumps({**options, **changes}))
    return results.Results(options.get("benchmark"), {}, "", options, [])


@pytest.mark.parametrize("line", COMMANDS)
def test_it_gives_the_same_configuration(line, configured):
    expected = configured(line)
    made = remake.command(results_of(expected.to_dict()))
    assert made.startswith(f"keras-si {line.split()[0]} ")
    assert configured(made.removeprefix("keras-si ")) == expected
    # Nothing is named that need not be, but the preset.
    assert len(shlex.split(made)) <= len(shlex.split(line)) + 3


def test_every_option_was_tried(configured):
    """So that a new one is not forgotten."""
    default = {name: configured(f"run {name}") for name in ("pmnist", "smnist")}
    default["scifar"] = configured("run scifar")
    changed = set()
    for line in COMMANDS:
        chosen = configured(line).to_dict()
        plain = default[chosen["benchmark"]].to_dict()
        changed |= {name for name in chosen if chosen[name] != plain[name]}
    names = {field.name for field in dataclasses.fields(config.RunConfig)}
    assert changed == names - {"benchmark"}


@pytest.mark.parametrize(
    "changes",
    [
        {"benchmark": "other"},
        {"benchmark": []},
        {"benchmark": None},
        {"preset": "other"},
        {"preset": {}},
        {"methods": 3},
        {"methods": [[]]},
        {"tasks": "3"},
        {"tasks": 99},
        {"hidden": [None]},
        {"dataset": "; rm -rf /"},
        {"strength": "1"},
        {"unknown": 1},
    ],
)
def test_what_cannot_be_run_has_none(changes, configured):
    options = configured("run smnist").to_dict()
    assert remake.command(results_of(options)) is not None
    assert remake.command(results_of(options, **changes)) is None
    assert remake.command(results_of({})) is None
