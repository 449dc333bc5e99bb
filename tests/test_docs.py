"""The code in the documentation runs, and does what it says."""

import doctest
import importlib
import pathlib
import pkgutil

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
    for name in ("SICallback", "SIRegularizer", "OutputMask"):
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
