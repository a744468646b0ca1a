"""Delivery by DICOMweb: retry, cancel, revisions and the pace of a destination, as with C-STORE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.sop_class import SegmentationStorage  # type: ignore[attr-defined]

from dicom_node.courier import Courier
from dicom_node.states import SeriesState
from pipeline.types import ResultKind
from tests.fixtures import stow
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import reference, sha256
from tests.fixtures.samples import SERIES, filing
from tests.fixtures.stow import Part, Reply, StowServer

BACKOFF_S = 30.0


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with ExitStack() as stack:
        yield Outbox(tmp_path, stack)


@pytest.fixture
def server() -> Iterator[StowServer]:
    with stow.serve(StowServer()) as running:
        yield running


def courier(outbox: Outbox, server: StowServer, **changes: Any) -> Courier:
    return outbox.courier_of(outbox.web_config(server.url, **changes))


def uids(paths: Any) -> dict[str, str]:
    return {reference(path).sop_instance_uid: sha256(path) for path in paths.values()}


def test_stored_in_order_and_found(outbox: Outbox, server: StowServer) -> None:
    order: list[str] = []

    def see(part: Part) -> None:
        order.append(part.sop_instance_uid)

    server.answer = see
    paths = outbox.fill()
    assert courier(outbox, server).run_once() is None
    assert server.kept == uids(paths)
    assert order == [
        reference(paths[kind]).sop_instance_uid for kind in (ResultKind.LESIONS, ResultKind.PICTURE, ResultKind.SR)
    ]
    assert outbox.series().state is SeriesState.DELIVERED


def test_down_then_up(outbox: Outbox, server: StowServer) -> None:
    server.answer = lambda part: (503, None)
    outbox.fill()
    sender = courier(outbox, server)
    pauses = []
    for _ in range(3):
        again = sender.run_once()
        assert again is not None
        pauses.append((again - outbox.clock()).total_seconds())
        outbox.clock.now = again
    assert pauses == [30, 60, 120]
    server.answer = lambda part: None
    assert sender.run_once() is None
    assert outbox.states() == {"committed"}


def test_a_refused_class_fails_the_series_the_rest_arrives_and_a_retry_helps(
    outbox: Outbox, server: StowServer
) -> None:
    def refuse(part: Part) -> Reply | None:
        return (409, stow.refused(part, 0x0122)) if part.sop_class_uid == SegmentationStorage else None

    server.answer = refuse
    paths = outbox.fill()
    sender = courier(outbox, server)
    assert sender.run_once() is None
    assert {kind: str(row.state) for kind, row in outbox.deliveries().items()} == {
        ResultKind.LESIONS: "failed",
        ResultKind.PICTURE: "committed",
        ResultKind.SR: "committed",
    }
    assert outbox.series().state is SeriesState.FAILED
    assert "SOP class not supported (0x0122)" in outbox.series().reason
    server.answer = lambda part: None
    outbox.ledger.retry(SERIES, outbox.clock())
    assert sender.run_once() is None
    assert outbox.series().state is SeriesState.DELIVERED
    assert server.kept == uids(paths)


def test_an_object_that_is_not_listed_is_sent_again(outbox: Outbox, server: StowServer) -> None:
    paths = outbox.fill()
    sender = courier(outbox, server)
    lost = reference(paths[ResultKind.LESIONS]).sop_instance_uid
    server.lists = False
    sender.run_once()
    server.lose(lost)
    server.lists = True
    outbox.clock.advance(700)
    assert sender.run_once() == outbox.clock()
    assert sender.run_once() is None
    assert lost in server.kept
    assert outbox.states() == {"committed"}
    assert outbox.deliveries()[ResultKind.LESIONS].attempts == 2


def test_cancelled_before_and_while_it_is_on_the_wire(outbox: Outbox, server: StowServer) -> None:
    """What was on its way is there and says so; what was not goes nowhere."""
    paths = outbox.fill()

    def cancel_at_first(part: Part) -> None:
        if not server.kept:
            outbox.ledger.cancel(SERIES, outbox.clock())

    server.answer = cancel_at_first
    sender = courier(outbox, server)
    sender.run_once()
    assert outbox.series().state is SeriesState.CANCELLED
    assert len(server.kept) == 1
    assert set(server.kept) <= set(uids(paths))
    assert sorted(str(row.state) for row in outbox.deliveries().values()) == ["cancelled", "cancelled", "committed"]
    before = dict(server.kept)
    sender.run_once()
    assert server.kept == before


def again_from(outbox: Outbox) -> None:
    """A late slice reopens the series."""
    outbox.ledger.file_instances([filing(9, study_uid=f"{SERIES}.0")], outbox.clock())


def test_a_newer_revision_is_sent_and_the_older_is_not(outbox: Outbox, server: StowServer) -> None:
    old = outbox.fill()
    again_from(outbox)
    assert outbox.states() == {"cancelled"}
    new = outbox.analyse()
    courier(outbox, server).run_once()
    assert server.kept == uids(new)
    assert not set(server.kept) & set(uids(old))
    assert outbox.series().revision == 2
    assert outbox.series().state is SeriesState.DELIVERED


# --- window and rate --------------------------------------------------------------------------------------------


def local(outbox: Outbox, hours: float) -> str:
    """The clock on the wall of this machine, so many hours after the test's."""
    return f"{(outbox.clock() + timedelta(hours=hours)).astimezone():%H:%M}"


