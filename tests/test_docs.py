"""The code in the documentation runs, and does what it says."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import runpy
import textwrap

import pytest

import keras_si

DOCS = pathlib.Path(__file__).parent.parent / "docs"
MODULES = [
    keras_si.__name__,
    *(
        f"{keras_si.__name__}.{module.name}"
        for module in pkgutil.iter_modules(keras_si.__path__)
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_every_public_name_has_an_example():
    """Those of methods are in the docstrings of their classes."""
    for name in (
        *("SICallback", "SIRegularizer", "OutputMask"),
        "fisher_importance",
    ):
        assert ">>> " in getattr(keras_si, name).__doc__, name
    for name in (
        "average_accuracy",
        "backward_transfer",
        "forward_transfer",
        "forgetting",
    ):
        assert ">>> " in getattr(keras_si.metrics, name).__doc__, name


@pytest.mark.parametrize(
    "page",
    sorted(DOCS.rglob("*.md")),
    ids=lambda path: str(path.relative_to(DOCS)),
)
def test_examples_in_pages(page):
    """All examples of a page, from top to bottom, in one namespace."""
    sybil = pytest.importorskip("sybil")
    markdown = pytest.importorskip("sybil.parsers.markdown")
    parsers = [markdown.PythonCodeBlockParser(), markdown.SkipParser()]
    document = sybil.Sybil(parsers).parse(page)
    for example in document.examples():
        example.evaluate()


def test_the_page_of_the_command_line_has_all_of_its_help():
    """docs/command_line.py writes it into what mkdocs-click shows."""
    pytest.importorskip("click")
    from keras_si_cli.main import main

    path = str(DOCS / "command_line.py")
    shown = runpy.run_path(path)["main"]

    def walk(command):
        yield command
        for part in getattr(command, "commands", {}).values():
            yield from walk(part)

    for command, documented in zip(walk(main), walk(shown), strict=True):
        lines = [line.strip() for line in documented.help.splitlines()]
        for line in command.epilog.replace("\b", "").split("\n"):
            assert line.strip() in lines or f"**{line}**" in lines
    assert shown.commands["resume"].help.endswith("""
**Example:**

```text
keras-si resume runs/pmnist-20250131-120000
```""")
    assert "```" not in main.commands["resume"].help


def test_the_readme_is_two_screens():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 130
    assert len(readme.split()) < 1000


def test_the_whole_method_is_shown_as_it_stands_in_the_code():
    from keras_si.optimizer import SIOptimizer

    page = (DOCS / "science.md").read_text(encoding="utf-8")
    (shown,) = re.findall(
        r"```python\n(state = self.state\n.+?)```", page, re.S
    )
    source = textwrap.dedent(inspect.getsource(SIOptimizer._update))
    (function,) = ast.parse(source).body
    listed = [ast.dump(part) for part in ast.parse(shown).body]
    assert listed == [ast.dump(part) for part in function.body]


def test_every_figure_of_a_page_is_there():
    """Zensical refuses a broken link, and says nothing of a figure."""
    figures = [
        page.parent / target
        for page in sorted(DOCS.rglob("*.md"))
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())
    ]
    assert figures
    assert [path for path in figures if not path.is_file()] == []
