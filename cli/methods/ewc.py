"""Elastic weight consolidation (EWC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .method import Learned
from .penalty import Penalty

if TYPE_CHECKING:
    import keras
    import numpy as np

SAMPLES = 1000


class ElasticWeightConsolidation(Penalty):
    """Online EWC: one penalty, with the Fisher information as importance.

    After each task the Fisher information F of 1,000 of its training images
    is added to the sum of the earlier tasks, and the penalty is centred at the
    current weights (online EWC with gamma = 1). F is the diagonal of the true
    Fisher information, from single samples. `keras_si.fisher_importance` gives
    F/2, so the penalty `c * sum(F/2 * (theta - theta~)^2)` is EWC's
    `lambda/2 * sum(F * (theta - theta~)^2)`: `--strength` is lambda. Codes that
    compute F in another way need another lambda, by factors of up to a million.
    """

    label = "online EWC"
    summary = (
        "SI's penalty with Fisher information as importance; --strength is "
        "lambda"
    )
    source = (
        "Kirkpatrick et al. 2017; one penalty for all tasks as in Huszar 2018 "
        "and in Schwarz et al. 2018, section 4, with gamma = 1; F of 1,000 "
        "images of each task"
    )

    def __init__(self, strength: float, damping: float) -> None:
        super().__init__(strength, damping)
        self._paths: list[str] = []

    def attach(self, model: keras.Model) -> None:
        super().attach(model)
        self._paths = [weights.path for weights in model.trainable_variables]

    def importance(self) -> dict[str, np.ndarray]:
        import keras

        values = map(keras.ops.convert_to_numpy, self._importances)
        return dict(zip(self._paths, values, strict=True))

    def _measure(self, model: keras.Model, learned: Learned) -> Sequence[Any]:
        from keras_si import fisher_importance

        of_task = fisher_importance(
            model,
            learned.sample(SAMPLES),
            samples=SAMPLES,
            # Other random signs for each task and for each seed.
            seed=learned.seed + learned.index,
            verbose=0,
        )
        return [so_far + of_task[p] for p, so_far in self.importance().items()]
