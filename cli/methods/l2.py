"""The penalty of SI with all importances 1: what importance is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .method import PAPER, Learned
from .penalty import Penalty

if TYPE_CHECKING:
    import keras


class L2(Penalty):
    """Keeps every weight near its value at the last task's end, alike.

    The penalty is `c * sum((theta - theta~)^2)`: SI's with every importance 1.
    It has another scale than SI's, so it needs a `--strength` of its own.
    """

    label = "L2 to the last task's weights"
    summary = "SI's penalty with all importances 1; needs its own --strength"
    source = f"the control of Kirkpatrick et al. 2017; penalty of {PAPER}"

    def _measure(self, model: keras.Model, learned: Learned) -> Sequence[Any]:
        import keras

        return [keras.ops.ones(each.shape) for each in self._importances]
