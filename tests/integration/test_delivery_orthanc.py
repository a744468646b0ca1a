"""Delivery to a real PACS: Orthanc stores, commits to the node's receiver, loses objects, is down for a while."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node import config as configuration
from dicom_node import query, scu
from dicom_node.clock import utc_now
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Destination
from dicom_node.courier import Pace
from dicom_node.delivery import DeliveryService
from dicom_node.errors import PermanentError
from dicom_node.ledger import Delivery
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from dicom_node.states import SeriesState
from pipeline.types import ResultKind
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import reference, write_object
from tests.fixtures.samples import SERIES

pytestmark = pytest.mark.pacs
NODE = "NODE"
FAST = {"backoff_s": 0.2, "backoff_cap_s": 0.5, "commitment_timeout_s": 2.0}


@pytest.fixture(scope="module")
def orthanc(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"))
    pacs.start()
    yield pacs
    pacs.kill()  # its own way of stopping takes three seconds


@pytest.fixture(scope="module")
def dcmtk(tool: Callable[[str], str]) -> Dcmtk:
    return Dcmtk(tool)


class Site:
    """A node's receiver and delivery around a ledger, with a PACS that knows the node."""

    def __init__(self, orthanc: Orthanc, folder: Path, stack: ExitStack) -> None:
        self.orthanc = orthanc
        self.outbox = Outbox(folder, stack)
        self.outbox.clock.now = utc_now()  # Orthanc and the threads live in real time
        self.reports: list[CommitmentReport] = []
        self._stack = stack

    def run(self, calling_ae: str = NODE, known: bool = True, **destination: Any) -> DeliveryService:
        """Start delivery, and a receiver that hands commitment reports to it."""
        config = configuration.parse(
            {
                "node": {"ae_title": calling_ae, "port": 0, "state_dir": str(self.outbox.folder / "state")},
                "delivery": FAST,
                "destinations": [self.orthanc.destination(timeout_s=5.0, **destination)],
            }
        )
        service = DeliveryService(config, self.outbox.ledger, self.outbox.spool, Pace.of(config, stay_s=0.5))

        def hand_on(report: CommitmentReport) -> None:
            self.reports.append(report)
            service.on_event_report(report)

        receiver = Receiver(config, Spool(config.node.state_dir, 0), lambda path: None, hand_on)
        port = receiver.start()
        self._stack.callback(receiver.stop)
        if known:
            self.orthanc.know(calling_ae, port)
        service.start()
        self._stack.callback(service.stop)
        return service

    def settled(self, state: str) -> bool:
        """Wait until every delivery is in a state."""
        return self.orthanc.wait_for(lambda: self.outbox.states() == {state}, 20)

    def deliveries(self) -> list[Delivery]:
        return list(self.outbox.deliveries().values())

    def events(self) -> str:
        return "\n".join(event.reason for event in self.outbox.ledger.details(SERIES).events)


