"""Report series are brought from an archive, as `sources.retrieve` says: C-GET, or C-MOVE through our own receiver.

Either way the reports come here one by one, encoded; none is kept as a file, and their size and number are bounded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node import retrieve
from dicom_node.association_server import Answer
from dicom_node.config import Source
from dicom_node.errors import TransientError
from dicom_node.expected import Expected
from dicom_node.intake import OUT_OF_RESOURCES, SOP_CLASS_NOT_SUPPORTED, SUCCESS, failure
from dicom_node.retrieve import Retrieved
from dicom_node.upper_layer import Discarded, InstanceMemory
from pipeline import sr_reader

log = logging.getLogger(__name__)
MAX_REPORTS = 100  # fetched for one patient
MAX_BYTES = 8 * sr_reader.MAX_BYTES  # of all of them together
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
CONTEXTS = [build_context(Comprehensive3DSRStorage, list(SYNTAXES))]


@dataclass(frozen=True)
class ReportSeries:
    """A series that may hold reports, and the SOPInstanceUIDs that the archive lists; some list none."""

    study_uid: str
    series_uid: str
    instance_uids: tuple[str, ...]


class Collected:
    """Reports as they come, on threads of associations; each once, however often it is sent.

    What comes twice with other bytes is believed neither time: somebody else may use the archive's AE title.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[bytes, UID]] = {}
        self._doubtful: set[str] = set()

    def take(self, request: C_STORE, sop_class: UID, transfer_syntax: UID) -> Answer:
        """Keep one in memory, or say why not; as `retrieve.OnInstance`."""
        data, uid = request.DataSet, str(request.AffectedSOPInstanceUID)
        if sop_class != Comprehensive3DSRStorage or transfer_syntax not in SYNTAXES:
            return failure(SOP_CLASS_NOT_SUPPORTED, "not read as an earlier report")
        if data is None or isinstance(data, Discarded) or not self._keep(uid, data.getvalue(), transfer_syntax):
            return failure(OUT_OF_RESOURCES, "not taken as an earlier report")
        return Answer(SUCCESS)

    def _keep(self, uid: str, data: bytes, transfer_syntax: UID) -> bool:
        """False where there is no place for it, or it is doubtful."""
        with self._lock:
            if uid in self._doubtful:
                return False
            if (before := self._reports.get(uid)) is not None:
                return before == (data, transfer_syntax) or self._doubt(uid)
            there = sum(len(kept) for kept, _ in self._reports.values())
            full = len(self._reports) >= MAX_REPORTS or there + len(data) > MAX_BYTES
            if full or len(data) > sr_reader.MAX_BYTES:
                return False
            self._reports[uid] = data, transfer_syntax
        return True

    def _doubt(self, uid: str) -> bool:
        log.warning(
            "a report came twice with other content and is not believed: does somebody else use the AE title of "
            "the archive? Bind it to a certificate (tls.peers)"
        )
        self._doubtful.add(uid)
        del self._reports[uid]
        return False

    @property
    def reports(self) -> list[tuple[bytes, UID]]:
        """Encoded data sets with their transfer syntaxes."""
        with self._lock:
            return list(self._reports.values())


def bring(
    source: Source, series: Sequence[ReportSeries], calling_ae: str, expected: Expected
) -> list[tuple[bytes, UID]]:
    """Encoded data sets of what the archive sends of these series, with their transfer syntaxes.

    By C-MOVE nothing comes of a series whose instances the archive does not list.

    Raises:
        TransientError, PermanentError: as in `association`; the archive does not offer the service, or says that it
            has sent what did not come, and nothing came at all: of some the rest is counted by who asked.
    """
    collected = Collected()
    if source.retrieve == "get":
        if series:
            _retrieve(source, series, calling_ae, collected)
        return collected.reports
    listed = [one for one in series if one.instance_uids]
    uids = {uid for one in listed for uid in one.instance_uids}
    if not uids:
        return []
    with expected.instances(source.senders, uids, CONTEXTS, collected.take) as arrivals:
        retrieved = _retrieve(source, listed, calling_ae, collected)
        came = arrivals.wait_for(len(uids) - retrieved.failed, source.timeout_s)
    if came < len(uids) and not collected.reports:
        why = retrieve.lacking(source, retrieved, len(uids) - came, "reports", calling_ae)
        senders = ", ".join(sorted(source.senders))
        raise TransientError(
            f"{why} They are taken from {senders} only: another title that it sends as belongs into "
            "calling_ae_titles."
        )
    return collected.reports


def _retrieve(source: Source, series: Sequence[ReportSeries], calling_ae: str, collected: Collected) -> Retrieved:
    requests = [one for each in series for one in retrieve.identifiers(each.study_uid, each.series_uid)]
    memory = InstanceMemory(sr_reader.MAX_BYTES, 2 * sr_reader.MAX_BYTES)
    retrieved = retrieve.bring(source, requests, calling_ae, CONTEXTS, collected.take, memory, source.timeout_s)
    if retrieved.remark:
        log.warning("%s sends not all earlier reports: %s", source.name, retrieved.remark)
    return retrieved
