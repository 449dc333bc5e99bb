"""The devices of a run, on TensorFlow or JAX, and how they share the work."""

import contextlib
import functools
import os
import signal
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

import keras
import tensorflow as tf

from .types import Record
from .wording import counted


def start(distribute: str = "none") -> None:
    """Finds the devices; the workers of a run wait for each other here."""
    if _on_jax():
        import jax

        # TensorFlow is there for the data alone: the devices are JAX's.
        tf.config.set_visible_devices([], "GPU")
        jax.devices()
    elif distribute == "multiworker":
        # The wait for the others is in native code, which lets Python hear
        # no Ctrl-C: it must end the process by itself.
        python = signal.signal(signal.SIGINT, signal.SIG_DFL)
        _strategy(distribute)
        signal.signal(signal.SIGINT, python)
    tf.config.list_logical_devices()


def scope(distribute: str) -> AbstractContextManager[object]:
    """Returns the context in which a run is spread over its devices."""
    if distribute == "none":
        return contextlib.nullcontext()
    if distribute == "data-parallel":
        return DataParallel().scope()
    return _strategy(distribute).scope()


@functools.cache
def _strategy(distribute: str) -> tf.distribute.Strategy:
    # The second can only be made once, before anything else of TensorFlow.
    if distribute == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.MultiWorkerMirroredStrategy()


class DataParallel(keras.distribution.DataParallel):
    """Keras's, for batches of any size.

    JAX takes batches in equal parts alone, and an epoch's last one need not
    have any. So every device is given the whole batch, and works on its part:
    within a step the parts may differ.
    """

    def get_data_layout(
        self, data_shape: Sequence[int | None]
    ) -> keras.distribution.TensorLayout:
        return keras.distribution.TensorLayout(
            [None] * len(data_shape), self.device_mesh
        )

    def get_tensor_layout(self, path: str) -> keras.distribution.TensorLayout:
        """Every layer's output is shared out, and so is all of the work."""
        return keras.distribution.TensorLayout(
            [self.batch_dim_name], self.device_mesh
        )


def agreed(numbers: Sequence[int]) -> list[bool]:
    """Returns for each number whether all workers have the same there."""
    strategy = _strategy("multiworker")
    ours = tf.constant([numbers], tf.int64)
    everyones = strategy.gather(strategy.run(lambda: ours), axis=0)
    return tf.reduce_all(everyones == everyones[0], axis=0).numpy().tolist()


def uneven(
    distribute: str, batch_sizes: Collection[int]
) -> tuple[int, int] | None:
    """Returns a batch size that does not divide and the replicas, or `None`.

    Keras gives the mean of every replica the same weight, whatever its share.
    """
    if distribute not in ("mirrored", "multiworker"):
        return None
    replicas = _strategy(distribute).num_replicas_in_sync
    for size in batch_sizes:
        if size % replicas:
            return size, replicas
    return None


def trace_anew() -> None:
    """Makes the next step read what is not the model's, and has changed.

    JAX takes it for a constant when a step is traced.
    """
    if _on_jax():
        import jax

        jax.clear_caches()


def be_deterministic() -> None:
    """Asks for the same results run after run on an accelerator.

    On JAX that is an environment variable: `startup` has set it.
    """
    if not _on_jax():
        tf.config.experimental.enable_op_determinism()


def versions() -> Record:
    """Returns the versions of the backend and of TensorFlow."""
    found = {"backend": keras.backend.backend(), "tensorflow": tf.__version__}
    if _on_jax():
        import jax

        found["jax"] = jax.__version__
    return found


def on_accelerator() -> bool:
    """Whether the nets are trained on something else than CPUs."""
    if _on_jax():
        import jax

        return jax.default_backend() != "cpu"
    return bool(tf.config.list_physical_devices("GPU"))


def name() -> str:
    """Returns what a run is trained on, for its results."""
    if _on_jax():
        import jax

        kind = jax.default_backend().upper()
        if kind != "CPU":
            return f"{kind}, {jax.devices()[0].device_kind}"
    gpus = tf.config.list_physical_devices("GPU")
    if _on_jax() or not gpus:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux alone.
        cores = len(affinity(0)) if affinity else os.cpu_count()
        return f"CPU, {counted(cores or 1, 'core')}"
    details = tf.config.experimental.get_device_details(gpus[0])
    return f"GPU, {details.get('device_name', gpus[0].name)}"


def _on_jax() -> bool:
    return keras.backend.backend() == "jax"
