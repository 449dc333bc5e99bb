"""Options, presets and errors: all settled before anything heavy starts."""

import os
import pathlib
import subprocess
import sys

import pytest
from keras_si_cli import methods
from keras_si_cli.errors import OptionError
from keras_si_cli.experiments import config, presets
from keras_si_cli.training import output


@pytest.mark.parametrize(
    "args, expected",
    [
        ("--tasks 0", "--tasks: received 0, expected a whole number from 1"),
        ("--epochs -3", "--epochs: received -3"),
        ("--batch-size 0", "--batch-size: received 0"),
        ("--batch-size 9999999999", "from 1 to 2147483647"),
        ("--hidden 10,9999999999", "--hidden: received 9999999999"),
        ("--seeds 0", "--seeds: received 0"),
        ("--tasks many", "'many' is not a valid integer"),
        ("--hidden 0", "--hidden: received 0"),
        ("--padding -1", "--padding: received -1"),
        ("--padding 101", "--padding: received 101"),
        ("--hidden 10,-1", "--hidden: received -1"),
        ("--hidden 10;10", "--hidden: received '10;10', expected the units"),
        ("--hidden ,", "--hidden: received ','"),
        ("--learning-rate 0", "--learning-rate: received 0.0"),
        ("--learning-rate nan", "--learning-rate: received nan"),
        ("--learning-rate inf", "--learning-rate: received inf"),
        ("--strength -1", "--strength: received -1.0, expected a finite"),
        ("--strength nan", "--strength: received nan"),
        ("--strength inf", "--strength: received inf"),
        ("--damping 0", "--damping: received 0.0, expected a finite number ab"),
        ("--damping -0.1", "--damping: received -0.1"),
        ("--damping nan", "--damping: received nan"),
        ("--seed -1", "--seed: received -1"),
        ("--seed 4294967295 --seeds 2", "--seed: received 4294967295"),
        ("--method ewc", "'--method': 'ewc' is not one of 'si', 'naive'"),
        ("--method si --method si", "--method: received si, si"),
        (
            "--preset slow",
            "'--preset': 'slow' is not one of 'quick', 'paper', 'v",
        ),
        ("--precision half", "'--precision': 'half' is not one of 'float32'"),
        ("--data-dir nowhere", "--data-dir: received 'nowhere'"),
        ("--taks 3", "No such option"),
        ("--dataset MNIST", "--dataset: received 'MNIST', expected a TFDS"),
        ("--dataset ../mnist", "--dataset: received '../mnist'"),
        ("--dataset fashion-mnist", "--dataset: received 'fashion-mnist'"),
        ("--dataset mnist/", "--dataset: received 'mnist/'"),
        ("--dataset mnist:3", "--dataset: received 'mnist:3'"),
        ("--dataset mnist:3.0.1/a=1", "--dataset: received 'mnist:3.0.1/a=1'"),
        ("--dataset \uff4dnist", "--dataset: received '\uff4dnist'"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(cli, args, expected):
    result = cli("run", "pmnist", *args.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("keras-si: error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert os.listdir() == []


@pytest.mark.parametrize(
    "args, expected",
    [
        ("pmnist --scenario task", "No such option"),
        ("smnist --scenario all", "'--scenario': 'all' is not one of 'task'"),
        ("smnist --tasks 6", "--tasks: received 6, expected at most 5: the 10"),
        ("scifar --tasks 12", "--tasks: received 12, expected at most 11"),
        ("scifar --dataset cifar10 --tasks 6", "--tasks: received 6, expected"),
        ("scifar --dataset a+b", "--dataset: received 'a+b'"),
        ("smnist --epochs 1 --steps 9", "--steps: received together with --ep"),
        ("smnist --steps 0", "--steps: received 0"),
        ("smnist --output-weights ones", "'ones' is not one of 'zeros'"),
        (
            "smnist --scenario class --method scratch",
            "--method: scratch cannot be run in the class scenario, only in ta",
        ),
        (
            "smnist --method naive --method joint --strength 1",
            "--strength: means nothing to naive and joint, only to si and l2",
        ),
        ("smnist --method l2 --damping 1", "--damping: means nothing to l2"),
        ("scifar --preset vandeven", "'vandeven' is not one of 'quick'"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(cli, args, expected):
    result = cli("run", *args.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert os.listdir() == []


def resolved(benchmark, preset, **given):
    common = {
        "methods": ("si",),
        "seed": 0,
        "seeds": 1,
        "precision": "float32",
        "jit": "auto",
    }
    return config.resolve(benchmark, preset, {**common, **given})


@pytest.mark.parametrize(
    "protocol, length, net, adam, si",
    [
        (
            "pmnist quick domain",
            (10, 1, None, 256),
            ((2000, 2000), "glorot", 0),
            (3e-3, False),
            (10.0, 0.1),
        ),
        (
            "pmnist paper domain",
            (10, 20, None, 256),
            ((2000, 2000), "glorot", 0),
            (1e-3, False),
            (0.1, 0.1),
        ),
        (
            "pmnist vandeven domain",
            (10, None, 5000, 128),
            ((1000, 1000), "glorot", 2),
            (1e-4, False),
            (10.0, 0.1),
        ),
        (
            "smnist quick task",
            (5, 2, None, 64),
            ((256, 256), "zeros", 0),
            (1e-3, True),
            (1.0, 1e-3),
        ),
        (
            "smnist paper task",
            (5, 10, None, 64),
            ((256, 256), "zeros", 0),
            (1e-3, True),
            (1.0, 1e-3),
        ),
        (
            "smnist vandeven task",
            (5, None, 2000, 128),
            ((400, 400), "glorot", 0),
            (1e-3, False),
            (10.0, 0.1),
        ),
        (
            "smnist vandeven domain",
            (5, None, 2000, 128),
            ((400, 400), "glorot", 0),
            (1e-3, False),
            (50000.0, 0.1),
        ),
        (
            "smnist vandeven class",
            (5, None, 2000, 128),
            ((400, 400), "glorot", 0),
            (1e-3, False),
            (5000.0, 0.1),
        ),
        (
            "scifar quick task",
            (6, 4, None, 256),
            ((512,), "zeros", 0),
            (1e-3, True),
            (0.01, 1e-3),
        ),
        (
            "scifar paper task",
            (6, 60, None, 256),
            ((512,), "zeros", 0),
            (1e-3, True),
            (0.01, 1e-3),
        ),
    ],
)
def test_the_numbers_of_every_protocol(protocol, length, net, adam, si):
    """Of Zenke, Poole & Ganguli 2017 and van de Ven & Tolias 2018."""
    benchmark, preset, scenario = protocol.split()
    got = resolved(benchmark, preset, scenario=scenario)
    assert got.scenario == scenario
    assert (got.tasks, got.epochs, got.steps, got.batch_size) == length
    assert (got.hidden, got.output_weights, got.padding) == net
    assert (got.learning_rate, got.reset_optimizer) == adam
    assert (got.strength, got.damping) == si


def test_the_scenarios_and_the_classes_of_the_paper():
    papers = [resolved(name, "paper") for name in presets.BENCHMARKS]
    assert [(each.benchmark, each.scenario) for each in papers] == [
        *(("pmnist", "domain"), ("smnist", "task"), ("scifar", "task")),
    ]
    assert [each.datasets for each in papers] == [
        *(("mnist",), ("mnist",), ("cifar10", "cifar100")),
    ]
    assert [each.classes_per_task for each in papers[1:]] == [2, 10]
    alone = resolved("scifar", "paper", dataset="cifar10")
    assert (alone.tasks, alone.classes_per_task) == (5, 2)


def test_epochs_given_take_the_place_of_steps_and_the_other_way_round():
    mine = resolved("smnist", "vandeven", epochs=3)
    assert (mine.epochs, mine.steps) == (3, None)
    mine = resolved("smnist", "paper", steps=3)
    assert (mine.epochs, mine.steps) == (None, 3)


def test_an_empty_dataset_name_is_refused(cli):
    result = cli("run", "pmnist", "--dataset", " ")
    assert result.exit_code == 2
    assert "--dataset: received an empty name" in result.stderr


@pytest.mark.parametrize(
    "name",
    [
        "mnist",
        "cifar10",
        "caltech_birds2011",
        "emnist/letters",
        "mnist:3.0.1",
        "mnist:3.*.*",
        "cifar10_corrupted/brightness_1:1.0.0",
        "wmt19_translate/cs-en",
        "c4/en.noclean",
    ],
)
def test_a_dataset_that_tfds_could_have_is_let_through(cli, name):
    result = cli("run", "pmnist", "--dataset", name)
    assert "TensorFlow was started" in result.stderr


@pytest.mark.parametrize("name", ["", " "])
@pytest.mark.parametrize("command", [["run", "pmnist"], ["report", "run"]])
def test_an_empty_output_is_refused(cli, command, name):
    result = cli(*command, "--output", name)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "keras-si: error: --output: received an empty name"
    )
    assert result.stderr.count("\n") == 1
    assert os.listdir() == []


def test_an_unknown_benchmark_is_refused(cli):
    result = cli("run", "imagenet")
    assert result.exit_code == 2
    assert "No such command 'imagenet'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_that_is_not_empty_is_refused(cli):
    os.mkdir("full")
    pathlib.Path("full/notes.txt").write_text("mine")
    result = cli("run", "pmnist", "--output", "full")
    assert result.exit_code == 2
    assert "--output: full is not empty" in result.stderr
    assert "--overwrite" in result.stderr
    assert os.listdir("full") == ["notes.txt"]


def test_a_file_cannot_be_the_output_folder(cli):
    pathlib.Path("taken").write_text("mine")
    result = cli("run", "pmnist", "--output", "taken", "--overwrite")
    assert result.exit_code == 2
    assert "--output: taken is a file" in result.stderr
    assert pathlib.Path("taken").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused(cli):
    pathlib.Path("taken").write_text("mine")
    result = cli("run", "pmnist", "--output", "taken/runs")
    assert result.exit_code == 2
    assert "--output: taken/runs cannot be written" in result.stderr


def test_a_folder_that_cannot_be_written_is_refused(cli, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    result = cli("run", "pmnist", "--output", "new")
    assert result.exit_code == 2
    assert "--output: new cannot be written (Permission" in result.stderr


def test_what_was_made_for_such_a_folder_is_removed(cli, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert cli("run", "pmnist", "--output", "new/folder").exit_code == 2
    assert os.listdir() == []


def test_a_failure_leaves_the_folders_that_it_did_not_make(cli):
    os.makedirs("runs/mine")
    assert cli("run", "pmnist").exit_code == 1
    assert cli("run", "pmnist", "--output", "runs/mine").exit_code == 1
    assert cli("run", "pmnist", "--output", "runs/mine/a/b").exit_code == 1
    assert os.listdir() == ["runs"]
    assert os.listdir("runs") == ["mine"]
    assert os.listdir("runs/mine") == []


@pytest.mark.parametrize(
    "given", [[], ["--output", "new"], ["--output", "new/../a/b"]]
)
def test_a_failure_leaves_no_empty_folder_and_shows_no_traceback(cli, given):
    result = cli("run", "pmnist", *given)
    assert result.exit_code == 1
    assert result.stderr == (
        "keras-si: error: SystemError: TensorFlow was started "
        "(--debug shows more)\n"
    )
    assert os.listdir() == []


def test_debug_shows_the_traceback(cli):
    result = cli("run", "pmnist", "--output", "new", "--debug")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("(--debug shows more)\n")


def test_a_preset_sets_defaults_and_an_option_wins():
    given = {
        "methods": ("si",),
        "seed": 0,
        "seeds": 1,
        "precision": "float32",
        "jit": "auto",
    }
    paper = config.resolve("pmnist", "paper", {**given, "epochs": None})
    assert (paper.epochs, paper.strength, paper.hidden) == (
        20,
        0.1,
        (2000, 2000),
    )
    assert (paper.tasks, paper.batch_size, paper.learning_rate) == (
        10,
        256,
        1e-3,
    )
    assert paper.damping == 0.1
    assert paper.dataset == "mnist"
    mine = config.resolve("pmnist", "paper", {**given, "epochs": 3})
    assert (mine.epochs, mine.strength) == (3, 0.1)
    assert mine.to_dict()["methods"] == ("si",)


def test_every_preset_is_a_valid_configuration():
    for name, benchmark in presets.BENCHMARKS.items():
        for preset in benchmark.presets:
            config.resolve(
                name,
                preset,
                {
                    "methods": ("si", "naive"),
                    "seed": 0,
                    "seeds": 1,
                    "precision": "float32",
                    "jit": "auto",
                },
            )


def test_the_default_folder_names_the_benchmark():
    assert output.default_folder("pmnist").startswith(
        os.path.join("runs", "pmnist-")
    )


def test_a_run_that_is_not_there_is_told_before_anything_starts(cli):
    result = cli("report", "nowhere")
    assert result.exit_code == 2
    assert "DIR: there is no nowhere; name a folder" in result.stderr


@pytest.mark.parametrize(
    "name, expected",
    [
        ("figure.pdf", "expected a name in .png or .svg"),
        ("nowhere/figure.png", "there is no folder nowhere"),
        ("taken.png", "taken.png exists; replace it with --overwrite"),
    ],
)
def test_a_figure_that_cannot_be_written_is_refused(cli, name, expected):
    pathlib.Path("taken.png").write_text("mine")
    result = cli("report", "run", "--output", name)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert pathlib.Path("taken.png").read_text() == "mine"
    with pytest.raises(OptionError, match="--output"):
        output.check_file("--output", name, output.FIGURES, overwrite=False)


def test_an_existing_figure_may_be_replaced_when_asked(tmp_path):
    (tmp_path / "taken.png").write_text("mine")
    output.check_file(
        "--output", tmp_path / "taken.png", output.FIGURES, overwrite=True
    )


def test_list_names_everything_with_its_source(cli):
    result = cli("list")
    assert result.exit_code == 0
    words = result.stdout.split()
    for name, benchmark in presets.BENCHMARKS.items():
        assert {name, *benchmark.presets, *benchmark.scenarios} <= {*words}
    assert {*methods.METHODS} <= {*words}
    # 3 benchmarks with 3, 3 and 2 presets, and 5 methods.
    assert result.stdout.count("source:") == 3 + 8 + 5
    assert "Zenke, Poole & Ganguli 2017" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "args", [["--help"], ["run", "pmnist", "--help"], ["list"]]
)
def test_light_commands_import_nothing_heavy(args):
    script = (
        "import sys\n"
        "from keras_si_cli.main import main\n"
        f"sys.argv = ['keras-si', *{args}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as error:\n"
        "    assert error.code == 0, error.code\n"
        "heavy = {'keras', 'tensorflow', 'tensorflow_datasets', 'numpy',\n"
        "         'matplotlib', 'keras_si'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_the_module_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "keras_si_cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "keras-si" in done.stdout
    assert done.stderr == ""