@pytest.fixture
def site(orthanc: Orthanc, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(orthanc, tmp_path, stack)


def test_stored_and_committed_on_a_new_association(site: Site) -> None:
    paths = site.outbox.fill()
    site.run()
    assert site.settled("committed")
    assert site.outbox.series().state is SeriesState.DELIVERED
    uids = {reference(path).sop_instance_uid for path in paths.values()}
    assert {frozenset(report.committed) for report in site.reports} == {frozenset(uids)}
    kept = site.orthanc.kept()
    for path in paths.values():
        there = site.orthanc.file(kept[reference(path).sop_instance_uid])
        assert dcmread(io.BytesIO(there)) == dcmread(path)  # Orthanc gives sequences an explicit length
    assert "C-FIND" not in site.events()


def test_an_object_that_the_pacs_has_lost_is_sent_again(site: Site) -> None:
    """As after a crash: everything is SENT in the ledger, but one object is not there."""
    paths = site.outbox.fill()
    pacs = Destination(**site.orthanc.destination())
    scu.store(pacs, [path for kind, path in paths.items() if kind != ResultKind.LESIONS], NODE)
    for delivery in site.deliveries():
        site.outbox.ledger.delivery_sent(delivery.id, site.outbox.clock())
    lost = reference(paths[ResultKind.LESIONS]).sop_instance_uid
    site.run()
    assert site.settled("committed")
    assert lost in site.orthanc.kept()
    assert [report.failed for report in site.reports] == [((lost, 0x0112),), ()]
    assert {delivery.kind: delivery.attempts for delivery in site.deliveries()} == {
        ResultKind.LESIONS: 2,
        ResultKind.PICTURE: 1,
        ResultKind.SR: 1,
    }


def test_sent_again_with_the_same_bytes_nothing_is_there_twice(site: Site) -> None:
    paths = site.outbox.fill()
    pacs = Destination(**site.orthanc.destination())
    before = len(site.orthanc.kept())
    for _ in range(2):  # the node died before it could write down that the first had worked
        results = scu.store(pacs, list(paths.values()), NODE)
        assert not any(result.error for result in results)
    site.run()
    assert site.settled("committed")
    assert len(site.orthanc.kept()) == before + 3


def test_down_then_up(site: Site) -> None:
    service = site.run()
    site.orthanc.kill()
    paths = site.outbox.fill()
    service.wake()
    waited = site.orthanc.wait_for(lambda: min(row.attempts for row in site.deliveries()) >= 2, 20)
    site.orthanc.start()  # before anything can fail: the other tests need it
    assert waited
    assert site.settled("committed")
    assert {reference(path).sop_instance_uid for path in paths.values()} <= site.orthanc.kept().keys()
    assert len(site.reports) == 1


def test_a_node_that_may_not_ask_for_commitment_looks_for_itself(site: Site) -> None:
    site.outbox.fill()
    site.run(calling_ae="STRANGER", known=False)
    assert site.settled("committed")
    assert site.reports == []
    assert "found by C-FIND, which counts as committed" in site.events()


def test_verified_by_query(site: Site) -> None:
    site.outbox.fill()
    site.run(verify="find")
    assert site.settled("committed")
    assert site.reports == []


def test_a_wrong_called_title_stops_and_says_so(site: Site) -> None:
    site.outbox.fill()
    site.run(ae_title="NOT-ORTHANC")
    assert site.settled("failed")
    assert "does not go by the AE title NOT-ORTHANC" in site.outbox.series().reason


def test_echo_and_queries(orthanc: Orthanc, tmp_path: Path) -> None:
    pacs = Destination(**orthanc.destination())
    scu.echo(pacs, NODE)
    with pytest.raises(PermanentError, match="does not go by the AE title"):
        scu.echo(Destination(**orthanc.destination(ae_title="WRONG")), NODE)
    study, series = generate_uid(), generate_uid()
    paths = [write_object(tmp_path, study_uid=study, series_uid=series) for _ in range(3)]
    for path in paths:
        orthanc.upload(path)
    (match,) = query.find_series(
        pacs, {"StudyInstanceUID": study, "SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": ""}, NODE
    )
    assert match.SeriesInstanceUID == series
    assert match.NumberOfSeriesRelatedInstances == 3
    uids = [reference(path).sop_instance_uid for path in paths]
    orthanc.delete(orthanc.kept()[uids[0]])
    assert query.find_instances(pacs, [reference(path) for path in paths], NODE) == set(uids[1:])


def test_the_small_archive_understands_dcmtk(tmp_path: Path, dcmtk: Dcmtk) -> None:
    with ExitStack() as stack:
        archive, port = Outbox(tmp_path, stack).archive()
        path = write_object(tmp_path / "out")
        assert dcmtk.echoscu(port, "ARCHIVE").returncode == 0
        assert dcmtk.echoscu(port, "OTHER").returncode != 0
        assert dcmtk.dcmsend(port, [path], "ARCHIVE").returncode == 0
        kept = archive.instances[reference(path).sop_instance_uid]
        assert dcmread(io.BytesIO(kept.path.read_bytes())) == dcmread(path)
        keys = {"QueryRetrieveLevel": "STUDY", "PatientID": "TRANSPORT", "StudyInstanceUID": ""}
        found = dcmtk.findscu(port, keys, "ARCHIVE")
    assert found.returncode == 0
    assert reference(path).study_uid in found.stdout
