"""What depends on the backend, or on parts of Keras that are not public.

Everything of that kind is here, so that a new Keras is checked in one place;
`tests/test_backend.py` fails when one of these assumptions does.
"""

import functools

import keras


def run_update(function, gradients, cache, key):
    """Calls `function(gradients)`, compiled by XLA where possible and useful.

    Under TensorFlow, Keras runs an optimizer as dozens of separate passes
    over memory unless the whole model is compiled. One XLA function around
    the update costs less than plain Keras pays, and leaves the model alone.

    Args:
        function: Takes a list of tensors.
        gradients: That list.
        cache: Dict that keeps what was compiled.
        key: What `function` depends on besides its argument.
    """
    if _compiles(gradients):
        import tensorflow as tf

        if key not in cache:
            cache[key] = tf.function(
                function, jit_compile=True, autograph=False
            )
        function = cache[key]
    function(gradients)


def _compiles(gradients):
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled

    return not (
        tf.executing_eagerly()  # run_eagerly=True asks for plain operations
        or tf.distribute.has_strategy()
        # Not every op is supported by XLA with determinism on.
        or is_op_determinism_enabled()
        # Its dense shape would have to be known to the compiler.
        or any(isinstance(g, tf.IndexedSlices) for g in gradients)
    )


def as_dense(gradient):
    """Returns a gradient as a tensor; embeddings have sparse ones."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    return gradient


def wrap_train_step(model, scope, state):
    """Runs every training step of `model` inside `scope(penalties)`.

    Args:
        model: A compiled `keras.Model`. `train_step` is replaced on the
            instance; `unwrap_train_step` undoes it.
        scope: Callable that takes the tensor of known penalties and returns
            a context manager.
        state: The `SIState`. Its `penalty_sum` and `sample_count` are updated
            as Keras updates the logged `loss`: weighted by batch size.
    """
    unwrap_train_step(model)
    original = model.train_step

    @functools.wraps(original)
    def stateful(data):
        size = keras.ops.cast(_batch_size(data), state.penalty_sum.dtype)
        penalties = keras.ops.copy(state.penalties)
        state.penalty_sum.assign_add(size * keras.ops.sum(penalties))
        state.sample_count.assign_add(size)
        with scope(penalties):
            return original(data)

    @functools.wraps(original)
    def stateless(model_state, data):
        # JAX: the optimizer's variables travel in the traced state.
        position = {
            id(variable): index
            for index, variable in enumerate(model.optimizer.variables)
        }
        size = keras.ops.cast(_batch_size(data), state.penalty_sum.dtype)
        penalties = model_state[2][position[id(state.penalties)]]
        with scope(penalties):
            logs, model_state = original(model_state, data)
        optimizer_state = list(model_state[2])
        optimizer_state[position[id(state.penalty_sum)]] += (
            size * penalties.sum()
        )
        optimizer_state[position[id(state.sample_count)]] += size
        return logs, (*model_state[:2], optimizer_state, *model_state[3:])

    wrapper = stateless if keras.backend.backend() == "jax" else stateful
    wrapper.keras_si_original = original
    model.train_step = wrapper
    retrace(model)


def unwrap_train_step(model):
    """Gives `model` back the `train_step` it had, if it was wrapped."""
    original = getattr(model.train_step, "keras_si_original", None)
    if original is None:
        return
    del model.train_step
    if model.train_step != original:
        model.train_step = original
    retrace(model)


def retrace(model):
    """Makes `model` trace its training function anew, if it has one.

    A function that was traced before would never call what is new: SI would
    silently do nothing.
    """
    if model.train_function is not None:
        model.make_train_function(force=True)


def set_optimizer(model, optimizer):
    """Gives `model` an optimizer, without forgetting loss and metrics.

    `model.save` writes the optimizer that was given to `compile`, not
    `model.optimizer`, and Keras has no public way to replace it.
    """
    model.optimizer = optimizer
    model._compile_config.config["optimizer"] = optimizer


def forget_initial_epoch(model):
    """Forgets the epoch at which `BackupAndRestore` made this `fit` begin.

    Keras never does: the next task's `fit` would silently skip epochs.
    """
    model._initial_epoch = None


def build_before_first_step(model, on_built):
    """Builds `model` from the first data that `fit` brings, before a step.

    Under TensorFlow, Keras builds a model only while it traces the first
    step; too late for the callback to attach to its variables.
    """

    def train_function(iterator):
        try:
            spec = iterator.element_spec
            x, _, _ = keras.utils.unpack_x_y_sample_weight(spec)
            model(
                keras.tree.map_structure(
                    lambda leaf: keras.KerasTensor(
                        leaf.shape, dtype=leaf.dtype.name
                    ),
                    x,
                )
            )
        except Exception as error:
            raise ValueError(
                "SICallback could not build the model from the data given to "
                f"`fit`: {error} Build it first: start it with a "
                "`keras.Input`, or call it once on a batch."
            ) from error
        on_built()
        model.make_train_function(force=True)
        return model.train_function(iterator)

    model.train_function = train_function


def _batch_size(data):
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    first = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
    return keras.ops.shape(first)[0]