def test_nothing_is_sent_outside_the_window(outbox: Outbox, server: StowServer) -> None:
    paths = outbox.fill()
    window = f"{local(outbox, 2)}-{local(outbox, 4)}"
    sender = courier(outbox, server, window=window)
    again = sender.run_once()
    assert server.requests == []
    assert {row.reason for row in outbox.deliveries().values()} == {
        f"waits for the window {window} of this destination"
    }
    assert {row.attempts for row in outbox.deliveries().values()} == {0}
    assert isinstance(again, datetime)
    assert timedelta(hours=1.9) < again - outbox.clock() <= timedelta(hours=2)
    events = len(outbox.ledger.details(SERIES).events)
    assert sender.run_once() == again
    assert len(outbox.ledger.details(SERIES).events) == events  # said once
    outbox.clock.now = again
    assert sender.run_once() is None
    assert server.kept == uids(paths)


def test_what_was_sent_is_verified_outside_the_window_too(outbox: Outbox, server: StowServer) -> None:
    outbox.fill()
    server.lists = False
    sender = courier(outbox, server, window=f"{local(outbox, 0)}-{local(outbox, 1)}")
    sender.run_once()
    assert outbox.states() == {"sent"}
    server.lists = True
    outbox.clock.advance(2 * 3600)
    sender.run_once()
    assert outbox.states() == {"committed"}


def test_a_transient_error_near_the_end_of_the_window_waits(outbox: Outbox, server: StowServer) -> None:
    outbox.fill()
    outbox.clock.now = outbox.clock().replace(second=0)
    server.answer = lambda part: (503, None)
    sender = courier(outbox, server, window=f"{local(outbox, -1)}-{local(outbox, 1 / 60)}")
    outbox.clock.advance(45)
    again = sender.run_once()
    assert again is not None
    assert timedelta(hours=22) < again - outbox.clock() < timedelta(hours=24)


def test_a_rate_spreads_the_objects(outbox: Outbox, server: StowServer) -> None:
    paths = outbox.fill()
    sender = courier(outbox, server, max_objects_per_minute=6)
    times = []
    for _ in range(3):
        times.append((outbox.clock(), len(server.kept)))
        again = sender.run_once()
        assert len(server.kept) == times[-1][1] + 1
        outbox.clock.now = again or outbox.clock()
    assert [(later - times[0][0]).total_seconds() for later, _ in times] == [0, 10, 20]
    assert server.kept == uids(paths)
    assert outbox.states() == {"committed"}


def test_bytes_per_second(outbox: Outbox, server: StowServer) -> None:
    paths = outbox.fill()
    size = paths[ResultKind.LESIONS].stat().st_size
    sender = courier(outbox, server, max_kb_per_s=size / 1000 / 60)
    again = sender.run_once()
    assert again == outbox.clock() + timedelta(seconds=60)
    assert len(server.kept) == 1
