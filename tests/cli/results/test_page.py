"""The page of `report --html`: what it says, and that anybody can read it."""

import html.parser
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner
from keras_si_cli import files, main
from keras_si_cli.results import markup, page, results, run_section
from keras_si_cli.training import start

NAN = np.nan
# What would be run, loaded or shown as something else, were it not escaped.
ATTACK = "<script>parent.attacked.push(frameElement.title)</script>"
NAME = f"\"'&amp;{ATTACK}<img src=http://x.invalid onerror=attacked=1>\x00"
SHOWN = NAME.replace("\x00", "\N{REPLACEMENT CHARACTER}")


@pytest.fixture(autouse=True)
def _no_start(monkeypatch, tmp_path):
    monkeypatch.setattr(start, "import_quietly", lambda: None)
    monkeypatch.chdir(tmp_path)


def make_run(method="si", seed=0, shift=0.0, failed=None):
    return results.Trial(
        method,
        seed,
        np.array([[0.9, 0.4], [0.8, 0.95]]) - shift,
        *(12.0 + seed, 3.0),
        untrained=np.array([NAN, 0.3]),
        failed=failed,
    )


def make_results(*runs, benchmark="smnist", versions=None, **config):
    config = {
        **{"benchmark": benchmark, "preset": "paper", "scenario": "task"},
        **{"methods": ["si", "naive"], "tasks": 2, "epochs": 10},
        **{"steps": None, "batch_size": 64, "hidden": [256, 256]},
        **{"learning_rate": 0.001, "reset_optimizer": True},
        **{"output_weights": "zeros", "strength": 1.0, "damping": 0.001},
        **{"seed": 0, "seeds": 2, "dataset": "mnist", "data_dir": None},
        **{"precision": "float32", "jit": "auto"},
        **{"deterministic": False, "padding": 0, "held_out": False},
        **config,
    }
    versions = versions or {"keras_si": "0.0.9"}
    return results.Results(
        benchmark,
        versions,
        "CPU",
        config,
        [*runs],
        started="2025-01-31T23:59:59+00:00",
    )


# A name without a place to break it.
LONG = "x" * 300


@pytest.fixture(scope="module")
def two_seeds():
    """SI with importances, and plain training; one run was given up."""
    si = [make_run(), make_run(seed=1, shift=0.1)]
    for run, factor in zip(si, (1, 3)):
        for task, values in enumerate(([0.02, 0.04], [0.06, 80.0])):
            run.record_importance(
                task, {"net/hidden_0/kernel": factor * np.array(values)}
            )
    failed = results.Trial.empty("naive", 1, 2)
    failed.failed = "the loss turned NaN in task 1, epoch 2"
    return make_results(*si, make_run("naive"), failed)


@pytest.fixture(scope="module")
def attacked():
    """Everything that a file can name is an attack."""
    run = make_run(NAME, failed=NAME)
    run.record_importance(0, {NAME: np.array([1.0])})
    return make_results(
        run,
        benchmark=NAME,
        data_dir=LONG,
        versions={NAME: NAME},
        **{"dataset": NAME, "scenario": NAME, NAME: [NAME, {NAME: NAME}]},
        preset=NAME,
    )


@pytest.fixture(scope="module")
def text(two_seeds, attacked):
    """A page of a good run and an attack."""
    return page.page([("good", two_seeds), (NAME, attacked)])


