"""Sentences about numbers."""


def counted(count: int, noun: str) -> str:
    """Returns `1 core` or `2 cores`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
