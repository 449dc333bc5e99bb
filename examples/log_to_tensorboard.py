"""SI's penalty and importance in TensorBoard, beside Keras's own curves.

Keras's callback writes every number of the logs, `si_penalty` among them. The
histograms of importance are a few lines of your own after each task. It needs
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
writer = tf.summary.create_file_writer(str(log_dir / "importance"))
for task, (x, y) in enumerate(tasks):
    board = keras.callbacks.TensorBoard(log_dir / f"task_{task}")
    # SI first, so that TensorBoard's callback sees its penalty in the logs.
    model.fit(x, y, batch_size=100, epochs=10, callbacks=[si, board], verbose=0)
    with writer.as_default(task):
        for path, importance in si.get_importance().items():
            tf.summary.histogram(path, importance)
writer.close()

print(f"tensorboard --logdir {log_dir}")
for run in ("task_1/train", "importance"):
    written = event_accumulator.EventAccumulator(str(log_dir / run)).Reload()
    for tag in sorted(written.Tags()["tensors"]):
        steps = [event.step for event in written.Tensors(tag)]
        print(f"{run} {tag}: steps {steps}")
