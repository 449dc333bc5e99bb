"""The published results: the README's numbers are those of their files."""

import json
import pathlib
import statistics

import pytest
from keras_si_cli.results.results import Results

ROOT = pathlib.Path(__file__).parents[3]
RESULTS = ROOT / "examples" / "results"
FOLDERS = sorted(path.parent for path in RESULTS.rglob("*.json"))


def finals(folder):
    """Returns the final average accuracies of each method's whole runs."""
    found = {}
    for run in json.loads((folder / "results.json").read_text())["trials"]:
        last = run["accuracy"][-1]
        if None not in last:
            mean = 100 * statistics.fmean(last)
            found.setdefault(run["method"], []).append(mean)
    return found


@pytest.mark.parametrize(
    "folder", sorted(f.parent.name for f in RESULTS.glob("*/results.json"))
)
def test_the_readme_has_the_numbers_of_every_run(folder):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = Results.load(RESULTS / folder)
    for method, values in finals(RESULTS / folder).items():
        number = f"{statistics.fmean(values):.2f}"
        if len(values) > 1:
            error = statistics.stdev(values) / len(values) ** 0.5
            number += f" ± {error:.2f}"
        assert f"| {number} |" in readme, method
        spread = results.spread(method, "final_average_accuracy")
        assert 100 * spread["mean"] == pytest.approx(statistics.fmean(values))
        assert spread["n"] == len(values)


@pytest.mark.parametrize(
    "folder", sorted({f.relative_to(RESULTS).as_posix() for f in FOLDERS})
)
def test_every_result_has_its_command(folder):
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"| `{folder}` | " in page
    for path in (RESULTS / folder).glob("*.json"):
        # Nobody else has the folders of the machine they were made on.
        record = json.loads(path.read_text())
        config = record.get("config", record)
        for option in ("output", "data_dir"):
            assert not str(config.get(option)).startswith("/")
