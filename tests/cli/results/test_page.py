"""The page of `report --html`: its numbers, its escaping, and its look."""

import base64
import html
import json
import os
import pathlib
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from cli_helpers import invoke
from keras_si_cli.results import compare, page
from keras_si_cli.results.results import Trial
from result_helpers import make_results, make_trial, save

# It would be run, loaded or shown as something else, were it not escaped.
ATTACK = "<script>parent.attacked++</script>"
NAME = f"\"'&amp;{ATTACK}<img src=http://x.invalid onerror=parent.attacked++>"


@pytest.fixture(scope="module")
def merged():
    """SI with two seeds from two runs, plain training with one."""
    one = make_results(make_trial(), make_trial("naive"), seeds=1)
    one.trials[0].importance = {
        NAME: {"mean": [0.00123, 2.0], "max": [5.0, 1234.5]}
    }
    other = make_results(
        make_trial(seed=1, shift=0.1), Trial.empty("naive", 1, 2)
    )
    # The page shows that of the first seed.
    other.trials[0].importance = {"of seed 1": {"mean": [9, 9], "max": [9, 9]}}
    other.trials[1].failed = "the loss is NaN"
    other.command = "keras-si run smnist --seed 1"
    other.resumed_with = [{"versions": {"keras": "9"}, "device": "GPU"}]
    return compare.merge([("a", one), ("b", other)])


@pytest.fixture(scope="module")
def attacked():
    """Results in which each name is an attack."""
    made = make_results(
        make_trial(NAME, failed=NAME),
        benchmark=NAME,
        versions={NAME: NAME},
        **{"dataset": NAME, "scenario": NAME, NAME: [NAME, {NAME: NAME}]},
    )
    made.device = made.command = made.started = NAME
    return (NAME, made)


@pytest.fixture(scope="module")
def text(merged, attacked):
    return page.page([*merged, attacked])


def parse(text):
    """Returns the page's elements: it is XML, too."""
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))


@pytest.fixture(scope="module")
def parsed(text):
    return parse(text)


def text_of(element):
    return "".join(element.itertext())


def tables_of(parsed):
    """The text of each cell in each row of each table."""
    return [
        [[text_of(cell) for cell in row] for row in each.iter("tr")]
        for each in parsed.iter("table")
    ]


def values_of(parsed, name):
    return [each.get(name) for each in parsed.iter() if name in each.keys()]


def test_results_table_has_the_numbers_of_the_terminal(parsed):
    assert tables_of(parsed)[0][:4] == [
        [
            *("method", "average accuracy", "backward transfer"),
            *("forward transfer", "forgetting", "seeds"),
        ],
        ["a and 1 more"],
        [
            *("Synaptic Intelligence (si)", "80.00 ± 5.00", "-10.00 ± 0.00"),
            *("5.00 ± 5.00", "10.00 ± 0.00", "2"),
        ],
        [
            *("plain training (naive)", "85.00", "-10.00"),
            *("10.00", "10.00", "1"),
        ],
    ]
    assert tables_of(parsed)[0][4] == [NAME]


def test_accuracy_matrix_is_the_mean_over_seeds(parsed, text):
    # 90 and 80, 80 and 70, 90 and 80; before it was learned 40 and 30.
    assert tables_of(parsed)[1] == [
        ["", "task\xa01", "task\xa02", "average"],
        ["after task 1", "85.00", "35.00", "85.00 ± 5.00"],
        ["after task 2", "75.00", "85.00", "80.00 ± 5.00"],
    ]
    # The squares of 85, 75 and 85.
    shades = [int(s) for s in re.findall(r"--shade: (\d+)%", text)[:3]]
    assert shades == [72, 56, 72]
    assert text.count('class="before"') == 3
    # The seed that was given up has nothing, and the other one stands.
    assert tables_of(parsed)[2][1:] == [
        ["after task 1", "90.00", "40.00", "90.00 ± 0.00"],
        ["after task 2", "80.00", "90.00", "85.00 ± 0.00"],
    ]


def test_importance_has_a_row_for_each_variable(parsed):
    assert tables_of(parsed)[3] == [
        ["variable", "task\xa01", "task\xa02", "largest"],
        [NAME, "0.0012", "2", "1.2e+03"],
    ]


def test_page_has_settings_commands_versions_and_dates(parsed):
    text = " ".join(text_of(parsed).split())
    for part in (
        "A report of keras-si ",
        "a and 1 more are one run, as at most the seed differs: a, b",
        "naive with seed 1 was given up: the loss is NaN",
        "3 of 4 trials are complete. Seeds: 0,1.",
        "strength1.0 damping0.001 datasetmnist held outFalse",
        "a keras-si run smnist Started: 2025-01-31T23:59:59+00:00 Made with: "
        "CPU, keras_si 1.",
        "b keras-si run smnist --seed 1 Started",
        "Resumed with: GPU, keras 9.",
    ):
        assert part in text


