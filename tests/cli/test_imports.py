"""Imports point down the staircase alone, those for type checkers too."""

import ast
import graphlib
import pathlib

import keras_si_cli

ROOT = pathlib.Path(keras_si_cli.__file__).parent
# Each step may use what stands to its right.
STEPS = (
    *("__main__", "main", "options", "tune", "search", "listing", "training"),
    *("results", "experiments", "methods", "files", "errors"),
)


def imported(path, level):
    """Returns what a module imports by so many dots: the first names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == level:
            names = [alias.name for alias in node.names]
            found |= {node.module.split(".")[0]} if node.module else {*names}
    return found


def test_no_module_imports_what_stands_to_its_left():
    seen = set()
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        step = parts[0].removesuffix(".py")
        for name in imported(path, len(parts)) if step != "__init__" else ():
            assert STEPS.index(step) < STEPS.index(name), (path, name)
            seen.add(step)
    assert {"main", "training", "results", "experiments"} <= seen


def test_inside_a_folder_there_are_no_circles():
    for folder in ("training", "results", "experiments", "methods"):
        files = sorted((ROOT / folder).glob("*.py"))
        uses = {path.stem: imported(path, 1) for path in files}
        graphlib.TopologicalSorter(uses).prepare()  # raises CycleError
