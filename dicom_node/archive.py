"""A small archive for `dicomnode demo` and for tests: Storage, Storage Commitment and Query over files in a folder.

It does what a PACS does, honestly by default. How it may misbehave is given as functions (`answer_store`,
`answer_commitment`), so that each fault is written where it is wanted. No substitute for a PACS.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from socketserver import BaseServer
from typing import Any, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    LabelMapSegmentationStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from dicom_node.association import associate
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Destination
from dicom_node.errors import PermanentError, TransientError

STORAGE_CLASSES = (
    CTImageStorage,
    SegmentationStorage,
    LabelMapSegmentationStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    SecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
)
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
)
CONTEXTS = (
    *(build_context(uid, list(TRANSFER_SYNTAXES)) for uid in STORAGE_CLASSES),
    build_context(Verification),
    build_context(StorageCommitmentPushModel),
    build_context(StudyRootQueryRetrieveInformationModelFind),
)
SUCCESS, PENDING = 0x0000, 0xFF00
OUT_OF_RESOURCES, CANNOT_UNDERSTAND, NO_SUCH_INSTANCE = 0xA700, 0xC000, 0x0112
_LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_COUNTS = {
    "NumberOfStudyRelatedInstances": "SOPInstanceUID",
    "NumberOfStudyRelatedSeries": "SeriesInstanceUID",
    "NumberOfSeriesRelatedInstances": "SOPInstanceUID",
}

_NOT_COMPARED = {"QueryRetrieveLevel", "SpecificCharacterSet", "ModalitiesInStudy", *_COUNTS}


@dataclass(frozen=True)
class KeptInstance:
    """One stored object: its file, the hash of its data set as received, and its header without pixel data."""

    path: Path
    sha256: str
    header: Dataset


@dataclass(frozen=True)
class Address:
    """Where a peer listens for reports."""

    host: str
    port: int


def accept(event: evt.Event) -> int:
    """The honest answer to a C-STORE."""
    return SUCCESS


def honest(report: CommitmentReport) -> CommitmentReport | None:
    """The honest answer to a commitment request: what is here is committed, the rest is not."""
    return report


class Archive:
    """A storage SCP that also commits and answers queries; listens between `start` and `stop`.

    Attributes:
        instances: by SOP Instance UID. The first bytes of a UID stay, as in Orthanc.
        conflicts: UIDs that came again with other bytes.
        peers: by AE title, where commitment reports are sent to.
        answer_store: gives the status of a C-STORE before anything is kept; a failure keeps nothing.
        answer_commitment: gives the report that is sent instead of the honest one, or None for silence.
        same_association: report on the association of the request, instead of on a new one.
    """

    def __init__(
        self,
        folder: Path,
        ae_title: str = "ARCHIVE",
        *,
        answer_store: Callable[[evt.Event], int] = accept,
        answer_commitment: Callable[[CommitmentReport], CommitmentReport | None] = honest,
        same_association: bool = False,
        calling_ae_titles: tuple[str, ...] = (),
        contexts: Sequence[PresentationContext] = CONTEXTS,
    ) -> None:
        """Keep objects below `folder`; only `calling_ae_titles` may call (empty: any) and ask for `contexts`."""
        self.folder = folder
        self.ae_title = ae_title
        self.answer_store = answer_store
        self.answer_commitment = answer_commitment
        self.same_association = same_association
        self.instances: dict[str, KeptInstance] = {}
        self.conflicts: list[str] = []
        self.peers: dict[str, Address] = {}
        self._sop_classes: dict[str, str] = {}  # by SOP Instance UID, of what commitment was asked for
        self._changed = threading.Condition()
        self._reporters: list[threading.Thread] = []
        self._entity = ApplicationEntity(ae_title)
        self._entity.require_called_aet = True
        self._entity.require_calling_aet = list(calling_ae_titles)
        self._entity.supported_contexts = list(contexts)
        self._server: ThreadedAssociationServer | None = None

    def start(self, bind: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the port (a free one where 0 is given). Files that lie in the folder are there again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("*.dcm")):
            self._index(path)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _send_at_once),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_N_ACTION, self._on_commitment_request),
        ]
        server = self._entity.make_server(
            (bind, port), evt_handlers=handlers, server_class=ThreadedAssociationServer
        )
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": None}, daemon=True).start()
        self._server = server
        return int(cast(socket.socket, server.socket).getsockname()[1])

    def stop(self) -> None:
        """Stop listening, end open associations and wait for reports on their way; may be called again."""
        server, self._server = self._server, None
        if server is None:
            return
        cast(socket.socket, server.socket).shutdown(socket.SHUT_RDWR)  # wakes the listening thread
        BaseServer.shutdown(server)
        server.server_close()
        self._entity.shutdown()
        for reporter in self._reporters:
            reporter.join()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds, looking whenever something was stored; whether it does."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def report(self, calling_ae: str, report: CommitmentReport) -> None:
        """Send a commitment report to a peer on a new association, as the SCP that requests it (PS3.4 J.3.3).

        Raises:
            TransientError, PermanentError: the peer cannot be reached or refuses.
        """
        context = build_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        address = self.peers[calling_ae]
        peer = Destination(name="caller", ae_title=calling_ae, host=address.host, port=address.port, timeout_s=10)
        with associate(peer, self.ae_title, [context], roles=[role]) as assoc:
            self._send_report(assoc, report)

    # --- Storage --------------------------------------------------------------------------------------------

    def _on_store(self, event: evt.Event) -> int:
        status = self.answer_store(event)
        uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        if status != SUCCESS and status >> 12 != 0xB:
            return status
        if not UID(uid).is_valid:  # it becomes the name of a file
            return CANNOT_UNDERSTAND
        content = event.encoded_dataset(include_meta=True)
        path = self.folder / f"{uid}.dcm"
        with self._changed:
            known = self.instances.get(uid)
            if known is None:
                path.write_bytes(content)
                if not self._index(path):
                    return CANNOT_UNDERSTAND
            elif known.sha256 != _data_set_sha256(content):
                self.conflicts.append(uid)
            self._changed.notify_all()
        return status

    def _index(self, path: Path) -> bool:
        try:
            header = dcmread(path, stop_before_pixels=True)
            kept = KeptInstance(path, _data_set_sha256(path.read_bytes()), header)
            self.instances[str(header.SOPInstanceUID)] = kept
        except (InvalidDicomError, AttributeError, EOFError, ValueError):
            path.unlink()
            return False
        return True

    # --- Storage Commitment ---------------------------------------------------------------------------------

    def _on_commitment_request(self, event: evt.Event) -> tuple[int, None]:
        request = event.action_information
        asked = {str(item.ReferencedSOPInstanceUID): item for item in request.ReferencedSOPSequence}
        self._sop_classes.update({uid: str(item.ReferencedSOPClassUID) for uid, item in asked.items()})
        report = self.answer_commitment(
            CommitmentReport(
                str(request.TransactionUID),
                tuple(uid for uid in asked if uid in self.instances),
                tuple((uid, NO_SUCH_INSTANCE) for uid in asked if uid not in self.instances),
            )
        )
        if report is not None:  # in a thread: the request is answered first
            reporter = threading.Thread(target=self._answer, args=(event.assoc, report), daemon=True)
            self._reporters.append(reporter)
            reporter.start()
        return SUCCESS, None

    def _answer(self, assoc: Association, report: CommitmentReport) -> None:
        with suppress(TransientError, PermanentError, RuntimeError):  # a peer that has gone asks again
            if self.same_association:
                self._send_report(assoc, report)
            elif assoc.requestor.ae_title in self.peers:
                self.report(assoc.requestor.ae_title, report)

    def _send_report(self, assoc: Association, report: CommitmentReport) -> None:
        """N-EVENT-REPORT of event type 1 (all committed) or 2 (failures exist), PS3.4 Table J.3-2."""
        information = Dataset()
        information.TransactionUID = report.transaction_uid
        if report.committed:
            information.ReferencedSOPSequence = [self._item(uid) for uid in report.committed]
        if report.failed:
            information.FailedSOPSequence = [self._item(uid, reason) for uid, reason in report.failed]
        assoc.send_n_event_report(
            information,
            2 if report.failed else 1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )

    def _item(self, uid: str, reason: int | None = None) -> Dataset:
        item = Dataset()
        item.ReferencedSOPClassUID = self._sop_classes.get(uid, "")
        item.ReferencedSOPInstanceUID = uid
        if reason is not None:
            item.FailureReason = reason
        return item

    # --- Query ----------------------------------------------------------------------------------------------

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        unique_key = _LEVELS.get(query.get("QueryRetrieveLevel", ""))
        if unique_key is None:
            yield CANNOT_UNDERSTAND, None
            return
        groups: dict[str, list[Dataset]] = {}
        for kept in list(self.instances.values()):
            if _fits(kept.header, query):
                groups.setdefault(str(kept.header[unique_key].value), []).append(kept.header)
        for headers in groups.values():
            yield PENDING, _match(query, headers)


def _send_at_once(event: evt.Event) -> None:
    sock = cast(AssociationSocket, event.assoc.dul.socket).socket
    cast(socket.socket, sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _data_set_sha256(content: bytes) -> str:
    """Hash of what follows the file meta information, whose length stands in its first element (PS3.10 7.1)."""
    group_length = int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[144 + group_length :]).hexdigest()


def _fits(header: Dataset, query: Dataset) -> bool:
    """Whether an instance matches every key (PS3.4 C.2.2.2): single value, list of UID, wildcard or dates."""
    for element in query:
        if element.keyword in _NOT_COMPARED or element.is_empty:
            continue
        value = str(header.get(element.keyword, "") or "")
        wanted = [str(item) for item in (element.value if element.VM > 1 else [element.value])]
        if element.VR == "DA" and "-" in wanted[0]:
            first, last = wanted[0].split("-")
            fits = bool(value) and first <= value <= (last or value)
        else:
            fits = any(fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in wanted)
        if not fits:
            return False
    return True


def _match(query: Dataset, headers: list[Dataset]) -> Dataset:
    """The answer for one study, series or instance: the keys that were asked for."""
    answer = Dataset()
    for element in query:
        keyword = element.keyword
        if keyword in _COUNTS:
            count = len({str(header.get(_COUNTS[keyword])) for header in headers})
            setattr(answer, keyword, count)
        elif keyword == "QueryRetrieveLevel":
            answer.QueryRetrieveLevel = element.value
        elif keyword == "ModalitiesInStudy":
            answer.ModalitiesInStudy = sorted({str(header.get("Modality", "")) for header in headers})
        elif keyword:
            setattr(answer, keyword, headers[0].get(keyword))
    return answer
