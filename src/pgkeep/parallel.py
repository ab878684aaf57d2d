"""The one concurrency tool: bounded work over threads; the first error wins.

Compression, hashing, sealing and file I/O release the GIL, so threads scale; what is in flight is
bounded here, so memory never depends on how much there is to do.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")


def default_workers() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def ordered_map(
    function: Callable[[A], B], items: Iterable[A], *, workers: int, ahead: int | None = None
) -> Iterator[B]:
    """`function` over `items` in threads; results in the items' order.

    `items` is pulled in the caller's thread, at most `ahead` (twice the workers unless given)
    before their results are taken. The earliest item's error is raised after the rest was
    cancelled or has ended; so it is when the caller stops early.
    """
    limit = ahead or 2 * workers
    pending: deque[Future[B]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pgkeep-map") as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= limit:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class Pool:
    """Unordered work in threads, at most `queue` pieces accepted and not done.

    `submit` blocks while the pool is full and raises the first error of an earlier piece; leaving
    the `with` block waits for everything, and raises it at the latest then.
    """

    def __init__(self, workers: int, *, queue: int | None = None, name: str = "pool") -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"pgkeep-{name}")
        self._room = threading.Semaphore(queue or 2 * workers)
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._raise()

    def submit(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Accepts one piece of work, as soon as there is room for it."""
        self._raise()
        self._room.acquire()
        try:
            future: Future[Any] = self._executor.submit(function, *args, **kwargs)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(self._done)

    def _done(self, future: Future[Any]) -> None:
        self._room.release()
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            with self._lock:
                self._error = self._error or error

    def _raise(self) -> None:
        with self._lock:
            error = self._error
        if error is not None:
            raise error
