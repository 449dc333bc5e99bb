"""The published results: every number and command is the one of its files."""

import json
import pathlib
import re
import shlex
import statistics

import pytest
from keras_si_cli import main
from keras_si_cli.experiments import config
from keras_si_cli.results.results import Results

ROOT = pathlib.Path(__file__).parents[3]
RESULTS = ROOT / "examples" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.rglob("*.json"))
RUNS = sorted(f.parent.name for f in RESULTS.glob("*/results.json"))
NUMBER = re.compile(r"\b\d\d\.\d\d\b(?: ± \d+\.\d\d\b)?")
OF_OTHERS = {
    *("96.94", "57.41", "73.53", "62.51", "71.12", "72.00"),  # the authors
    # van de Ven & Tolias 2018: permuted, then split MNIST
    *("78.51 ± 0.24", "95.33 ± 0.11", "94.31 ± 0.11", "97.59 ± 0.01"),
    *("85.15", "85.48 ± 1.20", "99.64", "57.33", "57.80 ± 1.61", "98.41"),
    *("19.90", "20.04", "97.93"),
    # Ours, after 5 of the 10 tasks of searches/pmnist-paper, whose runs were
    # not kept.
    "97.70",
}
PAGES = ("docs/results.md", "examples/results/README.md")


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def finals(folder):
    """Returns the final average accuracies of each method's whole runs."""
    found = {}
    for run in read_json(folder / "results.json")["trials"]:
        last = run["accuracy"][-1]
        if None not in last:
            mean = 100 * statistics.fmean(last)
            found.setdefault(run["method"], []).append(mean)
    return found


def as_text(values):
    """Returns a mean as the page has it, with the error of several seeds."""
    number = f"{statistics.fmean(values):.2f}"
    if len(values) > 1:
        error = statistics.stdev(values) / len(values) ** 0.5
        number += f" ± {error:.2f}"
    return number


def commands(page):
    """Returns folder -> command, which stands below the folder's name."""
    pattern = r"^# ([\w/-]+)(?: \(.+\))?\n((?:keras-si|python) .+)$"
    return dict(re.findall(pattern, read(page), re.M))


def options_of(command):
    """Returns the `RunConfig` that `keras-si run ...` would use."""
    name, run, *args = shlex.split(command)
    assert (name, run) == ("keras-si", "run")
    given = main.main.commands["run"].make_context("run", args).params
    for option in ("output", "overwrite"):
        del given[option]
    return config.resolve(given.pop("benchmark"), given.pop("preset"), given)


def numbers_of_files():
    """Returns every percentage that the files give a right to, as text."""
    found = set()
    for folder in map(RESULTS.joinpath, RUNS):
        for values in finals(folder).values():
            found.add(as_text(values))
    for path in RESULTS.glob("pmnist-50-tasks/*/results.json"):
        (trial,) = read_json(path)["trials"]
        for count in (10, 20, 30, 40, 50):
            learned = trial["accuracy"][count - 1][:count]
            found.add(as_text([100 * statistics.fmean(learned)]))
            found.add(as_text([100 * learned[-1]]))
    for path in RESULTS.glob("searches/*/search.json"):
        for point in read_json(path)["points"]:
            if (average := point["final_average_accuracy"]) is not None:
                found.add(as_text([100 * average["mean"]]))
    for path in RESULTS.glob("*/table.md"):
        found |= set(NUMBER.findall(path.read_text(encoding="utf-8")))
    return found


def test_every_number_in_the_tables_of_results_is_of_a_file_or_of_others():
    ours = numbers_of_files()
    for line in read("docs/results.md").splitlines():
        if line.startswith("|"):
            unknown = set(NUMBER.findall(line)) - ours - OF_OTHERS
            assert not unknown, line


@pytest.mark.parametrize("folder", RUNS)
def test_the_page_of_results_has_the_numbers_of_every_run(folder):
    page = read("docs/results.md")
    results = Results.load(RESULTS / folder)
    for method, values in finals(RESULTS / folder).items():
        assert f"| {as_text(values)} |" in page, method
        spread = results.spread(method, "final_average_accuracy")
        assert 100 * spread["mean"] == pytest.approx(statistics.fmean(values))
        assert spread["n"] == len(values)


def test_the_readme_has_the_numbers_of_the_paper_and_of_its_figure():
    readme = read("README.md")
    for folder, sentence in (
        ("pmnist-paper", "| keras-si | {naive:.1f} % | **{si:.1f} %** |"),
        ("pmnist-quick", "{si:.1f} % with SI and {naive:.1f} % without"),
    ):
        means = {
            method: statistics.fmean(values)
            for method, values in finals(RESULTS / folder).items()
        }
        assert sentence.format(**means) in readme.replace("\n", " ")


@pytest.mark.parametrize(
    "folder", sorted({f.relative_to(RESULTS).as_posix() for f in FOLDERS})
)
def test_every_result_has_its_command(folder):
    assert folder in commands("examples/results/README.md")
    for path in (RESULTS / folder).glob("*.json"):
        # Nobody else has the folders of the machine they were made on.
        record = read_json(path)
        options = record.get("config", record)
        for option in ("output", "data_dir"):
            assert not str(options.get(option)).startswith("/")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "folder", sorted(f.parent.name for f in RESULTS.glob("*/config.json"))
)
def test_the_command_beside_a_run_has_its_options(page, folder):
    """A preset that changes must not change what made a published run."""
    record = read_json(RESULTS / folder / "config.json")
    del record["command"]
    made = config.RunConfig.from_dict({**record, "data_dir": None})
    assert options_of(commands(page)[folder]) == made
