"""Delivery by DICOMweb to a real archive: Orthanc with its DICOMweb plugin, over https with a password."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicom_node import config as configuration
from dicom_node import dicomweb
from dicom_node.clock import utc_now
from dicom_node.config import WebDestination
from dicom_node.courier import Pace
from dicom_node.delivery import DeliveryService
from dicom_node.errors import PermanentError, TransientError
from dicom_node.states import SeriesState
from pipeline.types import ResultKind
from tests.fixtures.orthanc import DICOMWEB, Orthanc
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import reference, write_object
from tests.fixtures.samples import SERIES, filing

pytestmark = pytest.mark.pacs
FAST = {"backoff_s": 0.2, "backoff_cap_s": 0.5, "commitment_timeout_s": 2.0}


@pytest.fixture(scope="module")
def orthanc(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    assert DICOMWEB.exists(), "orthanc-dicomweb is not installed (make test installs it)"
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"), [DICOMWEB])
    pacs.start()
    yield pacs
    pacs.kill()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with ExitStack() as stack:
        outbox = Outbox(tmp_path, stack)
        outbox.clock.now = utc_now()  # Orthanc and the threads live in real time
        yield outbox


def deliver(outbox: Outbox, orthanc: Orthanc, **destination: Any) -> DeliveryService:
    """A service that delivers to Orthanc until the end of the test."""
    config = configuration.parse(
        {"delivery": FAST, "destinations": [orthanc.web_destination(timeout_s=5.0, **destination)]}
    )
    service = DeliveryService(config, outbox.ledger, outbox.spool, Pace.of(config))
    service.start()
    outbox.callback(service.stop)
    return service


def settled(outbox: Outbox, orthanc: Orthanc, state: str) -> bool:
    return orthanc.wait_for(lambda: outbox.states() == {state}, 30)


def test_stored_and_found(outbox: Outbox, orthanc: Orthanc) -> None:
    paths = outbox.fill()
    deliver(outbox, orthanc)
    assert settled(outbox, orthanc, "committed")
    assert outbox.series().state is SeriesState.DELIVERED
    kept = orthanc.kept()
    for path in paths.values():
        there = orthanc.file(kept[reference(path).sop_instance_uid])
        assert dcmread(io.BytesIO(there)) == dcmread(path)


def test_sent_again_with_the_same_bytes_nothing_is_there_twice(outbox: Outbox, orthanc: Orthanc) -> None:
    paths = outbox.fill()
    before = len(orthanc.kept())
    web = WebDestination(**orthanc.web_destination())
    for _ in range(2):  # the node died before it could write down that the first had worked
        assert not any(result.error for result in dicomweb.store(web, list(paths.values())))
    deliver(outbox, orthanc)
    assert settled(outbox, orthanc, "committed")
    assert len(orthanc.kept()) == before + 3


def test_down_then_up(outbox: Outbox, orthanc: Orthanc) -> None:
    service = deliver(outbox, orthanc)
    orthanc.kill()
    outbox.fill()
    service.wake()
    waited = orthanc.wait_for(lambda: min(row.attempts for row in outbox.deliveries().values()) >= 2, 20)
    orthanc.start()  # before anything can fail: the other tests need it
    assert waited
    assert settled(outbox, orthanc, "committed")


def test_an_object_that_the_archive_has_lost_is_sent_again(outbox: Outbox, orthanc: Orthanc) -> None:
    paths = outbox.fill()
    web = WebDestination(**orthanc.web_destination())
    dicomweb.store(web, [path for kind, path in paths.items() if kind != ResultKind.LESIONS])
    for delivery in outbox.deliveries().values():
        outbox.ledger.delivery_sent(delivery.id, outbox.clock())
    deliver(outbox, orthanc)
    assert settled(outbox, orthanc, "committed")
    assert reference(paths[ResultKind.LESIONS]).sop_instance_uid in orthanc.kept()
    assert outbox.deliveries()[ResultKind.LESIONS].attempts == 2


def test_a_newer_revision_takes_the_place_of_one_that_was_never_sent(outbox: Outbox, orthanc: Orthanc) -> None:
    old = outbox.fill()
    outbox.ledger.file_instances([filing(9, study_uid=f"{SERIES}.0")], outbox.clock())
    new = outbox.analyse()
    deliver(outbox, orthanc)
    assert orthanc.wait_for(lambda: outbox.series().state is SeriesState.DELIVERED, 30)
    kept = orthanc.kept()
    assert {reference(path).sop_instance_uid for path in new.values()} <= set(kept)
    assert not {reference(path).sop_instance_uid for path in old.values()} & set(kept)


def test_what_is_no_object_for_the_archive_stops_and_says_so(
    outbox: Outbox, orthanc: Orthanc, tmp_path: Path
) -> None:
    path = write_object(tmp_path)
    ds = dcmread(path)
    del ds.StudyInstanceUID
    ds.save_as(path)
    (result,) = dicomweb.store(WebDestination(**orthanc.web_destination()), [path])
    assert isinstance(result.error, PermanentError)
    assert "0xC000" in str(result.error)


def test_a_wrong_path_stops_and_says_so(outbox: Outbox, orthanc: Orthanc) -> None:
    outbox.fill()
    deliver(outbox, orthanc, url=f"http://127.0.0.1:{orthanc.http_port}/wrong")
    assert settled(outbox, orthanc, "failed")
    assert "is url the root of its DICOMweb service?" in outbox.series().reason


def test_a_query_tells_whether_it_answers(orthanc: Orthanc) -> None:
    dicomweb.check(WebDestination(**orthanc.web_destination()))
    with pytest.raises(PermanentError, match="HTTP status 404"):
        dicomweb.check(WebDestination(**orthanc.web_destination(url=f"http://127.0.0.1:{orthanc.http_port}/wrong")))
    with pytest.raises(TransientError, match="nothing listens there|broke the connection off|No connection"):
        dicomweb.check(WebDestination(**orthanc.web_destination(url="http://127.0.0.1:1/dicom-web")))
