"""The thread that all services share."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from dicom_node import loop as loops
from dicom_node.errors import TransientError
from dicom_node.loop import Loop


def now() -> datetime:
    return datetime.now(UTC)


def test_a_call_to_stop_is_not_lost_where_the_thread_is_about_to_forget_what_woke_it() -> None:
    worked = threading.Event()
    loop = Loop("test", lambda: worked.set(), now)

    class Late(threading.Event):
        def clear(self) -> None:
            loop.interrupt()
            super().clear()

    loop._woken = Late()
    loop.start()
    loop.thread.join(10)
    assert not loop.thread.is_alive()
    assert not worked.is_set()


def test_a_database_that_is_away_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "TRY_AGAIN_S", 0.0)
    asked: list[int] = []
    again = threading.Event()

    def work() -> datetime | None:
        asked.append(1)
        if len(asked) == 1:
            raise TransientError("the database does not answer")
        again.set()
        return None

    loop = Loop("test", work, now)
    loop.start()
    assert again.wait(10)
    assert loops.not_running([loop]) == []
    loops.stop_all([loop])
    assert loops.not_running([loop]) == ["test"]
