"""What a user's type checker must know of keras_si, and must not let through.

mypy checks it against the installed package, with `--strict`: a line that it
is to refuse has a `type: ignore`, and one that it does not need is an error.
"""

import numpy as np

import keras_si
from keras_si import OutputMask, SICallback, metrics

si = SICallback(strength=0.1, damping=0.1, consolidate=100, include="kernel")
SICallback(consolidate="epoch_end", exclude=["bias", "gamma"])
SICallback(include=lambda variable: "dense" in variable.path)
SICallback(strength="much")  # type: ignore[arg-type]
SICallback(consolidate="train")  # type: ignore[arg-type]
SICallback(lambda_=0.1)  # type: ignore[call-arg]

importance: dict[str, np.ndarray] = si.get_importance()
strength: float = si.strength
si.strength = 0.2
si.damping = 0.2  # type: ignore[misc]
name: str = si.get_reference()  # type: ignore[assignment]

average: float = metrics.average_accuracy([[0.9, np.nan], [0.5, 0.7]])
metrics.average_accuracy(None)  # type: ignore[arg-type]
active: list[int] = OutputMask().active
OutputMask().set_active(2)  # type: ignore[arg-type]
version: str = keras_si.__version__
