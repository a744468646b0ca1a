"""What the receiver tells the rest of the node: series that may still grow, commitment reports, its own end."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification

from dicom_node.commitment import CommitmentReport
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from tests.fixtures.reception import (
    SECONDS,
    Node,
    calling,
    ct,
    encode,
    receiving,
    rejection,
    settings,
    status,
    store,
    store_dataset,
)

CT = (CTImageStorage, ExplicitVRLittleEndian)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def node(state: Path) -> Iterator[Node]:
    with receiving(state) as running:
        yield running


class TestSeries:
    """Which series may still grow."""

    def test_several_series_on_one_association(self, node: Node) -> None:
        with calling(node) as assoc:
            for uid in ("1.2.1", "1.2.2"):
                assert status(store_dataset(assoc, ct(SeriesInstanceUID=uid))) == 0x0000
            assert node.receiver.active_series() == {"1.2.1", "1.2.2"}
        assert node.receiver.active_series() == frozenset()
        assert node.ended.get(timeout=SECONDS) == {"1.2.1", "1.2.2"}

    def test_one_series_on_several_associations(self, node: Node) -> None:
        with calling(node) as one:
            with calling(node) as other:
                for assoc in (one, other):
                    assert status(store_dataset(assoc, ct(SeriesInstanceUID="1.2.1"))) == 0x0000
            assert node.receiver.active_series() == {"1.2.1"}
        assert node.receiver.active_series() == frozenset()
        assert [node.ended.get(timeout=SECONDS) for _ in range(2)] == [{"1.2.1"}, {"1.2.1"}]

    @pytest.mark.parametrize("how", ["abort", "connection lost"])
    def test_however_an_association_ends(self, node: Node, how: str) -> None:
        with calling(node) as assoc:
            assert status(store_dataset(assoc, ct(SeriesInstanceUID="1.2.1"))) == 0x0000
            if how == "abort":
                assoc.abort()
            else:
                assoc.dul.socket.socket.close()
            assert node.ended.get(timeout=SECONDS) == {"1.2.1"}
            assert node.receiver.active_series() == frozenset()

    def test_an_association_that_is_kept_open_does_not_hold_up_a_series_for_ever(self, state: Path) -> None:
        """Pooled by its peer, or kept awake by C-ECHO: each series counts from its own last instance."""
        now = [1000.0]
        config = settings(state, idle_timeout_s=60)
        receiver = Receiver(config, Spool(state), lambda _: None, seconds=lambda: now[0])
        node = Node(Spool(state), receiver.start(), receiver)
        try:
            with calling(node, [CT, (Verification, ImplicitVRLittleEndian)]) as assoc:
                assert status(store_dataset(assoc, ct(SeriesInstanceUID="1.2.1"))) == 0x0000
                now[0] += 59
                assert receiver.active_series() == {"1.2.1"}
                assert status(store_dataset(assoc, ct(SeriesInstanceUID="1.2.2"))) == 0x0000
                now[0] += 1
                assert receiver.active_series() == {"1.2.2"}
                assert status(store_dataset(assoc, ct(SeriesInstanceUID="1.2.1"))) == 0x0000
                assert receiver.active_series() == {"1.2.1", "1.2.2"}
                now[0] += 60
                assert assoc.send_c_echo().Status == 0x0000
                assert receiver.active_series() == frozenset()
        finally:
            receiver.stop()

    def test_an_association_that_stored_nothing_touched_nothing(self, node: Node) -> None:
        with calling(node):
            assert node.receiver.active_series() == frozenset()
        assert node.ended.get(timeout=SECONDS) == frozenset()

    def test_a_rejected_association_is_not_reported(self, state: Path) -> None:
        with receiving(state) as node:
            assert rejection(node, called_ae="SOMEONE") == (1, 1, 7)
        with pytest.raises(queue.Empty):
            node.ended.get_nowait()


class TestCommitmentReports:
    """A PACS calls back on an association of its own."""

    @staticmethod
    def information(transaction: str | None = "1.2.3") -> Dataset:
        ds, good, bad = Dataset(), Dataset(), Dataset()
        good.ReferencedSOPClassUID = bad.ReferencedSOPClassUID = CTImageStorage
        good.ReferencedSOPInstanceUID, bad.ReferencedSOPInstanceUID = "1.2.3.1", "1.2.3.2"
        bad.FailureReason = 0x0112
        if transaction:
            ds.TransactionUID = transaction
        ds.ReferencedSOPSequence, ds.FailedSOPSequence = [good], [bad]
        return ds

    @staticmethod
    def call(node: Node, role: bool) -> Association:
        ae = AE("PACS")
        negotiation = [build_role(StorageCommitmentPushModel, scp_role=True)] if role else []
        context = build_context(StorageCommitmentPushModel)
        return ae.associate("127.0.0.1", node.port, contexts=[context], ae_title="DICOMNODE", ext_neg=negotiation)

    @pytest.mark.parametrize("role", [True, False], ids=["with a role item", "without"])
    def test_are_handed_on(self, node: Node, role: bool) -> None:
        assoc = self.call(node, role)
        assert assoc.is_established
        (context,) = assoc.accepted_contexts
        (ours,) = node.receiver._servers[0]._admission.all()[0].accepted_contexts
        assert context.as_scp is role
        assert ours.as_scu is role  # the PACS provides the service, this node uses it
        assert context.as_scu is not role
        if not role:  # pynetdicom's own API refuses to send; the wire does not
            context._as_scp = True
        answer, _ = assoc.send_n_event_report(
            self.information(), 2, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        assert answer.Status == 0x0000
        assoc.release()
        assert node.reports.get_nowait() == CommitmentReport("1.2.3", ("1.2.3.1",), (("1.2.3.2", 0x0112),))

    @pytest.mark.parametrize(
        ("information", "event_type", "code"), [(information(None), 1, 0x0115), (information(), 3, 0x0113)]
    )
    def test_that_say_nothing_are_refused(
        self, node: Node, information: Dataset, event_type: int, code: int
    ) -> None:
        assoc = self.call(node, role=True)
        answer, _ = assoc.send_n_event_report(
            information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        assert answer.Status == code
        assoc.release()
        assert node.reports.empty()

    def test_are_not_accepted_where_nobody_waits_for_them(self, state: Path) -> None:
        receiver = Receiver(settings(state), Spool(state), lambda _: None)
        node = Node(Spool(state), receiver.start(), receiver)
        try:
            assoc = self.call(node, role=True)
            assert assoc.accepted_contexts == []
            assoc.release()
        finally:
            receiver.stop()


class TestStopping:
    """`stop`, and errors that nobody planned."""

    def test_open_associations_are_ended(self, state: Path) -> None:
        with receiving(state) as node, calling(node) as assoc:
            assert status(store_dataset(assoc, ct())) == 0x0000
            node.receiver.stop()
            assert node.ended.get(timeout=SECONDS) == {"1.2.840.1.1"}
            assoc.join(SECONDS)
            assert assoc.is_aborted

    def test_an_instance_that_is_being_stored_is_still_answered(self, state: Path) -> None:
        storing, go_on = threading.Event(), threading.Event()

        def slowly(_: Path) -> None:
            storing.set()
            go_on.wait(SECONDS)

        receiver = Receiver(settings(state), Spool(state), slowly)
        node = Node(Spool(state), receiver.start(), receiver)
        stopper = threading.Thread(target=receiver.stop)
        with calling(node) as assoc:
            answers: queue.Queue[int] = queue.Queue()
            sender = threading.Thread(target=lambda: answers.put(status(store_dataset(assoc, ct()))))
            sender.start()
            assert storing.wait(SECONDS)
            stopper.start()
            go_on.set()
            assert answers.get(timeout=SECONDS) == 0x0000
            sender.join(SECONDS)
        stopper.join(SECONDS)
        assert not stopper.is_alive()
        assert len(node.received()) == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_callback_that_fails_ends_its_association_and_no_other(self, state: Path) -> None:
        calls: list[Path] = []

        def fails_once(path: Path) -> None:
            calls.append(path)
            if len(calls) == 1:
                raise RuntimeError("a fault of this software")

        receiver = Receiver(settings(state), Spool(state), fails_once)
        node = Node(Spool(state), receiver.start(), receiver)
        try:
            with calling(node) as assoc:
                assert store_dataset(assoc, ct()) is None  # no success for what was not handed on
            assert receiver.active_series() == frozenset()
            with calling(node) as assoc:
                assert status(store_dataset(assoc, ct())) == 0x0000
        finally:
            receiver.stop()


def test_no_identifying_data_in_the_log(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="dicom_node"), calling(node) as assoc:
        store_dataset(assoc, ct(PatientID="HOSP-4711"))
        store(assoc, encode(ct(PatientID="HOSP-4711", StudyInstanceUID=None)), "1.2.3")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("dicom_node")]
    assert any("instance refused" in line for line in ours)
    assert not any("ntgen" in line or "4711" in line for line in ours)
