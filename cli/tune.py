"""Searches over strength and damping, judged on held-out training data."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from . import engines, files
from . import grid as grid_module
from .errors import OptionError, RunError
from .experiments.config import RunConfig
from .files import Path, Record
from .grid import Point
from .results.compare import HELD_OUT
from .training import start
from .training.lock import LOCK

if TYPE_CHECKING:
    from .experiments.data import Data
    from .results.results import Results, Spread

SEARCH = "search.json"
POINTS = "points"
# 1 had one best setting for all methods.
SCHEMA = 2
# What a search goes over, and what does not change what a point brings.
NOT_PROTOCOL = (
    "methods",
    "strength",
    "damping",
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
        # What is finished, and what was found damaged.
        self.done: dict[Point, Results] = {}
        self.problems: list[str] = []
        self.goes_on = (self.folder / SEARCH).is_file()
        if self.goes_on:
            self._check_protocol()
            self._read_points()
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

    def _read_points(self) -> None:
        """Reads what is finished, also what is not in the grid of now."""
        paths = sorted((self.folder / POINTS).glob("*.json"))
        if paths:
            # To read results is to import Keras.
            start.import_quietly()
        for path in paths:
            try:
                results = _read(path)
                config = RunConfig.from_dict(results.config)
                point = grid_module.point_of(config)
            except RunError as error:
                self.problems.append(f"{error}; it is left out")
            except (OptionError, ValueError, TypeError, AttributeError):
                self.problems.append(
                    f"{path} is not the record of a point; it is left out"
                )
            else:
                if all(run.is_over for run in results.trials):
                    self.done[point] = results

    @property
    def points(self) -> list[Point]:
        """All that is to be done or was, in order."""
        methods = list(
            dict.fromkeys(point.method for point in (*self.grid, *self.done))
        )
        return sorted(
            {*self.grid, *self.done},
            key=lambda point: (methods.index(point.method), *point.order),
        )

    def todo(self) -> list[Point]:
        """Returns the points of the grid that are not finished."""
        return [point for point in self.grid if point not in self.done]

    def run(
        self,
        jobs: int = 1,
        finished: Callable[[Point, Results], None] = lambda *_: None,
    ) -> None:
        """Runs what is not finished.

        Args:
            jobs: How many points share a machine.
            finished: Called with each point and its `Results`.

        Raises:
            OptionError: If the data are not those of what is finished.
        """
        points = self.todo()
        configs = [self.grid[point] for point in points]
        function = functools.partial(held_out, checksum=self._checksum())
        for position, record in _engine(jobs)(function, configs):
            _check_data(record["versions"].get("data"), self._checksum())
            # Not before: what fails at once leaves an empty folder.
            if not (self.folder / SEARCH).is_file():
                # Without it the points are no search that could go on.
                self.write()
            (self.folder / POINTS).mkdir(exist_ok=True)
            point = points[position]
            path = self.folder / POINTS / point.file
            files.write_json(path, record)
            self.done[point] = _read(path)
            self.write()
            finished(point, self.done[point])
        if not points:
            # The last one may not have got into the record.
            self.write()

    def _checksum(self) -> str | None:
        """Returns that of the data of what is finished, if it is known."""
        for results in self.done.values():
            if "data" in results.versions:
                return str(results.versions["data"])
        return None

    def best(self, method: str) -> Point | None:
        """Returns a method's point with the highest mean accuracy, or `None`.

        One with a seed that failed does not count.
        """
        means = {
            point: spread["mean"]
            for point in self.points
            if point.method == method
            and (spread := self.accuracy(point)) is not None
            and spread["n"] == len(self.done[point].trials)
        }
        return max(means, key=lambda point: means[point]) if means else None

    @property
    def bests(self) -> list[Point]:
        """The best point of each method that has one."""
        methods = dict.fromkeys(point.method for point in self.points)
        bests = (self.best(method) for method in methods)
        return [best for best in bests if best is not None]

    def accuracy(self, point: Point) -> Spread | None:
        """Returns mean and spread of a point's accuracy, or `None`."""
        if point not in self.done:
            return None
        return self.done[point].spread(point.method, "final_average_accuracy")

    def write(self) -> None:
        """Writes the record of the search."""
        files.write_json(
            self.folder / SEARCH,
            {
                "schema": SCHEMA,
                "judged_on": HELD_OUT,
                "protocol": self.protocol,
                "points": [
                    {
                        **_record(point),
                        "final_average_accuracy": self.accuracy(point),
                    }
                    for point in self.points
                ],
                "best": [_record(point) for point in self.bests],
            },
        )


def _record(point: Point) -> Record:
    return {"method": point.method, **point.options}


def _read(path: pathlib.Path) -> Results:
    from .results.results import Results

    return Results.load(path)


def _check_data(found: str | None, known: str | None) -> None:
    if None not in (found, known) and found != known:
        raise OptionError(
            "--data-dir",
            "the images or labels found are not those that the search was "
            "begun with: their checksums differ. Go on with the same data, or "
            "name another folder with --output",
        )


def _engine(jobs: int) -> Callable[..., Iterator[tuple[int, Record]]]:
    if jobs > 1:
        return functools.partial(engines.processes, jobs=jobs)
    return engines.here


def held_out(config: RunConfig, checksum: str | None = None) -> Record:
    """Runs a configuration on training data alone; returns its record.

    It is trained on the first five sixths and judged on the rest: the test
    set is not looked at.

    Args:
        config: A `RunConfig`.
        checksum: That of the data which earlier points were run on.

    Raises:
        OptionError: If the data are others.
    """
    from .training import runner

    dataset = _held_out_data(config.datasets, config.data_dir)
    _check_data(dataset.checksum, checksum)
    return runner.run(config, dataset=dataset).to_dict()


@functools.cache
def _held_out_data(names: tuple[str, ...], data_dir: Path | None) -> Data:
    from .experiments import data

    return data.load_all(names, data_dir, held_out=True)
