"""Which outputs of a net take part: for nets with a head for each task."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_si.equations import Tensor

# So far below any logit that the exponential of the difference is 0.
_FAR_BELOW = {"float16": -3e4}
_FAR_BELOW_ELSE = -1e9


@keras.saving.register_keras_serializable(package="keras_si")
class OutputMask(keras.layers.Layer):
    """Lets only the active outputs take part in the softmax.

    Put it after the layer of logits. The logits of outputs that are not
    active become so small that the softmax gives them exactly 0, and no
    gradient reaches them: exactly 0 too. All else passes unchanged, in the
    shape of the inputs. With a pair of outputs for each task and only the
    current pair active, this is the masked softmax of Zenke, Poole & Ganguli,
    "Continual Learning Through Synaptic Intelligence", ICML 2017, section 4.1.

    Which outputs are active is a variable, `(units,)`, that is not trained:
    `set_active` changes it between fits without a new trace, and it is saved
    with the model. At first all are active.

    The labels to be learned must be active outputs: the loss of any other is
    huge, and its gradient without meaning.

    Args:
        **kwargs: Those of `keras.layers.Layer`. Under mixed precision, give
            `dtype="float32"` here and to the layer of logits.

    Call arguments:
        inputs: Logits, shape `(..., units)`.
        active: Which outputs take part, instead of the choice of `set_active`:
            anything that broadcasts with `inputs`, true where active. For
            batches that mix several tasks: shape `(batch, units)`. Defaults to
            `None`.

    Raises:
        ValueError: If `set_active` gets indices that are not outputs of the
            layer, or comes before it is built.

    Examples:
        >>> mask = OutputMask()
        >>> mask.build((None, 4))
        >>> mask.set_active([2, 3])
        >>> logits = keras.ops.array([[5.0, 5.0, 0.0, 0.0]])
        >>> keras.ops.convert_to_numpy(keras.ops.softmax(mask(logits))).tolist()
        [[0.0, 0.0, 0.5, 0.5]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._active = self.add_weight(
            name="active",
            shape=(input_shape[-1],),
            dtype="bool",
            initializer="ones",
            trainable=False,
        )

    def call(self, inputs: Tensor, active: Tensor | None = None) -> Tensor:
        if active is None:
            active = self._active
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        return ops.where(
            ops.cast(active, "bool"),
            inputs,
            ops.cast(_FAR_BELOW.get(dtype, _FAR_BELOW_ELSE), dtype),
        )

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return input_shape

    @property
    def active(self) -> list[int]:
        """The active outputs, as a list of ints in order.

        Raises:
            ValueError: If the layer is not built.
        """
        return np.flatnonzero(ops.convert_to_numpy(self._built())).tolist()

    def set_active(self, outputs: Iterable[int]) -> None:
        """Makes these outputs the active ones, and no others.

        Args:
            outputs: Indices of outputs, from 0 to `units - 1`; at least one.

        Raises:
            ValueError: If they are none of that, or the layer is not built.
        """
        units = self._built().shape[0]
        indices = np.asarray(list(outputs))
        if (
            indices.size == 0
            or indices.ndim != 1
            or indices.dtype.kind not in "iu"
            or indices.min() < 0
            or indices.max() >= units
        ):
            raise ValueError(
                "`outputs` must hold at least one index, each a whole number "
                f"from 0 to {units - 1}. Received: {list(outputs)}."
            )
        active = np.zeros(units, "bool")
        active[indices] = True
        self._active.assign(active)

    def _built(self) -> keras.Variable:
        if not self.built:
            raise ValueError(
                f"The OutputMask '{self.name}' does not know how many outputs "
                "there are. Build the model first: start it with a "
                "`keras.Input`, or call it once on a batch."
            )
        return self._active
