"""What a result says about the other series of its study: one clause each. Pure rules over what the ledger holds.

The reasons on the series are for the node's administrator; they quote descriptions, UIDs and errors. These clauses
are for whoever reads the result. They are the software's own words, a name of a kernel the only exception: nothing
that could name a person goes into pixels and reports that may already be elsewhere when it is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from dicom_node import completion, selection
from dicom_node.config import CompletionSection
from dicom_node.ledger import Choice, InstanceRecord, SeriesRecord
from dicom_node.selection import Candidate
from dicom_node.states import SeriesState
from pipeline import others
from pipeline.geometry import FaultKind
from pipeline.others import OtherSeries

ENHANCED = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_STATES = {
    SeriesState.RECEIVING: "not whole yet",
    SeriesState.INCOMPLETE: "incomplete",
    SeriesState.FAILED: "its analysis failed",
    SeriesState.CANCELLED: "cancelled by a person",
}
_IMAGES = {
    "LOCALIZER": "localizer",
    "SCOUT": "localizer",
    "TOPOGRAM": "localizer",
    "SECONDARY": "secondary capture",
}
_REFORMATION = "reformation"  # whatever else is no slice
_FAULTS = {
    FaultKind.GAP: "slices are missing",
    FaultKind.DUPLICATE: "several slices at one position",
    FaultKind.ORIENTATION: "positions of slices do not fit together",
    FaultKind.SIZE: "slices of several sizes",
    FaultKind.TILT: "tilted gantry",
    FaultKind.SPACING: "slices too far apart or uneven",
    FaultKind.NOT_AXIAL: "not axial",
}


def told(
    choice: Choice,
    candidates: Sequence[Candidate],
    study: Mapping[str, Sequence[InstanceRecord]],
    rules: CompletionSection,
) -> tuple[OtherSeries, ...]:
    """The series of the chosen one's study and patient beside it, by their number.

    Args:
        choice: the chosen series among all that were seen.
        candidates: those that were compared.
        study: SeriesInstanceUID → instances, of every series that was seen.
        rules: [completion] of the configuration.
    """
    compared = {item.series.series_uid: item for item in candidates}
    found = []
    for series in choice.seen:
        instances = study[series.series_uid]
        if not instances or choice.chosen is None or not _is_beside(series, choice.chosen):
            continue
        if series.series_uid in compared:
            best = compared[choice.chosen.series_uid]
            why = selection.shortcoming(candidates, best, compared[series.series_uid])
            why += "" if why == others.ANOTHER_ASKED_FOR else ", another was chosen"
        else:
            why = _STATES.get(series.state) or _unfit(instances, rules)
        found.append(OtherSeries(others.series_number(instances[0].header.get("SeriesNumber")), why))
    return tuple(sorted(found, key=lambda other: (other.number is None, other.number or 0, other.why)))


def _is_beside(series: SeriesRecord, chosen: SeriesRecord) -> bool:
    """Another series of the same patient; a study may come under two by mistake."""
    whose = [(each.identity.patient_id, each.identity.patient_id_issuer) for each in (series, chosen)]
    return series.series_uid != chosen.series_uid and whose[0] == whose[1]


def _unfit(instances: Sequence[InstanceRecord], rules: CompletionSection) -> str:
    """Why a series was no candidate: in the order in which `completion` judges."""
    if any(record.purged for record in instances):
        return "its images are no longer here"
    if completion.conflict(instances):
        return "images contradict each other"
    if all(record.sop_class_uid in ENHANCED for record in instances):
        return "Enhanced CT"
    if any(record.sop_class_uid != CTImageStorage for record in instances) or _other_modality(instances):
        return "not CT"
    chosen = completion.slices(instances)
    if not chosen:
        return _IMAGES.get(completion.no_slice(instances[0].header) or "", _REFORMATION)
    if completion.not_chest(chosen[0].header):
        return "another part of the body"
    faults = completion.assessed(chosen, rules).faults
    if any(fault.kind is FaultKind.FEW for fault in faults):
        return f"{len(chosen)} slice{'' if len(chosen) == 1 else 's'} only"
    return _FAULTS[faults[0].kind] if faults else "could not be analysed"


def _other_modality(instances: Sequence[InstanceRecord]) -> bool:
    return any(str(record.header.get("Modality") or "CT") != "CT" for record in instances)