class Element:
    """An element of a parsed page, with all that is in it."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, attributes, []

    def __iter__(self):
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child

    def all(self, *tags):
        return [each for each in self if each.tag in tags]

    @property
    def text(self):
        return "".join(
            child.text if isinstance(child, Element) else child
            for child in self.children
        )

    @property
    def cells(self):
        """The text of each cell, row by row."""
        return [
            [cell.text for cell in row.all("td", "th")]
            for row in self.all("tr")
        ]


class Parser(html.parser.HTMLParser):
    """Makes `Element`s; what is not closed as it was opened is an error."""

    def __init__(self, text):
        super().__init__()
        self.open = [Element("", {})]
        self.feed(text)
        self.close()
        assert len(self.open) == 1, "not closed"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        element = Element(tag, dict(attributes))
        self.open[-1].children.append(element)
        if tag not in ("meta", "link", "wbr"):
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


@pytest.fixture(scope="module")
def parsed(text):
    return Parser(text).open[0]


def table(parsed, name):
    """The cells of the table whose caption has that id."""
    (found,) = (
        each
        for each in parsed.all("table")
        if each.all("caption")[0].attributes["id"] == name
    )
    return found


def test_text_is_escaped_and_elements_are_not():
    inner = markup.element("b", "<&>\"'\x0b\ud800")
    made = markup.element("p", inner, class_="\"'<&>", data_x=3, id=None)
    assert made == (
        '<p class="&quot;&#x27;&lt;&amp;&gt;" data-x="3">'
        "<b>&lt;&amp;&gt;&quot;&#x27;\ufffd\ufffd</b></p>"
    )
    assert markup.join("<", inner).startswith("&lt;<b>")


def test_the_headings_are_in_order(parsed):
    headings = parsed.all("h1", "h2", "h3", "h4", "h5", "h6")
    levels = [int(heading.tag[1]) for heading in headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(heading.text.strip() for heading in headings)
    assert [h.text for h in headings if h.tag == "h2"] == [
        *("What was run", "Summary", "Average accuracy", "Run good"),
        *(f"Run {SHOWN}", "The measures"),
    ]
    assert [h.text for h in headings if h.tag == "h3"] == 2 * [
        *("Accuracy on each task", "Accuracy matrices"),
        *("Importance of each variable", "Configuration and versions"),
        "To make it again",
    ]


def test_tables_and_figures_say_what_they_are(parsed):
    tables = parsed.all("table")
    # Runs, differences, summary, averages; for each run its matrices, two of
    # importance, configuration and versions.
    assert len(tables) == 4 + (2 + 2 + 2) + (1 + 2 + 2)
    for each in tables:
        (caption,) = each.all("caption")
        assert each.children[0] is caption and caption.text.strip()
        (head,) = each.all("thead")
        assert {th.attributes["scope"] for th in head.all("th")} == {"col"}
        for row in each.all("tbody")[0].all("tr"):
            first = row.children[0]
            assert (first.tag, first.attributes["scope"]) == ("th", "row")
        assert len({len(row) for row in each.cells}) == 1
    ids = {each.attributes.get("id"): each for each in parsed}
    images = parsed.all("svg")
    assert len(images) == 3
    for image in images:
        assert image.attributes["role"] == "img"
        named = image.attributes["aria-labelledby"].split()
        assert [ids[name].tag for name in named] == ["title", "desc"]
        assert all(len(ids[name].text) > 10 for name in named)
    assert "good: Synaptic Intelligence: 85.00 % after task 1, 82.50 %" in (
        ids["average-figure-desc"].text
    )


def test_what_is_pointed_at_is_there_once(text, parsed):
    names = [each.attributes.get("id") for each in parsed]
    names = [name for name in names if name is not None]
    assert len(names) == len(set(names))
    used = {name for name in re.findall(r"url\(#([^)]+)\)", text)}
    for each in parsed:
        target = each.attributes.get("href", "")
        used |= {target[1:]} if target.startswith("#") else set()
        used |= {*each.attributes.get("aria-labelledby", "").split()}
    assert len(used) > 20 and used <= {*names}


def test_for_everybody(parsed):
    (root,) = parsed.all("html")
    assert root.attributes["lang"] == "en"
    metas = {
        meta.attributes.get("name"): meta.attributes.get("content")
        for meta in parsed.all("meta")
    }
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    frames = [e for e in parsed if e.attributes.get("class") == "scroll"]
    for each in frames:
        assert each.attributes["role"] == "region"
        assert each.attributes["tabindex"] == "0"
    framed = [e for frame in frames for e in frame.all("table", "svg")]
    assert len(framed) == len(parsed.all("table", "svg"))
    # Lines differ in more than colour: dashes and marks.
    (figure, *_) = parsed.all("svg")
    dashed = [
        "stroke-dasharray" in each.attributes["style"]
        for each in figure
        if "stroke: var(--series-" in each.attributes.get("style", "")
        and "fill: none" in each.attributes["style"]
    ]
    assert {*dashed} == {True, False}


def test_nothing_is_loaded_or_run(text, parsed):
    used = {each.tag for each in parsed} - {""}
    assert used <= {
        *("html", "head", "meta", "title", "link", "style", "body", "header"),
        *("h1", "h2", "h3", "p", "nav", "ul", "li", "a", "main", "section"),
        *("div", "table", "caption", "span", "thead", "tbody", "tr", "th"),
        *("td", "wbr", "figure", "figcaption", "dl", "dt", "dd", "pre"),
        *("code", "svg", "desc", "g", "path", "defs", "use", "text"),
        *("tspan", "clippath", "rect"),
    }
    for each in parsed:
        for name, value in each.attributes.items():
            assert not name.startswith("on")
            assert name != "src"
            if name == "href":
                assert value.startswith("#") or value == "data:,"
            if name != "aria-label":
                assert "x.invalid" not in value
    assert "@import" not in text and "@font-face" not in text
    assert not re.search(r"url\((?!#)", text)
    # Not even the namespaces of SVG.
    assert re.findall(r"https?://[^&]{9}", text.replace(">", "&gt;")) == [
        *["http://x.invalid"] * text.count("http://")
    ]
    (policy,) = (
        meta.attributes["content"]
        for meta in parsed.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")


def test_names_are_shown_as_they_are(parsed):
    # Method, benchmark, dataset and folder, in heading, table and figure.
    assert SHOWN in parsed.all("h1")[0].text
    runs = table(parsed, "what-table").cells
    assert runs[2][:4] == [SHOWN] * 4
    assert runs[2][5] == SHOWN
    assert SHOWN in parsed.all("svg")[0].text
    config = dict(table(parsed, "run-2-config").cells)
    assert config[SHOWN].startswith(f"{SHOWN}, {{")
    assert dict(table(parsed, "run-2-versions").cells)[SHOWN] == SHOWN
    assert table(parsed, "run-2-mean-0").cells[1][0] == SHOWN
    assert any(li.text.endswith(f": {SHOWN}") for li in parsed.all("li"))
    assert "no command to give" in parsed.text


def test_what_was_run(parsed):
    assert table(parsed, "what-table").cells[1] == [
        *("good", "smnist", "task", "mnist", "2", "si, naive", "0, 1"),
        *("2025-01-31 23:59 UTC", "CPU", "3 of 4 complete, 1 failed"),
    ]
    different = table(parsed, "protocols").cells
    assert different[0] == ["option", "good", SHOWN]
    assert [row[0] for row in different[1:]] == [
        *("benchmark", "scenario", "dataset")
    ]
    config = dict(table(parsed, "run-1-config").cells)
    assert config["hidden"] == "256, 256"
    assert config["steps"] == "not given"
    assert config["reset_optimizer"] == "true"
    assert len(config) == 1 + 23
    (command, *_) = parsed.all("pre")
    # si and naive are what is run anyway.
    assert command.text == (
        "keras-si run smnist --preset paper --tasks 2 --seeds 2"
    )
    assert "It was made with keras-si 0.0.9." in parsed.text


def test_the_numbers_by_hand(parsed):
    """SI: 87.5 and 77.5 at the end; half of the difference is the error."""
    assert table(parsed, "summary-table").cells[:3] == [
        [
            *("run", "method", "average accuracy", "backward transfer"),
            *("forward transfer", "forgetting", "training", "testing"),
            "seeds",
        ],
        [
            *("good", "Synaptic Intelligence (si)", "82.50 ± 5.00"),
            *("-10.00 ± 0.00", "5.00 ± 5.00", "10.00 ± 0.00"),
            *("12.5 ± 0.5", "3.0 ± 0.0", "2"),
        ],
        [
            *("good", "plain training (naive)", "87.50", "-10.00", "10.00"),
            *("10.00", "12.0", "3.0", "1"),
        ],
    ]
    assert "good: naive, seed 1: the loss turned NaN in task 1, epoch 2" in {
        li.text for li in parsed.all("li")
    }
    assert table(parsed, "average-table").cells[1:] == [
        ["after task 1", "85.00 ± 5.00", "90.00", "90.00"],
        ["after task 2", "82.50 ± 5.00", "87.50", "87.50"],
    ]
    matrix = table(parsed, "run-1-matrix-0")
    assert "mean over 2 seeds" in matrix.text
    assert matrix.cells == [
        ["", "task 1", "task 2"],
        ["after task 1", "85.00", "35.00"],
        ["after task 2", "75.00", "90.00"],
    ]
    # From 70 %, in steps of 3.75: the fifth, the second and the sixth.
    assert [td.attributes["class"] for td in matrix.all("td")] == [
        *("heat level-4", "heat before", "heat level-1", "heat level-5")
    ]
    legend = [e.text for e in parsed if "swatch" in str(e.attributes)][:8]
    assert legend[:3] == ["70 %", "73.75 %", "77.5 %"]


def test_importance_by_hand(parsed):
    """0.03 and 0.09, then 40.03 and 120.09: the means of two seeds."""
    mean, largest = (
        table(parsed, f"run-1-{name}-0") for name in ("mean", "max")
    )
    assert mean.cells[1:] == [["net/hidden_0/kernel", "0.0600", "80.1"]]
    assert largest.cells[1:] == [["net/hidden_0/kernel", "0.0800", "160"]]
    assert "from 0.0600 to 80.1" in mean.text
    assert [td.attributes["style"] for td in mean.all("td")] == [
        *("--bar: 5.0%", "--bar: 100.0%")
    ]
    assert "Without importance: plain training (naive)." in parsed.text


def test_a_run_that_was_resumed_says_with_what():
    made = make_results(make_run(), versions={"keras": "3.15.1", "python": "3"})
    made.started = "2025-02-01T00:30:59+02:00"
    made.resumed_with = [
        {"versions": {"keras": "3.16.0", "jax": "1"}, "device": "GPU, a new"},
        {"versions": {"keras": "3.16.0", "python": "3"}, "device": "CPU"},
    ]
    made = Parser(page.page([("run", made)])).open[0]
    assert table(made, "run-1-versions").cells == [
        ["part", "begun with", "resumed with", "resumed with"],
        ["keras", "3.15.1", "3.16.0", "3.16.0"],
        ["python", "3", "-", "3"],
        ["device", "CPU", "GPU, a new", "CPU"],
        ["jax", "-", "1", "-"],
    ]
    # In UTC.
    (row,) = table(made, "what-table").cells[1:]
    assert row[7:9] == ["2025-01-31 22:30 UTC", "CPU, then GPU, a new"]


def test_a_file_of_before_has_no_importance():
    made = Parser(page.page([("old", make_results(make_run()))])).open[0]
    assert "Synaptic Intelligence (si): not recorded." in made.text
    assert "differ" not in made.text.partition("}")[0]
    # One run alone is not named in every row.
    assert table(made, "summary-table").cells[0][0] == "method"


def test_a_run_that_has_just_begun_has_a_page():
    begun = make_results(results.Trial.empty("si", 0, 2))
    nothing = make_results()
    made = Parser(page.page([("a", begun), ("b", nothing)])).open[0]
    rows = table(made, "what-table").cells
    assert [row[-1] for row in rows[1:]] == ["0 of 4 complete"] * 2
    assert table(made, "run-1-matrix-0").cells[1] == ["after task 1", "", ""]


# Colours.

MODES = {
    "light": re.compile(r"^:root \{(.*?)\}", re.DOTALL),
    "dark": re.compile(r"scheme: dark\) \{\s*:root \{(.*?)\}", re.DOTALL),
}


def contrast(one, other):
    """The ratio of WCAG 2, from 1 to 21."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4
            for p in parts
        ]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    # The darkest grey that is too light on white, and the next one.
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("mode", MODES)
def test_colours_can_be_told_apart(mode):
    css = page.STYLE_SHEET.read_text()
    of = dict(re.findall(r"--([\w-]+): (#\w{6});", MODES[mode].search(css)[1]))
    assert len(of) == 10 + 6 + 8 + 2
    texts = [
        *itertools.product(("ink", "muted", "link"), ("page", "panel")),
        *itertools.product(("ink", "muted"), ("notice",)),
        *(("on-faint", f"level-{level}") for level in range(5)),
        *(("on-full", f"level-{level}") for level in range(5, 8)),
    ]
    # Of what is not text: lines, bars and marks.
    marks = [
        *((f"series-{i}", "page") for i in range(6)),
        *(("accent", "page"), ("notice-line", "page")),
    ]
    for pairs, least in ((texts, 4.5), (marks, 3)):
        for one, other in pairs:
            assert contrast(of[one], of[other]) >= least, (one, other)
    # Levels go one way, so that they can be told apart without their hue.
    scale = [contrast(of[f"level-{i}"], of["page"]) for i in range(8)]
    assert scale == sorted(scale)


