"""The points of a search: which settings of which method are tried."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from .errors import OptionError
from .experiments.config import RunConfig, resolve
from .files import Options, Record
from .methods import METHODS


def order(value: float | None) -> float:
    """By which the values of a setting are sorted; having none comes first."""
    return float("-inf") if value is None else value


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of one method; `None` where the method has no such thing."""

    method: str
    strength: float | None
    damping: float | None

    @property
    def options(self) -> dict[str, float]:
        """Its settings by name, without those that it does not have."""
        pairs = (("strength", self.strength), ("damping", self.damping))
        return {name: value for name, value in pairs if value is not None}

    @property
    def name(self) -> str:
        """What it is called in tables."""
        settings = (f"{name} {v:g}" for name, v in self.options.items())
        return " ".join([self.method, *settings])

    @property
    def order(self) -> tuple[float, float]:
        """By which the points of a method are sorted."""
        return order(self.strength), order(self.damping)

    @property
    def file(self) -> str:
        """What its results are called in the folder of the search."""
        # As exact as the number itself.
        settings = (f"{name}={v!r}" for name, v in self.options.items())
        return "-".join([self.method, *settings]) + ".json"

    @property
    def command(self) -> str:
        """The options of `run` that choose it."""
        settings = (f"--{name} {v!r}" for name, v in self.options.items())
        return " ".join([f"--method {self.method}", *settings])


def points(
    benchmark: str,
    preset: str,
    given: Options,
    strengths: Sequence[float | None],
    dampings: Sequence[float | None],
) -> dict[Point, RunConfig]:
    """Returns the points of the grid and the `RunConfig` of each, a dict.

    Args:
        benchmark, preset, given: As `config.resolve` takes them, `given`
            without the two options that are searched over.
        strengths, dampings: The values to try; none for the preset's own.
    """
    for option, values in (("strength", strengths), ("damping", dampings)):
        if len(set(values)) != len(values):
            received = ", ".join(str(value) for value in values)
            raise OptionError(
                f"--{option}", f"received {received}, expected each value once"
            )
    # Refuses what none of the methods has a use for.
    resolve(benchmark, preset, {**given, **_first(strengths, dampings)})
    configs = []
    for method in given["methods"]:
        uses = METHODS[method].uses
        grid = itertools.product(
            strengths or [None] if "strength" in uses else [None],
            dampings or [None] if "damping" in uses else [None],
        )
        for strength, damping in grid:
            chosen = {"strength": strength, "damping": damping}
            configs.append(
                resolve(
                    benchmark,
                    preset,
                    {
                        **given,
                        "methods": (method,),
                        "held_out": True,
                        **chosen,
                    },
                )
            )
    return {point_of(config): config for config in configs}


def point_of(config: RunConfig) -> Point:
    """Returns the `Point` that a `RunConfig` of one method is of."""
    (method,) = config.methods
    uses = METHODS[method].uses
    return Point(
        method,
        config.strength if "strength" in uses else None,
        config.damping if "damping" in uses else None,
    )


def _first(
    strengths: Sequence[float | None], dampings: Sequence[float | None]
) -> Record:
    return {
        "strength": strengths[0] if strengths else None,
        "damping": dampings[0] if dampings else None,
    }


def at_the_edge(best: Point, tried: Iterable[Point]) -> list[str]:
    """Returns the options whose best value has no neighbour on one side.

    Args:
        best: The best `Point`.
        tried: All points.
    """
    edges = []
    for option in ("strength", "damping"):
        values = {
            getattr(point, option)
            for point in tried
            if point.method == best.method
        } - {None}
        if len(values) > 1:
            value = getattr(best, option)
            if value == max(values):
                edges.append(f"{option} {value:g} is the largest tried")
            if value == min(values):
                edges.append(f"{option} {value:g} is the smallest tried")
    return edges
