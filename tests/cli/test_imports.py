"""Imports point down the staircase alone, those for type checkers too."""

import ast
import pathlib

import keras_si_cli

ROOT = pathlib.Path(keras_si_cli.__file__).parent
# Each step may use what stands to its right.
STEPS = (
    *("__main__", "main", "options", "tune", "search", "listing", "training"),
    *("results", "experiments", "methods", "files", "errors"),
)


def imported(path):
    """Yields the steps that a module imports from, its own left out."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = package[: len(package) - node.level + 1]
            names = [alias.name for alias in node.names]
            target = (node.module or "").split(".")[0]
            if not parts:
                yield from [target] if target else names


def test_no_module_imports_what_stands_to_its_left():
    seen = set()
    for path in sorted(ROOT.rglob("*.py")):
        step = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for name in {*imported(path)} if step != "__init__" else ():
            assert STEPS.index(step) < STEPS.index(name), (path, name)
            seen.add(step)
    assert {"main", "training", "results", "experiments"} <= seen


def test_inside_a_folder_there_are_no_circles():
    for folder in ("training", "results", "experiments", "methods"):
        uses = {}
        for path in sorted((ROOT / folder).glob("*.py")):
            tree = ast.walk(ast.parse(path.read_text()))
            uses[path.stem] = {
                name
                for node in tree
                if isinstance(node, ast.ImportFrom) and node.level == 1
                for name in (
                    [node.module]
                    if node.module
                    else [a.name for a in node.names]
                )
            }
        while uses:
            done = {name for name in uses if not uses[name] & {*uses} - {name}}
            assert done, (folder, uses)
            uses = {name: uses[name] for name in uses if name not in done}