# The command.


def report(*args):
    return CliRunner().invoke(main.main, ["report", *args])


@pytest.fixture
def run_folder(two_seeds):
    os.mkdir("run")
    two_seeds.save("run")


def test_the_command_writes_the_page(run_folder, two_seeds):
    result = report("run", "--html", "page.html", "--output", "figure.svg")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "page: page.html"
    written = pathlib.Path("page.html").read_text(encoding="utf-8")
    assert written == page.page([("run", two_seeds)])
    assert sorted(os.listdir()) == ["figure.svg", "page.html", "run"]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("page.pdf", "--html: received page.pdf, expected a name in .html"),
        ("", "--html: received an empty name"),
        ("nowhere/page.html", "--html: there is no folder nowhere"),
        ("taken.html", "--html: taken.html exists; replace it with --overwri"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused(run_folder, name, expected):
    pathlib.Path("taken.html").write_text("mine")
    result = report("run", "--html", name)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr
    assert pathlib.Path("taken.html").read_text() == "mine"


def test_an_existing_page_is_replaced_in_one_step(run_folder, monkeypatch):
    pathlib.Path("page.html").write_text("mine")

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        result = report("run", "--html", "page.html", "--overwrite")
    assert result.exit_code == 1
    assert "page.html could not be written (No space left" in result.stderr
    assert pathlib.Path("page.html").read_text() == "mine"
    assert sorted(os.listdir()) == ["page.html", "run"]
    assert report("run", "--html", "page.html", "--overwrite").exit_code == 0
    assert pathlib.Path("page.html").read_text().startswith("<!DOCTYPE html>")


def test_damaged_results_have_no_page(run_folder):
    path = pathlib.Path("run", "results.json")
    path.write_text(path.read_text()[:-9])
    result = report("run", "--html", "page.html")
    assert result.exit_code == 1
    assert "results.json is damaged: " in result.stderr
    assert os.listdir() == ["run"]


# In a browser.

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Measures the pages in frames: how wide each is, and each text's contrast.
MEASURE = """
<!DOCTYPE html><meta charset="utf-8"><body><script>
const attacked = window.attacked = [];
function rgb(text) {
  return text.match(/[\\d.]+/g).map(Number);
}
function luminance(colour) {
  const [r, g, b] = colour.map(c => c / 255).map(
    c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function contrast(element, style) {
  let behind = element;
  const opaque = node => (rgb(style(node).backgroundColor)[3] ?? 1) > 0;
  while (!opaque(behind)) behind = behind.parentElement;
  const svg = element.namespaceURI.endsWith("svg");
  const two = [
    luminance(rgb(svg ? style(element).fill : style(element).color)),
    luminance(rgb(style(behind).backgroundColor)),
  ].sort((a, b) => a - b);
  return (two[1] + 0.05) / (two[0] + 0.05);
}
function follows(node) {
  return node.getAnimations().every(
    ({ timeline }) => timeline.source === node && timeline.axis === "inline");
}
function measured(frame) {
  const page = frame.contentDocument;
  const style = node => frame.contentWindow.getComputedStyle(node);
  const told = [...page.body.querySelectorAll("*")].filter(
    node => !["title", "desc", "style"].includes(node.localName) &&
    [...node.childNodes].some(c => c.nodeType === 3 && c.data.trim()));
  return {
    width: page.documentElement.scrollWidth,
    dark: luminance(rgb(style(page.body).backgroundColor)) < 0.1,
    texts: told.length,
    // What there is to move to, whether its scroll drives the fading, and what
    // fades at each edge.
    frames: [...page.querySelectorAll(".scroll")].map(node => [
      node.scrollWidth - node.clientWidth, follows(node),
      ...["left", "right"].map(
        edge => parseFloat(style(node).getPropertyValue(`--fade-${edge}`))),
    ]),
    faint: told.map(node => [contrast(node, style), node.textContent]).filter(
      ([ratio]) => ratio < 4.5),
  };
}
window.onload = () => {
  const result = JSON.stringify(
    [[...document.querySelectorAll("iframe")].map(measured),
     attacked]);
  document.body.textContent = "RESULT" + result + "END";
};
</script>
"""
# Is it measured? One that is too wide, and too faint.
CONTROL = (
    "<!DOCTYPE html><body style='margin: 0; background: #fff'>"
    f"<p style='width: 500px; color: #777'>faint</p>{ATTACK}"
)


def browse(pages, *flags):
    """Returns what `MEASURE` finds of pages, each with a width in pixels."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    frames = (
        f'<iframe title="{place}" srcdoc="{html.escape(each)}" '
        f'style="border: 0; width: {width}px; height: 800px"></iframe>'
        for place, (each, width) in enumerate(pages)
    )
    path = pathlib.Path.cwd() / "measure.html"
    path.write_text(MEASURE + "\n".join(frames), encoding="utf-8")
    done = subprocess.run(
        [
            *(browser, *FLAGS, *flags, "--dump-dom"),
            *(f"--user-data-dir={pathlib.Path.cwd() / 'profile'}",),
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search("RESULT(.*)END", done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("mode", MODES)
def test_it_can_be_read_on_a_phone(mode, text):
    """In a browser: no text is faint, and only tables and figures scroll."""
    dark = ["--blink-settings=preferredColorScheme=0"]
    (measured, control), attacked = browse(
        [(text, 360), (CONTROL, 360)], *(dark if mode == "dark" else [])
    )
    assert control["width"] == 500
    assert [faint for _, faint in control["faint"]] == ["faint"]
    # By the control, which shows that a script would have run.
    assert attacked == ["1"]
    assert measured["width"] == 360
    assert measured["faint"] == []
    assert measured["texts"] > 200
    assert measured["dark"] == (mode == "dark")


def test_an_edge_fades_where_there_is_more(text):
    """In a browser: on the right, on both edges, less and less at the end."""
    # What is scrolled fades with the next picture, which may never be drawn:
    # the animation is set to where the scroll would bring it.
    moved = (
        re.sub(r"<meta[^>]*Policy[^>]*>", "", text).replace(
            "</body>",
            "<script>for (const node of document.querySelectorAll('.scroll'))"
            "if (node.scrollWidth > node.clientWidth)"
            f"node.getAnimations()[0].currentTime = CSS.percent({percent})"
            "</script></body>",
        )
        for percent in (0, 50, 95)
    )
    pages, _ = browse([(each, 360) for each in moved])
    for each, faded in zip(pages, ((0, 40), (24, 40), (24, 20))):
        assert len(each["frames"]) == 18
        wide = [frame for frame in each["frames"] if frame[0] > 0]
        assert 0 < len(wide) < 18
        for hidden, follows, *fades in each["frames"]:
            assert follows
            assert fades == ([*faded] if hidden else [0, 0])


def test_no_table_is_cut_on_paper(text, monkeypatch):
    """On A4 without its margins: as the style for paper has it, no more."""
    monkeypatch.setattr(run_section, "framed", lambda *args: "")
    run = results.Trial("si", 0, np.full((30, 30), 1.0))
    for task in range(30):
        run.record_importance(task, {LONG: np.array([1.23e-10])})
    wide = page.page([(LONG, make_results(run))])
    one, other = (
        each.replace("@media print", "@media all") for each in (text, wide)
    )
    control = other.replace("table { font-size: min(", "table { not-so: min(")
    measured, _ = browse([(each, 703) for each in (one, other, control)])
    widths = [each["width"] for each in measured]
    assert widths[:2] == [703, 703]
    # It is the style's doing.
    assert widths[2] > 1000
