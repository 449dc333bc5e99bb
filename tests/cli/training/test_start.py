"""TensorFlow starts in silence, unless it cannot start."""

import contextlib
import os
import pathlib
import subprocess
import sys

import pytest
from keras_si_cli.training import start


def test_the_backend_is_that_of_keras_json_if_no_other_is_named(monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", os.curdir)
    assert start.backend() == "tensorflow"
    for content, backend in (
        ('{"backend": "jax"}', "jax"),
        ("{", "tensorflow"),
    ):
        pathlib.Path("keras.json").write_text(content)
        assert start.backend() == backend


def test_a_piped_run_is_plain_text_of_80_columns_and_nothing_else(tmp_path):
    """Compiled by XLA, which has messages of its own."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "keras_si_cli", "run", "pmnist"),
            *("--tasks", "1", "--steps", "2", "--hidden", "4", "--jit"),
            *("--method", "si", "--output", os.fspath(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    first, *lines, last = done.stdout.splitlines()
    assert first.startswith("si        seed 0  task  1/1  this task")
    assert max(map(len, [first, *lines])) <= 80
    assert last == f"results and figures: {tmp_path / 'out'}"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (None, "after"),
        (ImportError, "the reason, after"),
        (KeyboardInterrupt, "after"),  # It needs no explanation.
    ],
)
def test_native_output_is_held_back_unless_the_import_fails(
    capfd, error, shown
):
    expected = pytest.raises(error) if error else contextlib.nullcontext()
    with expected, start._native_stderr_held_back():
        os.write(2, b"the reason, ")
        if error:
            raise error
    os.write(2, b"after")
    assert capfd.readouterr() == ("", shown)


def test_determinism_is_asked_for_where_it_is_not_given(monkeypatch):
    import tensorflow as tf

    asked = []
    monkeypatch.setattr(
        tf.config.experimental,
        "enable_op_determinism",
        lambda: asked.append(start.device()),
    )
    monkeypatch.setattr(start, "backend", lambda: "tensorflow")
    for device in ("GPU, some", "CPU, 2 cores"):
        monkeypatch.setattr(start, "device", lambda name=device: name)
        for deterministic in (True, False):
            start.import_quietly(deterministic=deterministic)
    assert asked == ["GPU, some"]
