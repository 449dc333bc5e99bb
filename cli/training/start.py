"""Starts TensorFlow without its messages; versions and the device's name."""

import contextlib
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator

from ..errors import OptionError, counted
from ..files import Record

BACKENDS = ("tensorflow", "jax")


def import_quietly(
    threads: int | None = None, deterministic: bool = False
) -> None:
    """Imports TensorFlow, TFDS and Keras; prints nothing unless it fails.

    Args:
        threads: How many TensorFlow may use; `None` for one a core.
        deterministic: Whether a GPU must give the same results run after run.
    """
    is_jax = backend() == "jax"
    if deterministic and is_jax:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    for name in ("absl", "urllib3", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with _native_stderr_held_back():
        import keras  # noqa: F401
        import tensorflow as tf
        import tensorflow_datasets  # noqa: F401

        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        if is_jax:
            # TensorFlow is there for the data alone: the devices are JAX's.
            tf.config.set_visible_devices([], "GPU")
        # Finding the devices prints messages too, and happens on first use.
        tf.config.list_logical_devices()
        if deterministic and not is_jax and not device().startswith("CPU"):
            tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def _native_stderr_held_back() -> Iterator[None]:
    """Holds back what is written to file descriptor 2, unless this fails.

    TensorFlow's native code obeys no log level while it is imported, so the
    descriptor itself is redirected.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        failed = False
        try:
            yield
        except Exception:  # Ctrl-C needs no explanation.
            failed = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            if failed:
                held.seek(0)
                os.write(2, held.read())


def check_backend() -> None:
    """Refuses a backend that the command line does not run on."""
    if backend() not in BACKENDS:
        raise OptionError(
            "KERAS_BACKEND",
            f"received {backend()!r}, expected {' or '.join(BACKENDS)}: the "
            "command line runs on these, and the library on PyTorch too",
        )


def backend() -> str:
    """Returns the backend that Keras will choose when it is imported."""
    if "KERAS_BACKEND" in os.environ:
        return os.environ["KERAS_BACKEND"]
    folder = os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
    try:
        with open(os.path.join(folder, "keras.json"), encoding="utf-8") as file:
            return str(json.load(file)["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def versions() -> Record:
    """Returns what a run is made with, for its results."""
    import keras
    import tensorflow as tf

    import keras_si

    found = {
        "keras_si": keras_si.__version__,
        "keras": keras.__version__,
        "backend": backend(),
        "tensorflow": tf.__version__,
    }
    if backend() == "jax":
        import jax

        found["jax"] = jax.__version__
    return {**found, "python": platform.python_version()}


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device() -> str:
    """Returns what a run is trained on, for its results."""
    import tensorflow as tf

    if backend() == "jax":
        import jax

        kind = jax.default_backend().upper()
        if kind != "CPU":
            return f"{kind}, {jax.devices()[0].device_kind}"
    elif gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"GPU, {details.get('device_name', gpus[0].name)}"
    return f"CPU, {counted(cores(), 'core')}"
