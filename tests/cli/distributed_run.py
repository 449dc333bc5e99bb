"""Runs the command line on a few images and writes down what was learned.

    python distributed_run.py OUTPUT STOP ARGUMENT...

A program of its own, run by test_distribution.py: devices must be there
before the backend starts. OUTPUT, an `.npz` file, gets the weights and the
optimizer's variables, SI's state among them, after every task. The process
ends at once at training step number STOP, if that is not 0.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras_si_cli import data, devices, main, method_run, watching
from test_run import few_images


def two_devices():
    """Makes two devices of TensorFlow of the one that there is."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)


def write_down(learned):
    evaluate = method_run.MethodRun._evaluate

    def spy(self, task):
        variables = [*self.model.variables, *self.model.optimizer.variables]
        for index, variable in enumerate(variables):
            name = f"{self.run.method}/{task.index}/{index}"
            learned[name] = keras.ops.convert_to_numpy(variable)
        if keras.backend.backend() == "tensorflow":
            strategy = self.model.distribute_strategy
            learned["replicas"] = strategy.num_replicas_in_sync
        evaluate(self, task)

    method_run.MethodRun._evaluate = spy


def stop_at(step):
    count = 0
    batch_ended = watching.Batches.on_train_batch_end

    def counted(self, batch, logs=None):
        nonlocal count
        count += 1
        if count == step:
            os._exit(9)
        batch_ended(self, batch, logs)

    watching.Batches.on_train_batch_end = counted


def see_the_shares(shared):
    """Notes for each dense layer whether its output is shared by devices."""
    import jax

    call = keras.layers.Dense.call

    def spy(self, inputs, training=None):
        outputs = call(self, inputs, training)
        if isinstance(outputs, jax.core.Tracer):
            jax.debug.inspect_array_sharding(
                outputs,
                callback=lambda sharding: shared.append(
                    not sharding.is_fully_replicated
                ),
            )
        return outputs

    keras.layers.Dense.call = spy


if __name__ == "__main__":
    output, stop, *arguments = sys.argv[1:]
    learned, shared = {}, []
    write_down(learned)
    stop_at(int(stop))
    if keras.backend.backend() == "jax":
        see_the_shares(shared)
    if "mirrored" in arguments:
        two_devices()
    data.load = lambda name, data_dir: few_images()
    try:
        main.main(arguments)
    finally:
        if "multiworker" in arguments:
            index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
            learned["agreed"] = devices.agreed([7, index])
        np.savez(output, shared=shared, **learned)
