"""Synaptic Intelligence for Keras 3: learn task after task, forget less."""

__version__ = "0.1.0"
