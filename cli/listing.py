"""What there is to run: benchmarks, presets and methods, with sources."""

from typing import Any

from rich.console import Console
from rich.padding import Padding

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
            _indented(console, _options(preset, benchmark.scenarios), 4)
            _indented(console, f"source: {preset.source}", 4)
    console.print("\nscenarios")
    for name, meaning in SCENARIOS.items():
        console.print(f"  [bold]{name}[/]  {meaning}")
    console.print("\nmethods")
    for name, method in METHODS.items():
        console.print(f"  [bold]{name}[/]  {method.summary}")
        _indented(console, f"source: {method.source}", 4)


def _options(preset: Preset, scenarios: tuple[str, ...]) -> str:
    by_scenario = {name: preset.options(name) for name in scenarios}
    words = []
    for name, value in preset.options(scenarios[0]).items():
        values = {s: options[name] for s, options in by_scenario.items()}
        if len(set(values.values())) == 1:
            words.append(_option(name, value))
        else:
            words += [f"{_option(name, v)} ({s})" for s, v in values.items()]
    return " ".join(filter(None, words))


def _option(name: str, value: Any) -> str:
    if value is None or (name == "padding" and value == 0):
        return ""
    if name == "reset_optimizer":
        return "--reset-optimizer" if value else "--keep-optimizer"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, float):
        value = f"{value:g}"
    return f"--{name.replace('_', '-')} {value}"


def _indented(console: Console, text: str, left: int) -> None:
    console.print(Padding(text, (0, 0, 0, left), expand=False))
