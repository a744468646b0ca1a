"""C-FIND: what an archive has, as service class user of the Study Root Query/Retrieve model (PS3.4 annex C).

Used by whoever asks a PACS: delivery (is the object there?), completeness (how many instances has the series?),
reconciliation, priors, cohorts. Every wait ends; errors as in `association`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelFind,
)

from dicom_node.association import NoContexts, Peer, associate, call, describe, failure
from dicom_node.audit_events import asking
from dicom_node.audit_message import Node
from dicom_node.errors import PermanentError
from pipeline.types import ObjectReference

MAX_MATCHES = 100_000  # of one query: more is no answer but a flood
PENDING = (0xFF00, 0xFF01)  # PS3.4 Table C.4-1
UNABLE_TO_PROCESS = range(0xC000, 0xD000)  # an archive that restarts says so too: asked again
WILDCARDS = frozenset("*?\\")  # PS3.4 C.2.2.2.4, and the separator of values
STUDY_KEYS = (
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "AccessionNumber",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "ModalitiesInStudy",
)
SERIES_KEYS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "BodyPartExamined",
    "ProtocolName",
    "NumberOfSeriesRelatedInstances",
)
UNIQUE_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")  # PS3.4 C.6.2.1
IMAGE_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "InstanceNumber")


def find(peer: Peer, queries: Iterable[Dataset], calling_ae: str) -> list[list[Dataset]]:
    """C-FIND for each query (made by `identifier`), on one association; the matches of each.

    Raises:
        TransientError, PermanentError: as in `association`; a query that the peer cannot process is transient.
    """
    try:
        with associate(peer, calling_ae, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as assoc:
            return [list(_asked(assoc, peer, query)) for query in queries]
    except NoContexts as error:
        raise PermanentError(
            f"{describe(peer)} does not answer queries (C-FIND, study root): ask the PACS administrator to allow "
            f"them for {calling_ae}."
        ) from error


def identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    """A query (PS3.4 C.4.1.1.3) at "STUDY", "SERIES" or "IMAGE" level; an empty value asks for the key."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def find_studies(peer: Peer, keys: Mapping[str, str], calling_ae: str) -> list[Dataset]:
    """Studies that match `keys` (DICOM keywords), each with `STUDY_KEYS` as far as the peer gives them."""
    return find(peer, [identifier("STUDY", {**dict.fromkeys(STUDY_KEYS, ""), **keys})], calling_ae)[0]


def find_series(peer: Peer, keys: Mapping[str, str], calling_ae: str) -> list[Dataset]:
    """Series that match `keys` (StudyInstanceUID among them), with `SERIES_KEYS` where the peer gives them."""
    return find(peer, [identifier("SERIES", {**dict.fromkeys(SERIES_KEYS, ""), **keys})], calling_ae)[0]


def find_images(peer: Peer, study_uid: str, series_uid: str, calling_ae: str) -> list[Dataset]:
    """Every instance of a series, with `IMAGE_KEYS` where the peer gives them."""
    keys = {**dict.fromkeys(IMAGE_KEYS, ""), "StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    matches = find(peer, [identifier("IMAGE", keys)], calling_ae)[0]
    return [match for match in matches if match.get("SOPInstanceUID")]


def find_instances(peer: Peer, references: Iterable[ObjectReference], calling_ae: str) -> set[str]:
    """Which of these objects the peer has: their SOP Instance UIDs."""
    queries = [
        identifier(
            "IMAGE",
            {
                "StudyInstanceUID": reference.study_uid,
                "SeriesInstanceUID": reference.series_uid,
                "SOPInstanceUID": reference.sop_instance_uid,
            },
        )
        for reference in references
    ]
    found = {
        str(match.get("SOPInstanceUID", "")) for matches in find(peer, queries, calling_ae) for match in matches
    }
    return found & {str(query.SOPInstanceUID) for query in queries}


def text(match: Dataset, keyword: str) -> str:
    """One attribute of a match as text; empty where the peer does not give it."""
    return str(match.get(keyword) or "").strip()


def number(match: Dataset, keyword: str) -> int | None:
    """One whole number of a match; None where the peer does not give it, or gives something else."""
    try:
        return int(text(match, keyword))
    except ValueError:
        return None


def is_exact(value: str) -> bool:
    """Whether a value given by a person matches itself and nothing else."""
    return bool(value.strip()) and WILDCARDS.isdisjoint(value)


def _asked(assoc: Association, peer: Peer, query: Dataset) -> Iterator[Dataset]:
    """The matches of a query, which goes into the audit trail whatever becomes of it."""
    sop_class, receiver = StudyRootQueryRetrieveInformationModelFind, Node(peer.ae_title, peer.ae_title, peer.host)
    with asking(receiver, sop_class, query):
        yield from _matches(assoc, peer, query)


def _matches(assoc: Association, peer: Peer, query: Dataset) -> Iterator[Dataset]:
    def answers() -> Iterator[tuple[Dataset, Dataset | None]]:  # sends only when the first answer is asked for
        yield from assoc.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)

    responses = answers()
    for _ in range(MAX_MATCHES):
        status, match = call(assoc, peer, lambda: next(responses))
        if status.Status not in PENDING:
            break
        if match is not None and _is_for(query, match):
            yield match
    else:
        raise PermanentError(f"{describe(peer)} gives more than {MAX_MATCHES} matches to one query.")
    if status.Status != 0x0000:
        raise failure(peer, "the query", status, may_pass=UNABLE_TO_PROCESS)


def _is_for(query: Dataset, match: Dataset) -> bool:
    """Whether a match is of what was asked for, by one UID or a list of them: not every archive keeps to that."""
    return all(_is_one_of(text(match, keyword), query.get(keyword)) for keyword in UNIQUE_KEYS)


def _is_one_of(uid: str, asked: str | Sequence[str] | None) -> bool:
    if not asked or not uid:
        return True
    return uid in ([asked] if isinstance(asked, str) else asked)
