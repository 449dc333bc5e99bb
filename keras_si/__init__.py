"""Synaptic Intelligence for Keras 3: learn task after task, forget less.

The files in reading order: `equations`, `regularizer`, `variables`, `state`,
`diagnostics`, `links`, `saving`, `wrapper`, `optimizer`, `attach`, `fit_hooks`,
`task_ends`, `callback`. Beside them are `estimation` (with `curvature` and
`gradients`), `masking` and `metrics`; and, used by all, `arguments`, `backend`
and `replicas`.
"""

from keras_si import metrics
from keras_si.callback import SICallback
from keras_si.estimation import fisher_importance
from keras_si.masking import OutputMask
from keras_si.regularizer import SIRegularizer

__all__ = [
    "OutputMask",
    "SICallback",
    "SIRegularizer",
    "fisher_importance",
    "metrics",
]
__version__ = "0.1.0"
