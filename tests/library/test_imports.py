"""Who imports what."""

import ast
import pathlib
import sys

from helpers import finish, only_on, start

import keras_si

CORE = pathlib.Path(keras_si.__file__).parent


def imports_of(tree):
    """Yields what a file, or a part of its syntax tree, imports.

    What only a type checker sees counts, too.
    """
    if isinstance(tree, pathlib.Path):
        tree = ast.parse(tree.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def printed(code):
    (out,) = finish([start("-c", code)])
    return out.split()


def test_the_core_needs_keras_and_numpy_only():
    allowed = {*sys.stdlib_module_names, "keras", "keras_si", "numpy"}
    for path in CORE.glob("*.py"):
        tops = {name.split(".")[0] for name in imports_of(path)}
        if path.stem in ("backend", "gradients", "replicas"):
            tops -= {"tensorflow", "jax", "torch"}
        assert tops <= allowed, path.name


def test_imports_point_one_way():
    order = [
        *("equations", "metrics", "masking", "arguments", "replicas"),
        *("backend", "gradients", "curvature", "estimation", "regularizer"),
        *("variables", "state", "diagnostics", "links", "saving", "wrapper"),
        *("optimizer", "attach", "fit_hooks", "task_ends", "callback"),
        "__init__",
    ]
    assert {path.stem for path in CORE.glob("*.py")} == set(order)
    for position, name in enumerate(order):
        for imported in imports_of(CORE / f"{name}.py"):
            top, _, rest = imported.partition(".")
            module = rest.split(".")[0]
            if top == "keras_si" and module in order:
                assert order.index(module) < position, f"{name} -> {module}"


def test_the_public_names():
    assert set(keras_si.__all__) == {
        *("OutputMask", "SICallback", "SIRegularizer"),
        *("fisher_importance", "metrics"),
    }


def test_import_loads_nothing_that_keras_does_not():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_si;"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    assert printed(code) == ["keras_si"]


def test_backends_are_imported_where_they_are_used_only():
    """So that `import keras_si` needs the one that Keras runs on alone."""
    for path in CORE.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        outside = [
            node
            for node in tree.body
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]
        tops = {
            name.split(".")[0] for node in outside for name in imports_of(node)
        }
        assert tops.isdisjoint({"tensorflow", "jax", "torch"}), path.name


@only_on("jax", "torch")
def test_tensorflow_is_not_loaded():
    code = "import sys, keras_si; print('tensorflow' in sys.modules)"
    assert printed(code) == ["False"]
