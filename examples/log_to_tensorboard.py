"""SI's penalty and importance in TensorBoard, beside Keras's own curves.

All it takes is Keras's own callback in the same list. It needs
`pip install tensorboard`, which TensorFlow does not bring along any more. The
last lines read back what was written; you would rather look at it, with the
command that is printed.
"""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from keras_si import SICallback

rng = np.random.default_rng(0)
tasks = []
for centre in (-1.0, 1.0):  # each task has its own region and its own rule
    x = rng.normal(size=(2000, 20)).astype("float32")
    y = (x @ rng.normal(size=20) > 0).astype("int32")
    tasks.append((x + np.float32(centre), y))

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((20,)),
        keras.layers.Dense(50, activation="relu", name="hidden"),
        keras.layers.Dense(2, activation="softmax", name="head"),
    ],
    name="net",
)
model.compile(
    keras.optimizers.Adam(1e-2),
    "sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
log_dir = pathlib.Path(tempfile.mkdtemp(prefix="keras_si_"))
si = SICallback(strength=3.0)
for x, y in tasks:
    board = keras.callbacks.TensorBoard(log_dir)
    model.fit(x, y, batch_size=100, epochs=10, callbacks=[si, board], verbose=0)

print(f"tensorboard --logdir {log_dir}")
everything = {"tensors": 0}  # by default it keeps a sample of 10
written = event_accumulator.EventAccumulator(
    str(log_dir / "si"), size_guidance=everything
).Reload()
for tag in sorted(written.Tags()["tensors"]):
    events = written.Tensors(tag)
    steps = [event.step for event in events]
    if tag.startswith("importance/"):
        print(f"{tag}: histograms at steps {steps}")
    else:
        last = tf.make_ndarray(events[-1].tensor_proto)
        print(f"{tag}: {len(steps)} values, the last {last:.2g}")
