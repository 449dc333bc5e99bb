"""What keras_si assumes of Keras's private parts, checked one by one."""

import keras
import pytest
from helpers import begin, compile_model, fit, make_tasks, only_on

from keras_si import SICallback, backend, fit_hooks


def test_model_save_writes_the_optimizer_of_the_compile_config():
    model, *_ = begin()
    backend.set_optimizer(model, other := keras.optimizers.SGD(0.5))
    assert model.optimizer is other
    config = model.get_compile_config()
    assert config["optimizer"]["class_name"] == "SGD"
    assert config["loss"]["class_name"] == "SparseCategoricalCrossentropy"


@only_on("jax")
def test_nnx_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "is_nnx_enabled", lambda: True)
    model, si, *_ = begin()
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="NNX.*KERAS_NNX_ENABLED"):
        si.set_model(model)
    assert model.optimizer is optimizer


@only_on("tensorflow", reason="the others build before callbacks begin")
def test_model_that_cannot_be_built_is_refused_with_the_way_out():
    class Stubborn(keras.Model):
        def call(self, x):
            raise RuntimeError("not on symbols")

    model = compile_model(Stubborn())
    with pytest.raises(ValueError, match="Build it first"):
        fit(model, make_tasks(1)[0], SICallback())


def traced_by(tensors):
    """Whether `run_update` compiles, seen from within the function it runs."""
    cache = {}
    backend.run_update(lambda tensors: None, tensors, cache, "key")
    return "key" in cache


@only_on("tensorflow")
def test_update_is_compiled_in_a_graph_alone_and_not_under_determinism():
    import tensorflow as tf
    from tensorflow.python.framework import config

    compiled = []

    @tf.function
    def graph(x):
        sparse = tf.IndexedSlices(x, tf.constant([0]), tf.constant([3]))
        compiled.append(traced_by([x]))
        compiled.append(traced_by([x, sparse]))

    graph(tf.constant([2.0]))
    assert not traced_by([tf.constant([2.0])])
    tf.config.experimental.enable_op_determinism()
    try:
        graph(tf.constant([2.0, 3.0]))
    finally:
        config.disable_op_determinism()
    assert compiled == [True, False, False, False]


@only_on("tensorflow")
def test_what_was_compiled_is_used_again():
    import tensorflow as tf

    cache, traces = {}, []

    def update(tensors):
        traces.append(len(tensors))

    for size in (1, 2):
        tf.function(lambda x: backend.run_update(update, [x[0]], cache, "key"))(
            tf.zeros([size])
        )
    assert traces == [1]


def test_what_is_called_last_in_a_fit_comes_behind_all_callbacks():
    model, _, task, _ = begin()
    order = []

    def wait(logs):
        fit_hooks.call_last_in_this_fit(
            model, lambda: order.append("last"), owner=waiting
        )

    LambdaCallback = keras.callbacks.LambdaCallback
    waiting = LambdaCallback(on_train_begin=wait)
    other = LambdaCallback(on_train_end=lambda logs: order.append("other"))
    for _ in range(2):
        history = fit(model, task, waiting, other, epochs=1)
    assert order == ["other", "last"] * 2
    assert "on_train_end" not in vars(history)
