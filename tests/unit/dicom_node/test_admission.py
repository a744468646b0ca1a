"""Who may come in at a time: counted over all listeners, in all and per address."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node import admission
from dicom_node.admission import Admission


@dataclass(frozen=True)
class Peer:
    """A connection."""

    host: str
    number: int = 0


def test_places_are_counted_per_address_and_in_all() -> None:
    door: Admission[Peer] = Admission(max_associations=3, max_per_peer=2)
    a, b, c, d, e = (Peer("a", 1), Peer("a", 2), Peer("a", 3), Peer("b"), Peer("c"))
    for one in (a, b, c, d, e):
        door.connected(one)
    assert door.admit(a) is None and door.admit(b) is None
    third = door.admit(c)
    assert third is not None and (third.result, third.source, third.diagnostic) == (2, 3, 2)
    assert "from this address" in third.reason and not third.alarming
    assert door.admit(d) is None
    full = door.admit(e)
    assert full is not None and full.reason == "3 associations are open already"
    assert door.over(a)
    assert door.admit(e) is None


def test_an_end_counts_once_and_only_where_there_was_a_beginning() -> None:
    door: Admission[Peer] = Admission(1, 1)
    one, silent = Peer("a"), Peer("b")
    door.connected(one)
    door.connected(silent)
    assert door.admit(one) is None
    assert door.over(one) and not door.over(one) and not door.over(silent)
    door.forget(one)
    door.forget(one)
    assert door.all() == [silent]


def test_the_oldest_without_an_association_makes_room() -> None:
    door: Admission[Peer] = Admission(10, 10)
    busy = Peer("busy")
    assert door.connected(busy) == []
    assert door.admit(busy) is None
    idle = [Peer("idle", number) for number in range(admission.MAX_IDLE_CONNECTIONS)]
    assert [door.connected(one) for one in idle] == [[]] * len(idle)
    assert door.connected(Peer("new")) == idle[:1]
