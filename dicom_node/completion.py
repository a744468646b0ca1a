"""Whether a series is whole, and whether it is meant for analysis. Pure rules over what the ledger holds.

No timer alone shows that a series is whole. Where its sender belongs to a source, the number that the source lists
comes first (`statement`); what it lists and is not here is fetched. In this order:

1. Quiet: no association is sending it, and nothing came for `series_quiet_s`. Until then nothing is judged. Time
   in which the node was off does not count: nobody could send then.
2. Conflicts: a SOP instance that came with other pixels. The node cannot know which is right.
3. Kind: CT Image Storage; not localizers, secondary captures or reformations by ImageType value 2 and following
   (PS3.3 C.8.2.1.1.1). DERIVED alone never rejects. Single images of these kinds among slices are left out.
4. One patient: a correction in the PACS that has reached a part of the instances is waited for.
5. Body part: rejected where BodyPartExamined (PS3.16 annex L) is one far from the lungs and no description names
   the chest. Anything else is left to the lungs that are found, or not, in the pixels.
6. Retention: what was purged before a late slice or a person reopened the series is asked for again.
   The source: what it lists and is not here is waited for, whatever the geometry says.
7. Geometry: faults that no further slice can heal end the series; gaps are waited for, and so are holes in
   InstanceNumber where it tells the position.

A series that a later instance reaches is judged again, whatever was decided.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise
from typing import Any

from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from dicom_node.config import CompletionSection
from dicom_node.corrections import distinct, numbers, without_replaced
from dicom_node.ledger import InstanceRecord, SeriesRecord
from dicom_node.statement import Statement
from dicom_node.states import InstanceState, SeriesState
from pipeline.ct_header import PATIENT
from pipeline.geometry import Assessment, FaultKind, Limits, Slice, assess, normal

RELEASE_PAUSE = timedelta(seconds=5)  # before looking again, should nobody tell that an association was released

NO_SLICE = frozenset(  # words of ImageType
    {"LOCALIZER", "SCOUT", "TOPOGRAM", "SECONDARY", "MPR", "CPR", "MIP", "MINIP", "AVIP", "VRT", "SSD"}
    | {"REFORMATTED", "PROJECTION", "RENDERING"}
)
CHEST = re.compile(
    r"chest|thora|t[oó]r[aá][ckx]|lung|pulm|brust|poumon|poitrine|petto|polmon|covid"
    r"|(?<![a-z])([ct][\W_]?a[\W_]?p|thx|chst|hrct)(?![a-z])"
    r"|klatk|hrudn|keuhko|\blongen\b|грудн|л[её]гк|θώρακ|胸|肺|흉부|폐",
    re.IGNORECASE,
)
# BodyPartExamined of parts that hold little lung or none, as PS3.16 annex L and devices write them.
ELSEWHERE = re.compile(
    "HEAD|HEADNECK|BRAIN|SKULL|FACE|ORBITS?|EYE|EAR|IAC|SINUS(ES)?|NOSE|MOUTH|JAW|TMJ|MANDIBLE|MAXILLA|TEETH|TONGUE"
    "|NECK|CAROTID|THYROID|PAROTID|CIRCLEOFWILLIS|[CTLS]+SPINE|LUMBARSPINE|COCCYX"
    "|ABDOMEN|ABDOMENPELVIS|ABDPEL|ABD|LIVER|SPLEEN|PANCREAS|GALLBLADDER|KIDNEYS?|STOMACH|COLON|RECTUM|BLADDER"
    "|PELVIS|PROSTATE|UTERUS|OVARY|HEART|CORONARYARTERY|(UPPER|LOWER)?EXTREMITY|SHOULDER|CLAVICLE|SCAPULA|ARM|HUMERUS"
    "|ELBOW|FOREARM|WRIST|HAND|FINGER|THUMB|HIP|THIGH|FEMUR|LEG|KNEE|PATELLA|CALF|ANKLE|CALCANEUS|FOOT|TOE"
)
ONE_OF = (*PATIENT, "StudyInstanceUID", "AccessionNumber")  # a series has one of each
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
CURABLE = frozenset({FaultKind.GAP})
SAME_PLACE = 0.1  # of the distance of neighbours

Header = Mapping[str, Any]


@dataclass(frozen=True)
class Wait:
    """Nothing is decided yet: look again at `until`, or when something changes."""

    until: datetime
    reason: str = ""


@dataclass(frozen=True)
class Ending:
    """RECEIVING is over. `completeness` says for a COMPLETE series how it was shown to be whole."""

    state: SeriesState
    reason: str = ""
    completeness: str = ""


def quiet(series: SeriesRecord, active: bool, now: datetime, rules: CompletionSection) -> Wait | None:
    """None once it is time to judge: the quiet time is over, and no association is at it.

    `active`: one that is still open has sent an instance of it a short time ago; see `Receiver.active_series`.
    """
    due = series.last_instance_at + timedelta(seconds=rules.series_quiet_s)
    if now < due:
        return Wait(due)
    return Wait(now + RELEASE_PAUSE) if active else None


def unfit(instances: Sequence[InstanceRecord]) -> str:
    """Why a series is not analysed whatever else comes: rules 2, 3, 5, and slices without a place. Else empty."""
    for fault in (conflict, _kind):
        if reason := fault(instances):
            return reason
    chosen = slices(instances)
    return not_chest(chosen[0].header) or _without_place(chosen)


def judge(
    series: SeriesRecord,
    instances: Sequence[InstanceRecord],
    now: datetime,
    rules: CompletionSection,
    statement: Statement | None = None,
) -> Wait | Ending:
    """Decide over a series that is quiet.

    Args:
        series: as the ledger has it.
        instances: CURRENT and CONFLICTING ones, as `Ledger.current_instances` gives them.
        now: the present.
        rules: [completion] of the configuration.
        statement: what its source says; None where it has none.
    """
    if reason := unfit(instances):
        return Ending(SeriesState.NOT_ANALYSED, reason)
    chosen = slices(instances)
    assessment = assessed(chosen, rules)
    lacks = statement.lacks if statement is not None else ""
    incurable = [fault.text for fault in assessment.faults if fault.kind not in CURABLE]
    if incurable and not lacks:
        return Ending(SeriesState.NOT_ANALYSED, "; ".join(incurable))
    missing = [*filter(None, [lacks]), *_purged(chosen), *_mixed_patients(chosen)]
    missing += [fault.text for fault in assessment.faults]
    missing += [] if assessment.faults else _holes([chosen[index] for index in assessment.order])
    if missing:
        return _wait_or_give_up(series, "; ".join(missing), now, rules, statement)
    sentence = _sentence(chosen, assessment, instances, rules)
    shown = statement.shown if statement is not None else []
    return Ending(SeriesState.COMPLETE, completeness="; ".join([*shown, sentence]))


def assessed(chosen: Sequence[InstanceRecord], rules: CompletionSection) -> Assessment:
    """The geometry of `slices`, held against the limits of the configuration."""
    limits = Limits(rules.min_slices, rules.max_slice_spacing_mm, rules.max_oblique_deg)
    return assess([_slice(record) for record in chosen], limits)


def slices(instances: Sequence[InstanceRecord]) -> list[InstanceRecord]:
    """The instances to analyse: CURRENT ones that are slices, one for each place where they are the same slice.

    Those that show the same are one slice. Where one came under a new SOP Instance UID later, at the same place and
    with the same number but other pixels, it is a correction: the one received last counts.
    """
    return without_replaced(_distinct(instances))


def _distinct(instances: Sequence[InstanceRecord]) -> list[InstanceRecord]:
    return distinct(
        record for record in instances if record.state is InstanceState.CURRENT and no_slice(record.header) is None
    )


def geometry(chosen: Sequence[InstanceRecord]) -> tuple[float, float]:
    """Extent from the first to the last slice and usual distance of neighbours, mm; of slices that were judged."""
    no_limits = Limits(min_slices=0, max_slice_spacing_mm=math.inf, max_oblique_deg=90.0)
    spacing_mm = assess([_slice(record) for record in chosen], no_limits).spacing_mm
    return spacing_mm * (len(chosen) - 1), spacing_mm


def conflict(instances: Sequence[InstanceRecord]) -> str:
    """Why it is not known what the series shows (rule 2); empty where it is."""
    uids = sorted({record.sop_instance_uid for record in instances if record.state is InstanceState.CONFLICTING})
    if not uids:
        return ""
    more = f" and {len(uids) - 1} more" if len(uids) > 1 else ""
    return (
        f"conflicting instance {uids[0]}{more}: it came twice with different pixels. "
        "Find out which is right; `dicomnode retry` takes what was received last"
    )


def _kind(instances: Sequence[InstanceRecord]) -> str:
    """Why this is no series of CT slices; empty where it is one."""
    if not instances:
        return "no instance is left: all were corrected into other series"
    for uid in sorted({record.sop_class_uid for record in instances} - {CTImageStorage}):
        if uid in (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage):
            return f"{UID(uid).name} is kept but not analysed: send the series as CT Image Storage"
        return f"not CT: the SOP class is {UID(uid).name}"
    modalities = {str(record.header.get("Modality") or "CT") for record in instances} - {"CT"}
    if modalities:
        return f"not CT: Modality is {', '.join(sorted(modalities))}"
    if slices(instances):
        return ""
    kinds = Counter(no_slice(record.header) for record in instances)
    listed = ", ".join(str(kind) for kind, _ in kinds.most_common(3))
    return f"no slices of a volume: ImageType says {listed}"


def no_slice(header: Header) -> str | None:
    """One of `NO_SLICE`: what ImageType calls an image that is no slice of an acquired volume."""
    value = header.get("ImageType") or ""
    words = re.split(r"[^A-Z0-9]+", " ".join(map(str, value if isinstance(value, list) else [value])).upper())
    return next((word for word in words if word in NO_SLICE), None)


def not_chest(header: Header) -> str:
    """Why tags say that this is another part of the body (rule 5); empty where they do not."""
    part = str(header.get("BodyPartExamined") or "")
    told = " ".join(str(header.get(key) or "") for key in ("SeriesDescription", "StudyDescription", "ProtocolName"))
    if not ELSEWHERE.fullmatch(re.sub(r"[^A-Z]", "", part.upper())) or CHEST.search(told):
        return ""
    return f"not the chest: BodyPartExamined is {part}, and no description names the chest"


def _without_place(chosen: Sequence[InstanceRecord]) -> str:
    """Which attributes of the Image Plane Module (PS3.3 C.7.6.2) are absent, and in how many slices."""
    absent = Counter(keyword for record in chosen for keyword in PLACE if not record.header.get(keyword))
    return "; ".join(f"{keyword} is absent in {count} of {len(chosen)} slices" for keyword, count in absent.items())


def _purged(chosen: Sequence[InstanceRecord]) -> list[str]:
    """What retention has removed since, and a new analysis would need."""
    gone = sum(record.purged for record in chosen)
    return [f"{gone} of {len(chosen)} instances were purged from this node: send the series again"] if gone else []


def _mixed_patients(chosen: Sequence[InstanceRecord]) -> list[str]:
    """Attributes in which the instances of one series must agree, and do not."""
    found = []
    for keyword in ONE_OF:
        values = {str(record.header.get(keyword) or "") for record in chosen}
        if len(values) > 1:
            found.append(keyword)
    return (
        [f"the instances disagree in {', '.join(found)}: a correction has reached a part of them"] if found else []
    )


def _holes(ordered: Sequence[InstanceRecord]) -> list[str]:
    """Missing slices that uneven distances alone do not show: InstanceNumber grows with position, but not evenly.

    An even stride is no hole: some devices number two reconstructions in turn.
    """
    told = [record.header.get("InstanceNumber") for record in ordered]
    known = [number for number in told if isinstance(number, int)]
    strides = {after - before for before, after in pairwise(known)}
    if len(known) < len(ordered) or len(strides) < 2 or known[-1] == known[0]:
        return []
    axis = normal(_slice(ordered[0]).orientation)
    along = [float(axis @ _slice(record).position_mm) for record in ordered]
    per_number = (along[-1] - along[0]) / (known[-1] - known[0])
    expected = [along[0] + per_number * (number - known[0]) for number in known]
    if max(abs(a - b) for a, b in zip(along, expected, strict=True)) > SAME_PLACE * abs(per_number):
        return []
    present = set(known)
    gone = list(islice((number for number in range(min(known), max(known)) if number not in present), 6))
    return [f"slices are missing: InstanceNumber {', '.join(map(str, gone[:5]))}{' and more' if gone[5:] else ''}"]


def _wait_or_give_up(
    series: SeriesRecord, reason: str, now: datetime, rules: CompletionSection, statement: Statement | None
) -> Wait | Ending:
    """Never given up before the source was asked for what is missing, however short the wait."""
    due = series.last_instance_at + timedelta(seconds=rules.incomplete_after_s)
    again_at = max(statement.again_at, now + RELEASE_PAUSE) if statement is not None else due
    if statement is not None and statement.pending:
        return Wait(again_at, reason)
    if now < due:
        return Wait(min(due, again_at), f"waits until {due:%Y-%m-%d %H:%M:%S} UTC: {reason}")
    waited = f"given up after {rules.incomplete_after_s:g} s without a new instance"
    unknown = ""
    if statement is not None and statement.listed is None:
        unknown = f"; {statement.source} could not be asked for them: {statement.remark}"
    return Ending(SeriesState.INCOMPLETE, f"{waited}: {reason}{unknown}")


def _sentence(
    chosen: Sequence[InstanceRecord],
    assessment: Assessment,
    instances: Sequence[InstanceRecord],
    rules: CompletionSection,
) -> str:
    """How it was shown that the series is whole. ASCII: it goes into the SR."""
    replaced = len(_distinct(instances)) - len(chosen)
    left_out = sum(record.state is InstanceState.CURRENT for record in instances) - len(chosen) - replaced
    parts = [
        f"{len(chosen)} slices at regular distances of {assessment.spacing_mm:.2f} mm without gap",
        f"no association was sending it and no further instance came for {rules.series_quiet_s:g} s",
        _numbering(chosen),
    ]
    if replaced:
        parts.append(f"{replaced} slices replaced by later ones at the same position")
    if left_out:
        parts.append(f"{left_out} localizers, reformations or repeated slices left out")
    return "; ".join(parts)


def _numbering(chosen: Sequence[InstanceRecord]) -> str:
    told = [record.header.get("InstanceNumber") for record in chosen]
    known = sorted({int(number) for number in told if isinstance(number, int | float)})
    if len(known) < len(chosen):
        return "InstanceNumber absent or repeated"
    holes = "without hole" if known[-1] - known[0] + 1 == len(known) else "with holes"
    return f"InstanceNumber {known[0]} to {known[-1]} {holes}"


def _slice(record: InstanceRecord) -> Slice:
    """Geometry of an instance; what cannot be used becomes NaN, which `assess` names as a fault."""
    header = record.header
    x, y, z = numbers(header, "ImagePositionPatient", 3)
    a, b, c, d, e, f = numbers(header, "ImageOrientationPatient", 6)
    row_mm, column_mm = numbers(header, "PixelSpacing", 2)
    (rows,), (columns,) = numbers(header, "Rows", 1, 0.0), numbers(header, "Columns", 1, 0.0)
    return Slice(
        key=record.sop_instance_uid,
        position_mm=(x, y, z),
        orientation=(a, b, c, d, e, f),
        pixel_spacing_mm=(row_mm, column_mm),
        rows=int(rows),
        columns=int(columns),
    )
