"""A thread that does what is due, and sleeps until more is due or until it is woken."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from dicom_node.errors import NodeError

LOGGER = logging.getLogger(__name__)
LONGEST_WAIT_S = 3600.0  # it looks at least so often, whatever the clock has done meanwhile
SHORTEST_WAIT_S = 1.0  # unless woken it never looks again sooner, should something due turn out to be held back
TRY_AGAIN_S = 5.0  # after an error of the database
STOP_TIMEOUT_S = 10.0


class Loop:
    """Calls `work` again and again.

    Args:
        name: of the thread.
        work: does all that is due; returns when it is to be called again, None where only `wake` changes anything.
        clock: the present, time zone aware.
    """

    def __init__(self, name: str, work: Callable[[], datetime | None], clock: Callable[[], datetime]) -> None:
        self._work = work
        self._clock = clock
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def wake(self) -> None:
        """There is something new to do. From any thread."""
        self._woken.set()

    def interrupt(self) -> None:
        """Begin nothing new."""
        self._stopped.set()
        self._woken.set()

    def stop(self) -> None:
        """Begin nothing new, and wait a while for what is being done."""
        self.interrupt()
        if self.thread.is_alive():
            self.thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            self._woken.clear()
            if self._stopped.is_set():  # looked at after the clearing, which may have taken the call to stop away
                return
            try:
                wait_s = self._until(self._work())
            except NodeError as error:  # a fault of the database; anything else is one of ours and ends the thread
                LOGGER.error("%s waits %g s: %s", self.thread.name, TRY_AGAIN_S, error)
                wait_s = TRY_AGAIN_S
            self._woken.wait(wait_s)

    def _until(self, due: datetime | None) -> float:
        """Seconds to sleep."""
        if due is None:
            return LONGEST_WAIT_S
        return min(max((due - self._clock()).total_seconds(), SHORTEST_WAIT_S), LONGEST_WAIT_S)


def stop_all(loops: Sequence[Loop]) -> None:
    """All begin nothing new before one is waited for."""
    for loop in loops:
        loop.interrupt()
    for loop in loops:
        loop.stop()


def not_running(loops: Iterable[Loop]) -> list[str]:
    """Names of threads that do not run: after the start, those that ended although nobody stopped them."""
    return [loop.thread.name for loop in loops if not loop.thread.is_alive()]
