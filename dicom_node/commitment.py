"""What a peer says about Storage Commitment: the Event Information of an N-EVENT-REPORT (PS3.4 J.3.3, PS3.3 C.14).

The report may come on the association that asked for it or on a new one, so that both the receiver and the
service class user read it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_node.errors import NotParsable
from dicom_node.malformed import MALFORMED, brief

PROCESSING_FAILURE = 0x0110
FAILURE_REASONS: Mapping[int, str] = {  # PS3.3 C.14.1.1
    PROCESSING_FAILURE: "processing failure",
    0x0112: "no such object instance",
    0x0213: "resource limitation",
    0x0122: "SOP class not supported",
    0x0119: "class and instance conflict",
    0x0131: "duplicate transaction UID",
}


@dataclass(frozen=True)
class CommitmentReport:
    """The answer to one commitment request.

    Attributes:
        transaction_uid: the TransactionUID of the request.
        committed: SOP Instance UIDs that the peer has taken responsibility for.
        failed: (SOP Instance UID, Failure Reason (0008,1197)) of those it has not.
    """

    transaction_uid: str
    committed: tuple[str, ...]
    failed: tuple[tuple[str, int], ...]


def parse(event_information: Dataset) -> CommitmentReport:
    """Read a decoded Event Information (PS3.4 Table J.3-2), of event type 1 (all committed) or 2 (failures exist).

    Raises:
        NotParsable: it names no transaction, or an item names no SOP instance.
    """
    try:
        transaction_uid = str(event_information.get("TransactionUID") or "")
        committed = tuple(_uid(item) for item in event_information.get("ReferencedSOPSequence") or ())
        failed = tuple(
            (_uid(item), int(item.get("FailureReason") or PROCESSING_FAILURE))
            for item in event_information.get("FailedSOPSequence") or ()
        )
    except (*MALFORMED, OSError) as error:  # OSError: pydicom's, of a sequence that breaks off
        raise NotParsable(f"the commitment report cannot be read: {brief(error)}") from error
    if not transaction_uid:
        raise NotParsable("the commitment report has no TransactionUID")
    return CommitmentReport(transaction_uid, committed, failed)


def describe(reason: int) -> str:
    """A Failure Reason in words, with its code."""
    return f"{FAILURE_REASONS.get(reason, 'reason not in the standard')} (0x{reason:04X})"


def _uid(item: Dataset) -> str:
    uid = str(item.get("ReferencedSOPInstanceUID") or "")
    if not uid:
        raise NotParsable("an item of the commitment report has no ReferencedSOPInstanceUID")
    return uid
