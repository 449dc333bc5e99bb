"""The variables of SI's state: the optimizer creates them, Keras saves them."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_si import backend
from keras_si.equations import Tensor


def add_variable(
    optimizer: keras.optimizers.Optimizer,
    name: str,
    dtype: str,
    shape: tuple[int, ...] = (),
    value: float = 0,
) -> keras.Variable:
    """Adds a small variable, the same on every replica."""
    return optimizer.add_variable(
        shape=shape,
        initializer=keras.initializers.Constant(value),
        dtype=dtype,
        aggregation="only_first_replica",
        name=name,
    )


def add_arrays(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    name: str,
    copied: bool = False,
) -> list[keras.Variable]:
    """Adds an array for each variable, with its value or with zeros."""
    arrays = []
    for variable in variables:
        dtype = variable.dtype
        if dtype not in ("float32", "float64"):
            dtype = "float32"  # bfloat16 cannot add up small steps
        array = optimizer.add_variable(
            shape=variable.shape,
            initializer=_CopyOf(variable) if copied else "zeros",
            dtype=dtype,
            layout=backend.layout_of(variable),
            name=f"{variable.path.replace('/', '_')}_{name}",
        )
        arrays.append(array)
    return arrays


def copy(x: Tensor) -> Tensor:
    # Adding zero makes a new buffer: a plain read may share the variable's.
    return x + ops.zeros((), x.dtype)


class _CopyOf(keras.initializers.Initializer):
    """Initializes a variable with the present value of another one."""

    def __init__(self, variable: keras.Variable) -> None:
        self.variable = variable

    def __call__(self, shape: Any, dtype: str | None = None) -> Tensor:
        return ops.cast(copy(self.variable), dtype)
