"""What there is to run: benchmarks, presets and methods, with sources."""

import dataclasses
import textwrap

from rich.console import Console

from .experiments.config import text
from .experiments.presets import BENCHMARKS, SCENARIOS, Preset
from .methods import METHODS


def show() -> None:
    """Prints the lists, wrapped to the terminal."""
    console = Console(highlight=False)
    for name, benchmark in BENCHMARKS.items():
        console.print(f"[bold]{name}[/]  {benchmark.title}")
        _indented(console, f"source: {benchmark.source}", 2)
        for preset_name, preset in benchmark.presets.items():
            console.print(f"  preset [bold]{preset_name}[/]")
            _indented(console, _options(preset), 4)
            _indented(console, f"source: {preset.source}", 4)
    console.print("\nscenarios")
    for name, meaning in SCENARIOS.items():
        console.print(f"  [bold]{name}[/]  {meaning}")
    console.print("\nmethods")
    for name, method in METHODS.items():
        console.print(f"  [bold]{name}[/]  {method.summary}")
        _indented(console, f"source: {method.source}", 4)


def _options(preset: Preset) -> str:
    """Returns a preset as options of `run`."""
    words = []
    for name, value in dataclasses.asdict(preset).items():
        if name == "reset_optimizer":
            words.append("--reset-optimizer" if value else "--keep-optimizer")
        elif name != "source" and value:
            option = f"--{name.replace('_', '-')}"
            each = value if isinstance(value, dict) else {"": value}
            for scenario, item in each.items():
                words += [option, text(item)]
                words += [f"({scenario})"] if scenario else []
    return " ".join(words)


def _indented(console: Console, text: str, left: int) -> None:
    indent = left * " "
    console.out(
        textwrap.fill(
            text,
            console.width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    )
