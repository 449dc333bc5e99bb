"""The ways in which a command ends early, each in one line."""

import click


class OptionError(click.ClickException):
    """An option has a value that it cannot have."""

    exit_code = 2

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")


class RunError(click.ClickException):
    """The options are right and the work failed."""

    exit_code = 1


class Interrupted(RunError):
    """The user has pressed Ctrl-C: 128 and the signal's number, as shells."""

    exit_code = 130


def counted(count: int, noun: str) -> str:
    """Returns `1 core` or `2 cores`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
