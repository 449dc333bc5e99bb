"""Where the points of a search are run: here, in processes, or by Ray.

An engine takes a function and its arguments, and yields pairs of a position
and what the function returned, in the order they are finished.
"""

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from .errors import OptionError, RunError
from .startup import import_quietly

A = TypeVar("A")
B = TypeVar("B")

ENGINES = ("local", "ray")


def here(
    function: Callable[[A], B], arguments: Iterable[A]
) -> Iterator[tuple[int, B]]:
    """One after the other, in this process."""
    for position, argument in enumerate(arguments):
        yield position, function(argument)


def processes(
    function: Callable[[A], B],
    arguments: Sequence[A],
    jobs: int,
    start: Callable[[int], None] = import_quietly,
) -> Iterator[tuple[int, B]]:
    """Several at once, each in a process of its own with a share of the cores.

    Args:
        function: Importable by its name.
        arguments: A list.
        jobs: How many at once.
        start: Called in each process first, with the number of its threads.
    """
    executor = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(arguments)),
        # A fork of a process in which TensorFlow has started would hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(start, cores_each(jobs)),
    )
    try:
        futures = {
            executor.submit(function, argument): position
            for position, argument in enumerate(arguments)
        }
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RunError(
            "a process of the search ended before its time, perhaps for want "
            "of memory; what is finished is kept: go on with fewer --jobs"
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _start_process(start: Callable[[int], None], threads: int) -> None:
    # A Ctrl-C reaches every process; the first one tells of it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    start(threads)


def ray(
    function: Callable[[A], B], arguments: Iterable[A], jobs: int
) -> Iterator[tuple[int, B]]:
    """On the Ray cluster of the environment variable `RAY_ADDRESS`.

    Each point takes as many cores as `jobs` leaves it of a machine like this
    one.
    """
    library = _import_ray()
    cores = cores_each(jobs)
    library.init(logging_level="ERROR", log_to_driver=False)
    try:
        remote = library.remote(num_cpus=cores)(_started)
        waiting = {
            remote.remote(function, argument, cores): position
            for position, argument in enumerate(arguments)
        }
        while waiting:
            (done,), _ = library.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), library.get(done)
    except library.exceptions.RayTaskError as error:
        # What was raised there, without the traceback from over there.
        raise error.cause from None
    finally:
        library.shutdown()


def _started(function: Callable[[A], B], argument: A, threads: int) -> B:
    import_quietly(threads)
    return function(argument)


def _import_ray() -> Any:
    # Asked for by nobody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise OptionError(
            "--engine",
            "Ray is not installed; install it with pip install "
            "'keras-si[ray]', or leave out --engine ray",
        ) from None
    return ray


def check(engine: str) -> None:
    """Refuses an engine that is not there, before anything is started."""
    if engine == "ray":
        _import_ray()
        # Ray would start here, and take work from all who can reach it.
        if not os.environ.get("RAY_ADDRESS"):
            raise OptionError(
                "--engine",
                "RAY_ADDRESS is not set; set it to the address of the Ray "
                "cluster (`auto` on a machine of it), or leave out --engine "
                "ray and run several settings at once here with --jobs",
            )


def cores_each(jobs: int) -> int:
    """Returns the cores of this machine for each of so many jobs."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone.
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // jobs)
