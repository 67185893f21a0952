"""Work on many clips in several processes."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
_SHARED: list[Callable[[Any], Any]] = []


def in_processes(worker: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """`worker` of every job, in order; in this process where there is little to do.

    The worker is pickled once for each process, not with each job: it may hold the table of contents of a dataset.
    """
    if workers == 1 or len(jobs) < 2 * workers:
        yield from map(worker, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_share, initargs=(worker,)) as pool:
        chunk = max(1, min(16, len(jobs) // (4 * workers)))
        yield from pool.map(_call_shared, jobs, chunksize=chunk)


def _share(worker: Callable[[Any], Any]) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    _SHARED[:] = [worker]


def _call_shared(job: Any) -> Any:
    return _SHARED[0](job)
