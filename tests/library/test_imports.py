"""Who imports what."""

import ast
import pathlib
import sys

from helpers import finish, only_on, start

import keras_si

CORE = pathlib.Path(keras_si.__file__).parent


def imports_of(tree):
    """Yields what is imported, also what only a type checker sees."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_core_needs_keras_and_numpy_only():
    """A backend only where it is used, so that its import needs one alone."""
    core = {*sys.stdlib_module_names, "keras", "keras_si", "numpy"}
    backends = {"tensorflow", "jax", "torch"}
    for path in CORE.glob("*.py"):
        apart = path.stem in ("backend", "gradients", "replicas")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            tops = {name.split(".")[0] for name in imports_of(node)}
            within = isinstance(node, (ast.FunctionDef, ast.ClassDef))
            assert tops <= core | (backends if apart and within else set())


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
        source = (CORE / f"{name}.py").read_text(encoding="utf-8")
        for imported in imports_of(ast.parse(source)):
            top, _, rest = imported.partition(".")
            module = rest.split(".")[0]
            if top == "keras_si" and module in order:
                assert order.index(module) < position, f"{name} -> {module}"


def test_the_public_names():
    assert set(keras_si.__all__) == {
        *("OutputMask", "SICallback", "SIRegularizer"),
        *("fisher_importance", "metrics"),
    }


@only_on("jax", "torch")
def test_tensorflow_is_not_loaded():
    code = "import sys, keras_si; print('tensorflow' in sys.modules)"
    assert finish([start("-c", code)]) == ["False\n"]
