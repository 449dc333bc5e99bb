"""The command that makes a run again."""

import shlex
from typing import Any

from ..errors import OptionError
from ..experiments.config import RunConfig, resolve
from ..experiments.presets import (
    BENCHMARKS,
    DEFAULTS,
    METHODS_RUN,
    METHODS_TUNED,
)
from ..files import Record
from ..methods import METHODS
from .compare import is_held_out
from .results import Results

# They are named anyway; and where a run is written changes nothing in it.
LEFT_OUT = ("benchmark", "preset", "held_out")


def command(results: Results) -> str | None:
    """Returns the command that makes a run again, or `None`.

    It names the preset, and what differs from it, but no folder. `None` if
    the configuration is not one that this keras-si could run.

    Args:
        results: The `Results` of the run, or of a point of a search.
    """
    try:
        config = RunConfig.from_dict(results.config)
        tuned = is_held_out(results)
        parts = ["keras-si", "tune" if tuned else "run", config.benchmark]
        parts += ["--preset", config.preset]
        defaults = _defaults(config, METHODS_TUNED if tuned else METHODS_RUN)
    except (OptionError, AttributeError, TypeError, ValueError):
        return None  # Anything may be in the configuration.
    for name, value in config.to_dict().items():
        if name not in LEFT_OUT and value != defaults[name]:
            if not _means_nothing(name, config):
                parts += _option(name, value)
    return shlex.join(parts)


def _defaults(config: RunConfig, methods: tuple[str, ...]) -> Record:
    """Returns what each option is if it is not given."""
    benchmark = BENCHMARKS[config.benchmark]
    chosen = resolve(
        config.benchmark,
        config.preset,
        {
            **DEFAULTS,
            "methods": methods,
            # Other values follow from these.
            "scenario": config.scenario,
            "dataset": config.dataset,
        },
    )
    return {
        **chosen.to_dict(),
        "scenario": benchmark.scenarios[0],
        "dataset": benchmark.dataset,
    }


def _means_nothing(name: str, config: RunConfig) -> bool:
    """Whether an option would be refused: none of the methods has it."""
    users = [m for m in METHODS if name in METHODS[m].uses]
    return bool(users) and not {*users} & {*config.methods}


def _option(name: str, value: Any) -> list[str]:
    option = "--" + name.replace("_", "-")
    if value is None:
        return []  # The other one of --epochs and --steps is given.
    if name == "methods":
        return [part for method in value for part in ("--method", method)]
    if name == "reset_optimizer" and not value:
        return ["--keep-optimizer"]
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if isinstance(value, tuple):
        return [option, ",".join(map(str, value))]
    return [option, str(value)]
