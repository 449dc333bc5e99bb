"""The two ways in which a command ends early, each told in one line."""


class OptionError(ValueError):
    """An option holds what it cannot hold: a usage error, exit code 2."""

    def __init__(self, option, problem):
        # Both as arguments, so that it can travel from process to process.
        super().__init__(option, problem)

    def __str__(self):
        option, problem = self.args
        return f"{option}: {problem}"


class RunError(RuntimeError):
    """The options are fine and the work failed: exit code 1."""
