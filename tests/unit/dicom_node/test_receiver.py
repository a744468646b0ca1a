"""The receiver as peers see it, over real sockets."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    HEVCMP51,
    MPEG2MPML,
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
)
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    Verification,
)

from dicom_node.errors import NodeError
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from dicom_node.supported import TRANSFER_SYNTAXES
from tests.fixtures.reception import (
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

STORE_AND_ECHO = [
    (CTImageStorage, ExplicitVRLittleEndian),
    (Verification, ImplicitVRLittleEndian),
]
PRIVATE_STORAGE = "1.3.12.2.1107.5.9.1"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def node(state: Path) -> Iterator[Node]:
    with receiving(state) as running:
        yield running


def free_when_served(node: Node, assoc: Association) -> int:
    """Free instance memory after the last request is over: its memory is given back once it has been answered."""
    assert status(assoc.send_c_echo()) == 0x0000  # served by the same thread, after that
    return node.memory._free


class TestStoring:
    """C-STORE."""

    def test_echo(self, node: Node) -> None:
        with calling(node, [(Verification, ImplicitVRLittleEndian)]) as assoc:
            assert assoc.send_c_echo().Status == 0x0000

    @pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.name)
    def test_every_transfer_syntax_is_kept_byte_for_byte(self, node: Node, syntax: UID) -> None:
        ds = ct()
        data = encode(ds, syntax)
        with calling(node, [(CTImageStorage, syntax)]) as assoc:
            assert status(store(assoc, data, ds.SOPInstanceUID)) == 0x0000
        assert node.received() == [data]
        (path,) = node.stored
        meta = dcmread(path).file_meta
        assert meta.TransferSyntaxUID == syntax
        assert meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert meta.SourceApplicationEntityTitle == "MODALITY"
        assert meta.SourcePresentationAddress == "dicom://127.0.0.1"

    def test_enhanced_ct_is_kept(self, node: Node) -> None:
        ds = ct(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=4)
        with calling(node, [(EnhancedCTImageStorage, ExplicitVRLittleEndian)]) as assoc:
            assert status(store_dataset(assoc, ds)) == 0x0000
        assert dcmread(node.stored[0]).SOPInstanceUID == ds.SOPInstanceUID

    def test_uncompressed_is_preferred_where_a_peer_leaves_the_choice(self, node: Node) -> None:
        offered = [RLELossless, ImplicitVRLittleEndian, ExplicitVRLittleEndian]
        with calling(node, [(CTImageStorage, offered)]) as assoc:  # type: ignore[list-item]
            assert assoc.accepted_contexts[0].transfer_syntax == [ExplicitVRLittleEndian]

    def test_a_long_instance_in_small_pdus_and_large_ones(self, node: Node) -> None:
        ds = ct(size=1024)
        data = encode(ds)
        with calling(node) as assoc:
            for pdu_bytes in (4096, 1 << 20):
                assoc.acceptor.primitive.maximum_length_received = pdu_bytes
                assert status(store(assoc, data, ds.SOPInstanceUID)) == 0x0000
        assert node.received() == [data, data]

    def test_sent_again_it_is_answered_and_kept_again(self, node: Node) -> None:
        ds = ct()
        with calling(node) as assoc:
            assert status(store_dataset(assoc, ds)) == 0x0000
            assert status(store_dataset(assoc, ds)) == 0x0000
        assert len(node.received()) == 2  # what a re-sent instance means is the ledger's to say

    def test_the_file_is_there_before_the_answer(self, state: Path) -> None:
        seen: list[bool] = []
        spool = Spool(state)
        receiver = Receiver(settings(state), spool, lambda path: seen.append(path in spool.pending()))
        node = Node(spool, receiver.start(), receiver)
        try:
            with calling(node) as assoc:
                assert status(store_dataset(assoc, ct())) == 0x0000
                assert seen == [True]
        finally:
            receiver.stop()

    def test_our_pdu_size_is_told(self, state: Path) -> None:
        with receiving(state, max_pdu_bytes=70_000) as node, calling(node) as assoc:
            assert assoc.acceptor.maximum_length == 70_000


class TestRefusing:
    """Instances that cannot be kept: a status that says why, and the association goes on."""

    @pytest.mark.parametrize(
        ("elements", "code", "words"),
        [
            ({"StudyInstanceUID": None}, 0xC000, "StudyInstanceUID is missing"),
            ({"SeriesInstanceUID": ""}, 0xC000, "SeriesInstanceUID is missing"),
            ({"SOPInstanceUID": None}, 0xC000, "SOPInstanceUID is missing"),
            ({"SOPClassUID": None}, 0xC000, "SOPClassUID is missing"),
            ({"SOPClassUID": MRImageStorage}, 0xA900, "SOPClassUID differs"),
            ({"SOPInstanceUID": "1.2.3.4"}, 0xA900, "SOPInstanceUID differs"),
        ],
    )
    def test_what_does_not_match_or_lacks_a_uid(
        self, node: Node, elements: dict[str, Any], code: int, words: str
    ) -> None:
        with calling(node) as assoc:
            response = store(assoc, encode(ct(**elements)), "1.2.3.4.5")
            assert status(response) == code
            assert words in response.ErrorComment  # type: ignore[union-attr]
            assert status(store_dataset(assoc, ct())) == 0x0000
        assert len(node.received()) == len(node.stored) == 1

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x00",
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(1000),
            b"\xff" * 1000,
            encode(ct())[:100],
            encode(ct())[50:],
        ],
        ids=["empty", "a byte", "http", "zeros", "ones", "cut off", "beheaded"],
    )
    def test_what_does_not_parse(self, node: Node, data: bytes) -> None:
        with calling(node) as assoc:
            response = store(assoc, data, "1.2.3.4.5")
            assert status(response) == 0xC000
            assert len(response.ErrorComment) > 10  # type: ignore[union-attr]
        assert node.received() == []

    def test_the_wrong_transfer_syntax(self, node: Node) -> None:
        ds = ct()
        with calling(node, [(CTImageStorage, ImplicitVRLittleEndian)]) as assoc:
            assert status(store(assoc, encode(ds, ExplicitVRLittleEndian), ds.SOPInstanceUID)) == 0xC000
        assert node.received() == []

    @pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
    @pytest.mark.parametrize("uid", ["../../../../tmp/x", "1.2.3/../../4", "/etc/passwd", "1.2.3\\4"])
    def test_a_uid_that_would_be_a_path(self, node: Node, state: Path, uid: str) -> None:
        ds = ct(SOPInstanceUID=uid)
        before = set(state.parent.rglob("*"))
        with calling(node) as assoc:
            assert status(store(assoc, encode(ds), uid)) == 0xC000
        assert set(state.parent.rglob("*")) == before

    def test_a_command_set_with_another_sop_class_than_its_context(self, node: Node) -> None:
        for sop_class in (MRImageStorage, PRIVATE_STORAGE):
            with calling(node) as assoc:
                assert status(store(assoc, encode(ct()), "1.2.3", sop_class_uid=sop_class)) == 0x0122
                assert status(store_dataset(assoc, ct())) == 0x0000
        assert len(node.received()) == 2

    def test_an_instance_longer_than_the_limit(self, state: Path) -> None:
        with receiving(state, max_instance_mb=1) as node, calling(node, STORE_AND_ECHO) as assoc:
            response = store_dataset(assoc, ct(size=1024))
            assert status(response) == 0xA700
            assert "max_instance_mb" in response.ErrorComment  # type: ignore[union-attr]
            assert status(store_dataset(assoc, ct(size=512))) == 0x0000
            assert free_when_served(node, assoc) == 2048 << 20
            assert len(node.received()) == 1

    def test_more_at_once_than_the_memory_for_all(self, state: Path) -> None:
        """While one association holds what there is, another is told to come again; then it may."""
        with receiving(state, max_instance_mb=8, max_buffer_mb=8) as node, calling(node, STORE_AND_ECHO) as assoc:
            before = node.memory._free
            assert before == 8 << 20
            assert node.memory.take(before - 1)
            response = store_dataset(assoc, ct())
            assert status(response) == 0xA700
            assert "send again later" in response.ErrorComment  # type: ignore[union-attr]
            assert free_when_served(node, assoc) == 1
            node.memory.give_back(before - 1)
            for _ in range(3):
                assert status(store_dataset(assoc, ct(size=1024))) == 0x0000
            assert free_when_served(node, assoc) == before
            assert len(node.received()) == 3


class TestModalities:
    """Other storage SOP classes, by configuration."""

    CONTEXTS = [(MRImageStorage, ExplicitVRLittleEndian), (CTImageStorage, ExplicitVRLittleEndian)]

    def test_refused_at_negotiation(self, state: Path) -> None:
        with receiving(state, other_modalities="refuse") as node, calling(node, self.CONTEXTS) as assoc:
            assert [context.abstract_syntax for context in assoc.accepted_contexts] == [CTImageStorage]
            assert assoc.rejected_contexts[0].result == 3  # abstract syntax not supported
            assert status(store_dataset(assoc, ct())) == 0x0000

    def test_the_log_says_what_was_refused(self, state: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", logger="dicom_node.association_server")
        with receiving(state, other_modalities="refuse") as node:
            for contexts in (self.CONTEXTS, self.CONTEXTS[:1], self.CONTEXTS[1:]):
                with calling(node, contexts):
                    pass
        told = [record.levelname for record in caplog.records if "'MR Image Storage'" in record.getMessage()]
        assert told == ["INFO", "WARNING"]

    def test_the_log_says_which_transfer_syntaxes_were_refused(
        self, state: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        contexts = [(CTImageStorage, [MPEG2MPML, HEVCMP51]), (MRImageStorage, ExplicitVRLittleEndian)]
        with receiving(state, other_modalities="refuse") as node, calling(node, contexts):
            pass
        refused = [record for record in caplog.records if " not taken here" in record.getMessage()]
        others, unread = (record.getMessage() for record in refused)
        assert others.endswith(" asked for what is not taken here: 'MR Image Storage'")
        assert " offers only in transfer syntaxes that are not taken here (" in unread
        assert unread.endswith(f"({HEVCMP51.name!r}, {MPEG2MPML.name!r}): 'CT Image Storage'")

    def test_accepted_and_not_kept(self, state: Path) -> None:
        with receiving(state, other_modalities="ignore") as node, calling(node, self.CONTEXTS) as assoc:
            mr = ct(SOPClassUID=MRImageStorage, SeriesInstanceUID="1.2.3")
            assert status(store(assoc, encode(mr), mr.SOPInstanceUID, MRImageStorage, context=0)) == 0x0000
            assert node.received() == []
            assert node.receiver.active_series() == frozenset()
            instance = ct()
            assert status(store(assoc, encode(instance), instance.SOPInstanceUID, context=1)) == 0x0000
            assert len(node.received()) == 1

    @pytest.mark.parametrize("mode", ["refuse", "ignore"])
    def test_a_class_that_is_not_in_the_standard(self, state: Path, mode: str) -> None:
        contexts = [(PRIVATE_STORAGE, ExplicitVRLittleEndian)]
        with receiving(state, other_modalities=mode) as node, calling(node, contexts) as assoc:
            assert assoc.accepted_contexts == []
            assert assoc.rejected_contexts[0].result == 3


class TestAdmission:
    """Who may open an association."""

    def test_another_called_title(self, node: Node, caplog: pytest.LogCaptureFixture) -> None:
        assert rejection(node, called_ae="SOMEONE") == (1, 1, 7)
        assert "rejected: called as 'SOMEONE', node.ae_title is DICOMNODE" in caplog.text

    def test_calling_titles(self, state: Path) -> None:
        with receiving(state, calling_ae_titles=["CT1", "CT2"]) as node:
            assert rejection(node, calling_ae="CT3") == (1, 1, 3)
            assert rejection(node, calling_ae="CT2") is None

    def test_one_too_many_is_told_to_come_again_and_may(self, state: Path) -> None:
        with receiving(state, max_associations=2) as node:
            with calling(node), calling(node):
                assert rejection(node) == (2, 3, 2)
            for _ in range(5):  # a released association gives its place back at once
                with calling(node) as one, calling(node) as other:
                    assert one.is_established
                    assert other.is_established

    @pytest.mark.parametrize(
        ("networks", "welcome"), [(["192.0.2.0/24"], False), (["192.0.2.0/24", "127.0.0.0/8"], True)]
    )
    def test_networks(self, state: Path, networks: list[str], welcome: bool) -> None:
        with receiving(state, networks=networks) as node, calling(node) as assoc:
            assert assoc.is_established is welcome

    def test_the_port_of_another_is_said_plainly(self, node: Node, state: Path) -> None:
        config = settings(state)
        config = config.model_copy(update={"node": config.node.model_copy(update={"port": node.port})})
        with pytest.raises(NodeError, match=f"cannot listen on 127.0.0.1 port {node.port}: Address already in use"):
            Receiver(config, Spool(state), lambda _: None).start()


class TestDisk:
    """A low disk, a full one, and one that fails."""

    def test_low_disk(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        free = SimpleNamespace(f_bavail=200 << 20, f_frsize=1)
        monkeypatch.setattr(os, "statvfs", lambda _: free)
        with receiving(state, min_free_disk_mb=100) as node, calling(node) as assoc:
            assert status(store_dataset(assoc, ct())) == 0x0000
            free.f_bavail = 100 << 20
            response = store_dataset(assoc, ct())
            assert status(response) == 0xA700
            assert "100 MB" in response.ErrorComment  # type: ignore[union-attr]
            assert rejection(node) is None  # not below the reserve, as long as nothing is written
            free.f_bavail = (100 << 20) - 1
            assert rejection(node) == (2, 3, 2)
            free.f_bavail = 300 << 20
            assert status(store_dataset(assoc, ct())) == 0x0000
            assert rejection(node) is None
        assert len(node.received()) == 2

    @pytest.mark.parametrize(
        ("name", "nth"), [("open", 1), ("write", 1), ("write", 2), ("fsync", 1), ("rename", 1), ("fsync", 2)]
    )
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
    def test_a_fault_at_any_step_is_never_answered_with_success(
        self, node: Node, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, code: int
    ) -> None:
        real = getattr(os, name)
        calls = 0

        def fault(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if threading.current_thread().name.startswith("association"):
                calls += 1
                if calls == nth:
                    raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        ds = ct()
        with calling(node) as assoc:
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fault)
                response = store_dataset(assoc, ds)
            assert calls >= nth
            assert status(response) == 0xA700
            assert response.ErrorComment  # type: ignore[union-attr]
            assert [path for path in node.spool.state_dir.rglob("*") if path.is_file()] == []
            assert node.stored == []
            assert status(store_dataset(assoc, ds)) == 0x0000
        assert len(node.received()) == 1

    def test_a_disk_that_is_gone(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(_: Path) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with calling(node) as assoc:
            monkeypatch.setattr(os, "statvfs", gone)
            assert status(store_dataset(assoc, ct())) == 0xA700
            assert rejection(node) == (2, 3, 2)
