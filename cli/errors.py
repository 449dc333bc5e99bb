"""The ways in which a command ends early, each told in one line."""


class OptionError(ValueError):
    """An option holds what it cannot hold: a usage error."""

    exit_code = 2

    def __init__(self, option: str, problem: str) -> None:
        # Both as arguments, so that it can travel from process to process.
        super().__init__(option, problem)

    def __str__(self) -> str:
        option, problem = self.args
        return f"{option}: {problem}"


class RunError(RuntimeError):
    """The options are fine and the work failed."""

    exit_code = 1


class Interrupted(RunError):
    """The user has pressed Ctrl-C: 128 and the signal's number, as shells."""

    exit_code = 130


def counted(count: int, noun: str) -> str:
    """Returns `1 core` or `2 cores`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
