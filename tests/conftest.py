"""Fixtures of all tests: quiet TensorFlow, and fixed seeds."""

import atexit
import functools
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# What JAX compiles in one test, it need not compile again in another: most
# have the same net. The processes of one run share the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="keras_si_tests_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest


@pytest.fixture(autouse=True)
def _fresh_keras(monkeypatch):
    # Not above: the process that only hands out the tests does not need it.
    import keras

    # Without the garbage collection, which would take most of the time; the
    # command line calls it for each trial.
    clear = functools.partial(keras.utils.clear_session, free_memory=False)
    monkeypatch.setattr(keras.backend, "clear_session", clear)
    clear()
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(7)
