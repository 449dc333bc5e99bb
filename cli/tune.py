"""Searches over strength and damping, judged on held-out training data."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from . import engines, files
from .errors import OptionError, RunError
from .grid import Point
from .lock import LOCK
from .types import Path, Record, Spread

if TYPE_CHECKING:
    from .config import RunConfig
    from .data import Data
    from .results import Results

SEARCH = "search.json"
POINTS = "points"
SCHEMA = 1
# What a search goes over, and what does not change what a point brings.
NOT_PROTOCOL = (
    "methods",
    "strength",
    "damping",
    "output",
    "data_dir",
    "preset",
)


class Search:
    """A search in its folder: what is done is not done again.

    Args:
        folder: Where it is, or will be.
        grid: The points and the `RunConfig` of each, as `grid.points` makes
            them.

    Raises:
        OptionError: If the folder holds something else.
    """

    def __init__(self, folder: Path, grid: Mapping[Point, RunConfig]) -> None:
        self.folder = pathlib.Path(folder)
        self.grid = grid
        config = next(iter(grid.values()))
        self.protocol = files.as_json(
            {
                name: value
                for name, value in config.to_dict().items()
                if name not in NOT_PROTOCOL
            }
        )
        self.goes_on = (self.folder / SEARCH).is_file()
        if self.goes_on:
            self._check_protocol()
        elif self.folder.is_dir() and any(
            entry.name != LOCK for entry in self.folder.iterdir()
        ):
            raise OptionError(
                "--output",
                f"{folder} is not empty and holds no search; name another "
                "folder",
            )

    def _check_protocol(self) -> None:
        path = self.folder / SEARCH
        fields = dataclasses.fields(next(iter(self.grid.values())))
        defaults = {
            field.name: field.default
            for field in fields
            if field.default is not dataclasses.MISSING
        }
        try:
            found = files.read_json(path)["protocol"]
            # Options that there were not yet had their defaults.
            found = {**defaults, **found}
            different = sorted(
                name
                for name in {*found, *self.protocol}
                if found.get(name) != self.protocol.get(name)
            )
        except (OSError, RunError, TypeError, KeyError, AttributeError):
            raise OptionError(
                "--output",
                f"{path} is not the record of a search; name another folder",
            ) from None
        if different:
            told = "; ".join(
                f"{name} {found.get(name)}, now {self.protocol.get(name)}"
                for name in different
            )
            raise OptionError(
                "--output",
                f"{self.folder} holds a search with another protocol ({told})"
                "; name another folder",
            )

    def todo(self) -> list[Point]:
        """Returns the points that are not finished."""
        return [point for point in self.grid if self.results(point) is None]

    def results(self, point: Point) -> Results | None:
        """Returns the `Results` of a point that is finished, or `None`."""
        from . import reading

        path = self.folder / POINTS / point.file
        if not path.is_file():
            return None
        results = reading.read(path)
        return results if all(run.is_over for run in results.runs) else None

    def run(
        self,
        engine: str = "local",
        jobs: int = 1,
        finished: Callable[[Point, Results], None] = lambda *_: None,
    ) -> None:
        """Runs what is not finished.

        Args:
            engine: A name in `engines.ENGINES`.
            jobs: How many points share a machine.
            finished: Called with each point and its `Results`.
        """
        points = self.todo()
        configs = [self.grid[point] for point in points]
        for position, record in _engine(engine, jobs)(held_out, configs):
            # Not before: what fails at once leaves an empty folder.
            (self.folder / POINTS).mkdir(exist_ok=True)
            point = points[position]
            files.write_json(self.folder / POINTS / point.file, record)
            self.write()
            results = self.results(point)
            if results is not None:
                finished(point, results)

    def best(self) -> Point | None:
        """Returns the point with the highest mean accuracy, or `None`.

        One with a seed that failed does not count.
        """
        done = {
            point: spread["mean"]
            for point in self.grid
            if (spread := self.accuracy(point))
            and spread["n"] == self.grid[point].seeds
        }
        return max(done, key=lambda point: done[point]) if done else None

    def accuracy(self, point: Point) -> Spread | None:
        """Returns mean and spread of a point's accuracy, or `None`."""
        results = self.results(point)
        if results is None:
            return None
        return results.spread(point.method, "final_average_accuracy")

    def write(self) -> None:
        """Writes the record of the search."""
        best = self.best()
        files.write_json(
            self.folder / SEARCH,
            {
                "schema": SCHEMA,
                "judged_on": "the last sixth of the training data, held out",
                "protocol": self.protocol,
                "points": [
                    {
                        "method": point.method,
                        **point.options,
                        "final_average_accuracy": self.accuracy(point),
                    }
                    for point in self.grid
                ],
                "best": {"method": best.method, **best.options}
                if best
                else None,
            },
        )


def _engine(
    name: str, jobs: int
) -> Callable[..., Iterator[tuple[int, Record]]]:
    if name == "ray":
        return functools.partial(engines.ray, jobs=jobs)
    if jobs > 1:
        return functools.partial(engines.processes, jobs=jobs)
    return engines.here


def held_out(config: RunConfig) -> Record:
    """Runs a configuration on training data alone; returns its record.

    It is trained on the first five sixths and judged on the rest: the test
    set is not looked at.
    """
    from . import runner

    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, output=folder)
        dataset = _held_out_data(config.datasets, config.data_dir)
        # A point that was interrupted is run again, in another folder.
        results = runner.run(config, dataset=dataset, resumable=False)
        record = results.to_dict()
    # The folder was nobody's, and is gone.
    record["config"]["output"] = ""
    return record


@functools.cache
def _held_out_data(names: tuple[str, ...], data_dir: Path | None) -> Data:
    from . import data

    return data.load_all(names, data_dir, held_out=True)