def test_figures_are_images_with_texts(parsed):
    first, second, _ = (image.get("alt") for image in parsed.iter("img"))
    assert first.startswith("Average accuracy over the number of tasks learned")
    assert "Synaptic Intelligence (si), plain training (naive)" in second
    for address in values_of(parsed, "src"):
        kind, data = address.split(",")
        assert kind == "data:image/svg+xml;base64"
        svg = ElementTree.fromstring(base64.b64decode(data))
        assert svg.tag.endswith("svg")


def test_nothing_from_a_file_is_markup(parsed, text):
    assert ATTACK not in text and "<img src=http" not in text
    assert parsed.find(".//script") is None
    assert text_of(parsed).count(NAME) >= 12
    attributes = [pair for each in parsed.iter() for pair in each.items()]
    assert not [key for key, _ in attributes if key.startswith("on")]
    for key, value in attributes:
        if key in ("href", "src"):
            assert value.startswith(("#run-", "data:image/svg", "data:,"))
        if key == "style":
            assert re.fullmatch(r"--shade: \d+%", value)
    assert (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        in values_of(parsed, "content")
    )
    # Links lead to headings, with one id each.
    links = [v for v in values_of(parsed, "href") if v.startswith("#")]
    headings = [f"#{name}" for name in values_of(parsed, "id")]
    assert links == headings == ["#run-1", "#run-2"]


def test_run_that_has_just_begun_has_a_page():
    # UTF-8 cannot hold the surrogate.
    made = make_results(Trial.empty("si", 0, 2), more="\udcff")
    parsed = parse(page.page([("run", made)]))
    assert "more?" in text_of(parsed)
    assert tables_of(parsed)[0][2][1:] == [*"----", "0"]
    assert "run is not finished" in text_of(parsed)
    empty = parse(page.page([("run", make_results())]))
    assert tables_of(empty)[0][1:] == [["run"]]


def test_command_writes_the_page_and_replaces_none_unasked():
    save("run", make_results(make_trial()))
    both = ("report", "run", "--html", "page.html", "--output", "figure.svg")
    result = invoke(*both)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "page: page.html"
    written = pathlib.Path("page.html").read_text(encoding="utf-8")
    assert written == page.page([("run", make_results(make_trial()))])
    assert sorted(os.listdir()) == ["figure.svg", "page.html", "run"]
    pathlib.Path("page.html").write_text("mine")
    refused = invoke(*both[:4])
    assert (refused.exit_code, refused.stderr) == (
        *(2, "Error: --html: page.html exists; replace it with --overwrite\n"),
    )
    assert pathlib.Path("page.html").read_text() == "mine"
    assert invoke(*both, "--overwrite").exit_code == 0
    assert pathlib.Path("page.html").read_text(encoding="utf-8") == written


# In a browser.

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Measures the pages in its frames.
MEASURE = """
<!DOCTYPE html><meta charset="utf-8"><body><script>
window.attacked = 0;
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument;
    const { color, backgroundColor } = getComputedStyle(page.body);
    return {
      width: page.documentElement.scrollWidth,
      colors: [color, backgroundColor],
      images: [...page.images].map(image => image.naturalWidth),
    };
  });
  document.body.textContent =
    "RESULT" + JSON.stringify([found, window.attacked]) + "END";
};
</script>
"""
# It is too wide, and its script runs.
CONTROL = f"<!DOCTYPE html><p style='width: 500px'>wide{ATTACK}"
COLORS = {
    "light": ["rgb(27, 33, 41)", "rgb(255, 255, 255)"],
    "dark": ["rgb(227, 233, 240)", "rgb(16, 21, 27)"],
}


def browse(pages, *flags):
    """Returns what `MEASURE` finds in pages that are 390 pixels wide."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    frames = (
        f'<iframe srcdoc="{html.escape(each)}" '
        'style="border: 0; width: 390px; height: 800px"></iframe>'
        for each in pages
    )
    path = pathlib.Path.cwd() / "measure.html"
    path.write_text(MEASURE + "\n".join(frames), encoding="utf-8")
    done = subprocess.run(
        [
            *(browser, *FLAGS, *flags, "--dump-dom"),
            f"--user-data-dir={pathlib.Path.cwd() / 'profile'}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search("RESULT(.*)END", done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("mode", COLORS)
def test_page_can_be_read_in_a_browser_at_390_pixels(mode, text):
    """Tables and figures scroll by themselves; no script runs."""
    dark = ["--blink-settings=preferredColorScheme=0"]
    (measured, control), attacks = browse(
        [text, CONTROL], *(dark if mode == "dark" else [])
    )
    assert measured["width"] == 390
    assert measured["colors"] == COLORS[mode]
    assert len(measured["images"]) == 3 and all(measured["images"])
    # The control shows that both would be found.
    assert control["width"] > 500 and attacks == 1
