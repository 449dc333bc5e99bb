"""Fine-tuning: the lower bound."""

from .method import PAPER, Method


class Naive(Method):
    """Plain training on one task after another."""

    label = "plain training"
    summary = "plain training, task after task: the lower bound"
    source = f"the baseline of {PAPER}, section 4"
