"""What there is to run: benchmarks, presets and methods, with sources."""

from typing import Any

from rich.console import Console
from rich.padding import Padding

from .experiments.presets import BENCHMARKS, SCENARIOS
from .files import Options
from .methods import METHODS


def show() -> None:
    """Prints the lists, wrapped to the terminal."""
    console = Console(highlight=False)
    for name, benchmark in BENCHMARKS.items():
        console.print(f"[bold]{name}[/]  {benchmark.title}")
        _indented(console, f"source: {benchmark.source}", 2)
        for preset_name, preset in benchmark.presets.items():
            console.print(f"  preset [bold]{preset_name}[/]")
            _indented(console, _options(preset.values), 4)
            for scenario, values in preset.by_scenario.items():
                _indented(
                    console, f"--scenario {scenario}: {_options(values)}", 4
                )
            _indented(console, f"source: {preset.source}", 4)
    console.print("\nscenarios")
    for name, meaning in SCENARIOS.items():
        console.print(f"  [bold]{name}[/]  {meaning}")
    console.print("\nmethods")
    for name, method in METHODS.items():
        console.print(f"  [bold]{name}[/]  {method.summary}")
        _indented(console, f"source: {method.source}", 4)


def _options(values: Options) -> str:
    return " ".join(_option(name, value) for name, value in values.items())


def _option(name: str, value: Any) -> str:
    if name == "reset_optimizer":
        return "--reset-optimizer" if value else "--keep-optimizer"
    return f"--{name.replace('_', '-')} {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _indented(console: Console, text: str, left: int) -> None:
    console.print(Padding(text, (0, 0, 0, left), expand=False))
