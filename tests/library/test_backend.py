"""What keras_si assumes of Keras's private parts, checked one by one."""

import keras
import pytest
from helpers import SIZES, compile_model, make_model, make_tasks, only_on

from keras_si import SICallback, backend, fit_hooks


def test_model_save_writes_the_optimizer_of_the_compile_config():
    model = compile_model(make_model())
    other = keras.optimizers.SGD(0.5)
    backend.set_optimizer(model, other)
    assert model.optimizer is other
    config = model.get_compile_config()
    assert config["optimizer"]["class_name"] == "SGD"
    assert config["loss"]["class_name"] == "SparseCategoricalCrossentropy"


def test_train_step_set_on_the_instance_is_the_one_that_runs():
    model = compile_model(make_model())
    x, y = make_tasks(1)[0]
    model.fit(x, y, verbose=0)
    called = []
    original = model.train_step

    def train_step(*args):
        called.append(True)
        return original(*args)

    model.train_step = train_step
    model.fit(x, y, verbose=0)
    if keras.backend.backend() != "torch":  # it runs what is there
        assert not called  # traced before: that is why `retrace` exists
    backend.retrace(model)
    model.fit(x, y, verbose=0)
    assert called


def test_users_own_train_step_is_given_back():
    model = compile_model(make_model())

    def own(*args):
        return {}

    model.train_step = own
    si = SICallback()
    si.set_model(model)
    assert model.train_step is not own
    si.detach()
    assert model.train_step is own


@only_on("jax")
def test_nnx_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "is_nnx_enabled", lambda: True)
    model = compile_model(make_model())
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="NNX.*KERAS_NNX_ENABLED"):
        SICallback().set_model(model)
    assert model.optimizer is optimizer


@only_on("tensorflow", reason="the others build before callbacks begin")
def test_unbuilt_model_is_built_from_the_iterators_spec():
    model = compile_model(make_model(built=False))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            assert not self.model.built
            fit_hooks.build_before_first_step(
                self.model,
                lambda: seen.append([v.shape for v in self.model.weights]),
            )

    x, y = make_tasks(1)[0]
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[Look()])
    assert len(seen) == 1
    assert tuple(seen[0][0]) == (SIZES[0], SIZES[1])


@only_on("tensorflow", reason="the others build before callbacks begin")
def test_model_that_cannot_be_built_is_refused_with_the_way_out():
    class Stubborn(keras.Model):
        def call(self, x):
            raise RuntimeError("not on symbols")

    model = compile_model(Stubborn())
    x, y = make_tasks(1)[0]
    with pytest.raises(ValueError, match="Build it first"):
        model.fit(x, y, verbose=0, callbacks=[SICallback()])


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


class Write(keras.callbacks.Callback):
    def __init__(self, order):
        super().__init__()
        self.order = order

    def on_train_begin(self, logs=None):
        fit_hooks.call_last_in_this_fit(
            self.model, lambda: self.order.append("last"), owner=self
        )

    def on_train_end(self, logs=None):
        self.order.append("on_train_end")


def test_what_is_called_last_in_a_fit_comes_behind_all_callbacks():
    class Other(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            order.append("other")

    model = compile_model(make_model())
    x, y = make_tasks(1)[0]
    order = []
    for _ in range(2):
        history = model.fit(x, y, verbose=0, callbacks=[Write(order), Other()])
    assert order == ["on_train_end", "other", "last"] * 2
    assert "on_train_end" not in vars(history)


@pytest.mark.parametrize("concrete", [True, False])
def test_assign_if_assigns_where_its_condition_holds(concrete):
    variable = keras.Variable([1.0, 2.0], trainable=False)

    def step(condition):
        backend.assign_if(condition, [variable], lambda: [2 * variable.value])

    if not concrete and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        step = tf.function(step)
    for condition in (True, False):
        step(keras.ops.convert_to_tensor(condition))
    assert variable.numpy().tolist() == [2.0, 4.0]
