"""Presets and how options are resolved; the numbers of every protocol."""

import pytest
from keras_si_cli.errors import OptionError
from keras_si_cli.experiments import presets
from keras_si_cli.experiments.config import check_tasks, resolve

# Hidden units, output weights and padding.
P, S = ((2000, 2000), "glorot", 0), ((256, 256), "zeros", 0)
V, C = ((400, 400), "glorot", 0), ((512,), "zeros", 0)
W = ((1000, 1000), "glorot", 2)


# Tasks; epochs, steps and batch size; the net; learning rate, whether Adam is
# reset, strength and damping.
@pytest.mark.parametrize(
    "protocol",
    [
        ("pmnist quick domain", 10, 1, None, 256, P, 3e-3, False, 10, 0.1),
        ("pmnist paper domain", 10, 20, None, 256, P, 1e-3, False, 0.1, 0.1),
        ("pmnist vandeven domain", 10, None, 5000, 128, W, 1e-4, False, 5, 0.1),
        ("smnist quick task", 5, 2, None, 64, S, 1e-3, True, 1, 1e-3),
        ("smnist paper task", 5, 10, None, 64, S, 1e-3, True, 1, 1e-3),
        ("smnist vandeven task", 5, None, 2000, 128, V, 1e-3, False, 50, 0.1),
        (
            "smnist vandeven domain",
            *(5, None, 2000, 128, V, 1e-3, False, 500, 0.1),
        ),
        ("smnist vandeven class", 5, None, 2000, 128, V, 1e-3, False, 0.5, 0.1),
        ("scifar quick task", 6, 4, None, 256, C, 1e-3, True, 0.01, 1e-3),
        ("scifar paper task", 6, 60, None, 256, C, 1e-3, True, 0.01, 1e-3),
    ],
    ids=lambda protocol: protocol[0],
)
def test_the_numbers_of_every_protocol(protocol):
    """Of Zenke, Poole & Ganguli 2017 and van de Ven & Tolias 2018."""
    benchmark, preset, scenario = protocol[0].split()
    got = resolve(benchmark, preset, {"scenario": scenario})
    assert got.scenario == scenario
    assert protocol[1:] == (
        *(got.tasks, got.epochs, got.steps, got.batch_size),
        (got.hidden, got.output_weights, got.padding),
        *(got.learning_rate, got.reset_optimizer, got.strength, got.damping),
    )


def test_the_default_preset_is_quick_and_the_scenario_the_papers():
    papers = [resolve(name, "paper", {}) for name in presets.BENCHMARKS]
    assert [(each.benchmark, each.scenario) for each in papers] == [
        *(("pmnist", "domain"), ("smnist", "task"), ("scifar", "task")),
    ]
    for benchmark in presets.BENCHMARKS.values():
        assert next(iter(benchmark.presets)) == "quick"
        assert all(each.source for each in benchmark.presets.values())


def test_tasks_are_pairs_or_tens_of_joined_datasets():
    paper = resolve("scifar", "paper", {})
    assert paper.datasets == ("cifar10", "cifar100")
    assert paper.classes_per_task == 10
    alone = resolve("scifar", "paper", {"dataset": "cifar10"})
    assert (alone.tasks, alone.classes_per_task) == (5, 2)


def test_an_option_wins_over_the_preset_and_none_is_not_given():
    mine = resolve("pmnist", "paper", {"tasks": 3, "strength": None})
    assert (mine.tasks, mine.strength, mine.epochs) == (3, 0.1, 20)
    # Epochs given take the place of steps, and the other way round.
    mine = resolve("smnist", "vandeven", {"epochs": 3})
    assert (mine.epochs, mine.steps) == (3, None)
    mine = resolve("smnist", "paper", {"steps": 3})
    assert (mine.epochs, mine.steps) == (None, 3)
    # One of the methods uses it; a method is run once.
    given = {"methods": ("naive", "l2", "naive"), "strength": 3.0}
    mine = resolve("smnist", "paper", given)
    assert (mine.strength, mine.methods) == (3.0, ("naive", "l2"))


def test_a_memory_is_there_if_a_method_uses_it():
    for name, memory in (("si", None), ("replay", 200), ("si-replay", 200)):
        given = {"methods": ("naive", name)}
        assert resolve("smnist", "paper", given).memory == memory
    given = {"methods": ("replay",), "memory": 20}
    assert resolve("smnist", "paper", given).memory == 20


def test_a_memory_too_small_for_the_classes_that_were_found_is_refused():
    given = {"methods": ("replay",), "tasks": 3, "memory": 19}
    config = resolve("pmnist", "paper", {**given, "dataset": "unknown"})
    check_tasks(config, 9)  # 2 tasks before the last
    with pytest.raises(OptionError, match="--memory: received 19, .* least 20"):
        check_tasks(config, 10)


def test_too_many_tasks_for_the_classes_that_were_found_are_refused():
    config = resolve("smnist", "paper", {"dataset": "unknown", "tasks": 4})
    check_tasks(config, 8)
    with pytest.raises(OptionError, match="--tasks: received 4, .* most 3"):
        check_tasks(config, 7)
    check_tasks(resolve("pmnist", "paper", {"tasks": 99}), 10)
