"""Names for the types that go through many hands."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import keras

# A tensor of the backend, or what its operations take for one. Keras has no
# type for it, nor for what it logs.
Tensor: TypeAlias = Any
Logs: TypeAlias = dict[str, Any]

# Which variables to track.
Predicate: TypeAlias = Callable[[keras.Variable], bool]
Patterns: TypeAlias = str | Iterable[str] | Predicate

# When a task ends.
Consolidate: TypeAlias = Literal["train_end", "epoch_end"] | int
