"""Starts the backend without showing its start-up chatter."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from . import distribution


def import_quietly(
    threads: int | None = None,
    distribute: str = "none",
    deterministic: bool = False,
) -> None:
    """Imports TensorFlow, TFDS and Keras; prints nothing unless it fails.

    Args:
        threads: How many TensorFlow may use; `None` for one a core.
        distribute: A name in `distribution.DISTRIBUTIONS`.
        deterministic: Whether an accelerator must give the same results run
            after run, too. Only for JAX: it must know before it starts.
    """
    if deterministic and distribution.backend() == "jax":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    with _native_stderr_held_back():
        import keras  # noqa: F401
        import tensorflow as tf
        import tensorflow_datasets  # noqa: F401

        tf.get_logger().setLevel(logging.ERROR)
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        # Finding the devices is talkative too, and happens on first use.
        from . import devices

        devices.start(distribute)


@contextlib.contextmanager
def _native_stderr_held_back() -> Iterator[None]:
    """Holds back what is written to file descriptor 2.

    What TensorFlow's native code logs while it is imported obeys no log
    level, so the descriptor itself is turned away. If the import fails,
    what was held back is written out after all: it may say why. If it is
    interrupted there is nothing to explain.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            _restore(saved)
            held.seek(0)
            os.write(2, held.read())
            raise
        except BaseException:
            _restore(saved)
            raise
        _restore(saved)


def _restore(saved: int) -> None:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)
