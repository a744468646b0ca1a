"""`dicomnode send-test`: marked test objects to a destination, and for each what was answered and what is kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.carrier import Carrier, carrier
from dicom_node.commitment import CommitmentReport, describe
from dicom_node.config import AnyDestination, Config
from dicom_node.errors import PermanentError, TransientError
from dicom_node.ledger import Ledger
from dicom_node.postbox import Postbox
from dicom_node.scu import StoreResult
from pipeline import testset
from pipeline.types import ObjectReference

Kept = dict[str, tuple[bool, str]]  # SOP Instance UID → whether it is kept, and how that is known
STAY_S, LOOK_EVERY_S = 5.0, 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of one object; `good` means that it arrived and, as far as it was asked, stays."""

    name: str
    sop_instance_uid: str
    answer: str
    kept: str
    good: bool


def run(
    config: Config, destination: AnyDestination, ledger: Ledger | None, with_ct: bool, wait_s: float
) -> list[Outcome]:
    """Make a new set for the profile of the destination and send it; `ledger` None where the node never ran."""
    clock = partial(datetime.now, UTC)
    with TemporaryDirectory(prefix="dicomnode-test-") as name:
        made = testset.write(Path(name), config.profile(destination.profile), clock().astimezone(), with_ct)
        taken = [item.path for item in made.objects if item.kind in destination.kinds]
        files = [*(made.ct if destination.takes_images else ()), *taken]
        return send(destination, carrier(destination, config.node.ae_title), files, Postbox(ledger, clock), wait_s)


def send(
    destination: AnyDestination, reached: Carrier, files: Sequence[Path], postbox: Postbox, wait_s: float
) -> list[Outcome]:
    """Store the files and make sure of them the way that the destination is configured; waits at most `wait_s`."""
    results: dict[Path, StoreResult] = {}

    def note(result: StoreResult) -> None:
        results[result.path] = result

    reached.store(files, note)
    references = {path: _reference(path) for path in files}
    stored = [references[path] for path in files if results[path].error is None]
    kept = _make_sure(destination, reached, stored, postbox, wait_s) if stored else {}
    return [_outcome(path, references[path], results[path], kept) for path in files]


def _outcome(
    path: Path, reference: ObjectReference, result: StoreResult, kept: dict[str, tuple[bool, str]]
) -> Outcome:
    good, told = kept.get(reference.sop_instance_uid, (False, ""))
    answer = str(result.error or result.warning or "stored")
    return Outcome(path.stem, reference.sop_instance_uid, answer, told, good and result.error is None)


def _make_sure(
    destination: AnyDestination,
    reached: Carrier,
    references: Sequence[ObjectReference],
    postbox: Postbox,
    wait_s: float,
) -> Kept:
    """By SOP Instance UID: whether the destination keeps it, and how that is known."""
    if destination.verify == "none":
        return {each.sop_instance_uid: (True, 'not asked: verify = "none"') for each in references}
    if destination.verify == "find":
        return _find(reached, references, wait_s, "")
    try:
        report = _commitment(reached, references, postbox, wait_s)
    except (TransientError, PermanentError) as error:
        return _find(reached, references, wait_s, f"; no commitment: {error}")
    if report is None:
        return _find(reached, references, LOOK_EVERY_S, f"; no commitment report came within {wait_s:g} s")
    failed = {uid: (False, f"not committed: {describe(code)}") for uid, code in report.failed}
    return {uid: (True, "committed") for uid in report.committed} | failed


def _commitment(
    reached: Carrier, references: Sequence[ObjectReference], postbox: Postbox, wait_s: float
) -> CommitmentReport | None:
    """Ask for commitment; the report from this association or from the running node, None where none comes."""
    reports: list[CommitmentReport] = []
    answered = threading.Event()

    def take(report: CommitmentReport) -> None:
        reports.append(report)
        answered.set()

    transaction_uid = str(generate_uid(prefix=None))
    postbox.announce(transaction_uid)
    reached.request_commitment(references, transaction_uid, take, answered, min(STAY_S, wait_s))
    pause = threading.Event()
    for _ in range(int(wait_s / LOOK_EVERY_S) + 1):
        report = reports[0] if reports else postbox.look(transaction_uid)
        if report is not None:
            return report
        pause.wait(LOOK_EVERY_S)
    return None


def _find(reached: Carrier, references: Sequence[ObjectReference], wait_s: float, because: str) -> Kept:
    """Look until all are listed or the time is over."""
    pause = threading.Event()
    found: set[str] = set()
    error = ""
    for _ in range(int(wait_s / LOOK_EVERY_S) + 1):
        try:
            found, error = reached.find_instances(references), ""
        except (TransientError, PermanentError) as fault:
            error = f": {fault}"
        if found >= {each.sop_instance_uid for each in references}:
            break
        pause.wait(LOOK_EVERY_S)
    return {
        each.sop_instance_uid: (True, f"found by {reached.query_name}{because}")
        if each.sop_instance_uid in found
        else (False, f"not found by {reached.query_name}{error}{because}")
        for each in references
    }


def _reference(path: Path) -> ObjectReference:
    ds = dcmread(path, stop_before_pixels=True)
    return ObjectReference(
        str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID)
    )
