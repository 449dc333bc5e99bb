"""The command that makes a run again: read back, it is the same run."""

import dataclasses
import json
import shlex

import pytest
from click.testing import CliRunner
from keras_si_cli import (
    commands,
    config,
    grid,
    main,
    remake,
    results,
    run_folder,
)

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
    "run smnist --method joint --method l2 --strength 2 --distribute mirrored",
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

    def hear(chosen, *args):
        found.append(chosen)

    def hear_search(benchmark, preset, strengths, dampings, **options):
        del options["jobs"], options["engine"]
        given = commands._given(**{**options, "output": "out"})
        points = grid.points(benchmark, preset, given, strengths, dampings)
        # As the results of a point have it: the folder was nobody's.
        (chosen,) = points.values()
        found.append(chosen)

    monkeypatch.setattr(run_folder, "train_and_show", hear)
    monkeypatch.setattr(commands, "tune", hear_search)

    def configure(line):
        result = CliRunner().invoke(main.main, shlex.split(line))
        assert result.exit_code == 0, result.stderr
        return dataclasses.replace(found.pop(), output="out")

    return configure


def results_of(options, **changes):
    options = json.loads(json.dumps({**options, **changes}))
    return results.Results(options.get("benchmark"), {}, "", options, [])


@pytest.mark.parametrize("line", COMMANDS)
def test_it_gives_the_same_configuration(line, configured):
    expected = configured(line)
    folder = "" if line.startswith("tune") else "out"
    made = remake.command(results_of(expected.to_dict(), output=folder))
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
    assert changed == names - {"benchmark", "output"}


def test_runs_of_before_have_one():
    options = {
        **{"benchmark": "pmnist", "preset": "paper", "tasks": 10},
        **{"methods": ["si", "naive"], "epochs": 20, "batch_size": 256},
        **{"hidden": [2000, 2000], "learning_rate": 0.001, "strength": 0.1},
        **{"damping": 0.1, "seed": 0, "seeds": 3, "dataset": "mnist"},
        **{"data_dir": None, "precision": "float32", "jit": "auto"},
    }
    expected = "keras-si run pmnist --preset paper --seeds 3"
    assert remake.command(results_of(options, output="x")) == expected
    assert (
        remake.command(results_of(options, output="x", data_dir="a b'c"))
        == f"{expected} --data-dir 'a b'\"'\"'c'"
    )


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
