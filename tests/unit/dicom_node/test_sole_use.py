"""One node per PostgreSQL database, over a real server; SQLite has the lock of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from dicom_node import sole_use
from dicom_node.errors import NodeError, TransientError
from dicom_node.sole_use import LOST_AFTER_S, SoleUse
from tests.fixtures.postgres import Server

CUT = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'first%'"


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(postgres: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], SoleUse]]:
    """Makes nodes, by name, of one database."""
    monkeypatch.setitem(sole_use.SESSION, "lock_timeout", 500)
    made: list[SoleUse] = []

    def make(name: str) -> SoleUse:
        made.append(SoleUse(postgres.url("postgres"), name, clock))
        return made[-1]

    yield make
    for use in made:
        use.release()


@pytest.fixture
def replaced(node: Callable[[str], SoleUse], postgres: Server) -> tuple[SoleUse, SoleUse]:
    """A node whose session was cut, and the second one, which has the lock; the first has seen it."""
    first, second = node("first"), node("second")
    first.take()
    postgres.run(CUT)
    second.take()
    first.look()
    return first, second


def test_a_second_node_is_refused_and_told_of_the_first(node: Callable[[str], SoleUse]) -> None:
    first, second = node("first on ct-node, /var/lib/dicomnode"), node("second")
    first.take()
    with pytest.raises(NodeError, match=r"first on ct-node, /var/lib/dicomnode \(since 20.*needs one of its own"):
        second.take()
    first.release()
    second.take()


def test_one_of_another_role_is_refused_too_though_little_is_told_of_it(
    node: Callable[[str], SoleUse], postgres: Server
) -> None:
    postgres.run("CREATE ROLE other LOGIN")
    second = SoleUse(postgres.url("postgres").replace("dicomnode@", "other@"), "second")
    try:
        node("first").take()
        with pytest.raises(NodeError, match=r"node\.database: first uses this database"):
            second.take()
    finally:
        second.release()
        postgres.run("DROP ROLE other")


def test_a_session_that_was_cut_is_taken_up_again(node: Callable[[str], SoleUse], postgres: Server) -> None:
    """A restarted server, or a network that was away."""
    first, second = node("first"), node("second")
    first.take()
    first.look()
    postgres.run(CUT)
    first.look()
    assert not first.lost()
    with pytest.raises(NodeError, match="first"):
        second.take()


def test_a_node_that_another_has_replaced_is_lost_after_a_while(
    replaced: tuple[SoleUse, SoleUse], clock: Clock
) -> None:
    """Not at once: what holds the lock may be a session of its own that the server has not missed yet."""
    first, _ = replaced
    clock.now += LOST_AFTER_S - 1
    first.look()
    assert not first.lost()
    clock.now += 1
    first.look()
    assert "second (since 20" in first.lost()


def test_the_time_of_being_refused_begins_anew(
    replaced: tuple[SoleUse, SoleUse], postgres: Server, clock: Clock
) -> None:
    first, second = replaced
    second.release()
    clock.now += LOST_AFTER_S
    first.look()
    postgres.run(CUT)
    second.take()
    first.look()
    assert not first.lost()


def test_so_it_does_after_the_database_was_away(
    replaced: tuple[SoleUse, SoleUse], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = replaced
    with monkeypatch.context() as away:
        away.setattr(sole_use, "connected", Mock(side_effect=TransientError("no route")))
        first.look()
    clock.now += LOST_AFTER_S
    first.look()
    assert not first.lost()


def test_a_database_that_is_away_is_lost_to_nobody(tmp_path: Path, clock: Clock) -> None:
    use = SoleUse(f"postgresql+psycopg://dicomnode@/absent?host={tmp_path}", "first", clock)
    with pytest.raises(TransientError):
        use.take()
    use.look()
    clock.now += LOST_AFTER_S
    use.look()
    assert not use.lost()
    use.release()


def test_sqlite_needs_no_lock(tmp_path: Path) -> None:
    with sole_use.sole_use(f"sqlite:///{tmp_path / 'ledger.sqlite'}", tmp_path) as taken:
        assert not taken()
    assert not list(tmp_path.iterdir())


def test_it_is_held_for_as_long_as_the_node_serves(
    node: Callable[[str], SoleUse], postgres: Server, tmp_path: Path
) -> None:
    with sole_use.sole_use(postgres.url("postgres"), tmp_path) as taken:
        assert not taken()
        with pytest.raises(NodeError, match=r"dicomnode on "):
            node("second").take()
    node("second").take()
