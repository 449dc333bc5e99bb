"""The plain Keras net of each benchmark; nothing in it knows of SI."""

import keras

from .pixels import ToFeatures


def dense_net(num_features, hidden, num_classes, from_bytes=False):
    """Returns a net of dense ReLU layers, and a dense layer of logits.

    With `from_bytes` it begins with a `ToFeatures` layer.
    """
    if from_bytes:
        first = [keras.Input((num_features,), dtype="uint8"), ToFeatures()]
    else:
        first = [keras.Input((num_features,), name="pixels")]
    return keras.Sequential(
        [
            *first,
            *(
                keras.layers.Dense(units, activation="relu", name=f"hidden_{i}")
                for i, units in enumerate(hidden)
            ),
            # Logits in float32: under mixed precision the softmax of the
            # loss would otherwise be taken of half-precision numbers.
            keras.layers.Dense(num_classes, dtype="float32", name="logits"),
        ],
        name="dense_net",
    )


def compile_classifier(model, config):
    """Compiles with Adam, whose state is kept from task to task."""
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=config.jit,
    )
    return model
