"""What `--help` says below the options: examples, files and exit codes."""

import click


class Command(click.Command):
    """A command whose epilog is shown as it is written here."""

    def format_epilog(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        if self.epilog:
            formatter.write(f"\n{self.epilog.strip()}\n")


class Group(Command, click.Group):
    """A group of such commands."""

    command_class = Command


EXIT_CODES = """
Exit codes:
  0    All is done.
  1    The work failed, or a method diverged; what was finished is kept.
  2    An option or an argument is not right; nothing was started.
  130  Ctrl-C.
"""

MAIN = f"""
Examples:
  Permuted MNIST, SI beside naive training, in minutes:
    keras-si run pmnist
  The same as in the paper, in hours:
    keras-si run pmnist --preset paper
  What there is to run, with the options of each preset:
    keras-si list
  Several runs side by side:
    keras-si report runs/pmnist-*
  The options of a command:
    keras-si run pmnist --help

Tab completion in bash, and with zsh_source in zsh:
  eval "$(_KERAS_SI_COMPLETE=bash_source keras-si)"
{EXIT_CODES}"""

RUN_GROUP = """
Examples:
  keras-si run pmnist
  keras-si run smnist --scenario domain
  keras-si run scifar --dataset cifar10

`keras-si run pmnist --help` shows the options.
"""

TUNE_GROUP = """
Examples:
  keras-si tune pmnist --strength 0.1 1 10
  keras-si tune smnist --strength 0.1 1 10 --damping 0.001 0.01 --jobs 2

`keras-si tune pmnist --help` shows the options.
"""

RUN_FILES = """
Files, in the folder of --output:
  config.json              Every option, as it was used.
  results.json             Every accuracy after every task, and the summary.
  average_accuracy.*       The figure, .png and .svg.
  accuracy_per_task.*      A small figure for each task, .png and .svg.
  checkpoint-*             Where the run stands, until it is over.
"""

RUN_EXAMPLES = {
    "pmnist": """
Examples:
  SI beside naive training, in minutes:
    keras-si run pmnist
  The paper's protocol, with three seeds:
    keras-si run pmnist --preset paper --seeds 3 --output paper
  A quick look: two tasks, a small net:
    keras-si run pmnist --tasks 2 --hidden 100
  SI between its bounds:
    keras-si run pmnist --method naive --method si --method joint
  Other images, which TFDS downloads:
    keras-si run pmnist --dataset fashion_mnist
""",
    "smnist": """
Examples:
  Five pairs of digits; which pair it is, is known:
    keras-si run smnist
  One pair of outputs for all tasks:
    keras-si run smnist --scenario domain --preset vandeven
  What importance is worth, beside a penalty on all weights alike:
    keras-si run smnist --method si --output with-si
    keras-si run smnist --method l2 --strength 1 --output with-l2
""",
    "scifar": """
Examples:
  CIFAR-10, then five tasks of CIFAR-100; TFDS downloads both:
    keras-si run scifar
  CIFAR-10 alone, in five pairs, beside a new net for each task:
    keras-si run scifar --dataset cifar10 --method si --method scratch
  The paper's protocol, in half precision on a GPU:
    keras-si run scifar --preset paper --precision mixed_float16
""",
}

TUNE_FILES = """
Files, in the folder of --output:
  search.json              The grid, each accuracy, and the best setting.
  points/                  The results of each setting.
  heat_map.*               Accuracy over strength and damping, .png and .svg.
"""
TUNE_EXIT_CODES = EXIT_CODES.replace(
    "a method diverged", "no setting was finished"
)


def run(benchmark: str) -> str:
    """Returns the epilog of `keras-si run BENCHMARK`."""
    return RUN_EXAMPLES[benchmark] + RUN_FILES + EXIT_CODES


def tune(benchmark: str) -> str:
    """Returns the epilog of `keras-si tune BENCHMARK`."""
    return f"""
Examples:
  Three strengths with two dampings, two settings at once:
    keras-si tune {benchmark} --strength 0.1 1 10 --damping 0.001 0.1 --jobs 2
  More values, beside those of before:
    keras-si tune {benchmark} --strength 0.1 1 --output search
    keras-si tune {benchmark} --strength 10 100 --output search
{TUNE_FILES}{TUNE_EXIT_CODES}"""


RESUME = f"""
Example:
  keras-si resume runs/pmnist-20250131-120000
{EXIT_CODES}"""

REPORT = f"""
Examples:
  keras-si report runs/pmnist-*
  keras-si report with-si with-l2 --output comparison.png
  keras-si report runs/pmnist-* --html report.html
{EXIT_CODES}"""

LIST = """
Example:
  keras-si list
"""
