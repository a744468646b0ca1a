"""Threads that answer requests: so many and none more, also where a database hangs and none of them comes back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Semaphore
from typing import TypeVar

from anyio import CapacityLimiter, fail_after, to_thread

Found = TypeVar("Found")


class NoPlaceError(Exception):
    """Threads that nobody waits for any more hold every place."""


class Places:
    """Waits for work in a thread no longer than `answer_s`; a thread keeps its place until its work ends."""

    def __init__(self, threads: int, answer_s: float) -> None:
        self._threads = threads
        self._answer_s = answer_s
        self._limiters: list[CapacityLimiter] = []  # made where the event loop runs
        self._free = Semaphore(threads)  # the limiter counts a thread no more once it is not waited for

    async def run(self, work: Callable[[], Found]) -> Found:
        """What the work returns.

        Raises:
            TimeoutError: it has not ended in time. It goes on.
            NoPlaceError: nothing was begun.
        """
        if not self._limiters:
            self._limiters.append(CapacityLimiter(self._threads))
        with fail_after(self._answer_s):
            return await to_thread.run_sync(
                partial(self._placed, work), abandon_on_cancel=True, limiter=self._limiters[0]
            )

    def _placed(self, work: Callable[[], Found]) -> Found:
        if not self._free.acquire(blocking=False):
            raise NoPlaceError
        try:
            return work()
        finally:
            self._free.release()
