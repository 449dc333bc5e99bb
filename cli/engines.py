"""Where the points of a search are run: here or in processes.

An engine takes a function and its arguments, and yields pairs of a position
and what the function returned, in the order they are finished.
"""

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from .errors import RunError
from .training.start import import_quietly

A = TypeVar("A")
B = TypeVar("B")


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


def cores_each(jobs: int) -> int:
    """Returns the cores of this machine for each of so many jobs."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone.
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // jobs)
