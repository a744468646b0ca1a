"""What the created objects hold, found by making some: two synthetic patients, compared with their sources.

What is equal in both sets of a kind and is not the source's is fixed; what equals the source's in both comes from
there; the rest is made for each object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import Comprehensive3DSRStorage

from pipeline import header, phantom, run, scores
from pipeline.arrays import LungMask
from pipeline.others import OtherSeries
from pipeline.priors import Prior, Priors, Shares, Technique
from pipeline.types import (
    Analysis,
    Flag,
    ModelIdentity,
    ObjectReference,
    Profile,
    Region,
    ResultContext,
    ResultKind,
)

SMALL = phantom.PhantomSpec(slices=20, rows=72, columns=80, slice_spacing_mm=14.0)
BULK = frozenset({"PixelData", "NumberOfFrames", "EncapsulatedDocument", "EncapsulatedDocumentLength"})
ELSEWHERE = {  # sequences that are not listed item by item
    "ContentSequence": "see the content of the SR",
    "PerFrameFunctionalGroupsSequence": "place, segment and source image of each frame",
    "CurrentRequestedProcedureEvidenceSequence": "every source image and every SEG of the set",
    "ReferencedSeriesSequence": "every source image of a frame",
    "SourceImageSequence": "source images of the object",
}
DEEPEST = 3
LONGEST = 60
Pair = tuple[Dataset, Dataset]


@dataclasses.dataclass(frozen=True)
class Made:
    """A result set, and the header that it was made from."""

    source: Dataset
    objects: dict[ResultKind, Dataset]


@cache
def examples() -> tuple[Made, Made]:
    """Two sets of two patients, days, models and revisions."""
    return _made(1), _made(2)


def _made(number: int) -> Made:
    spec = dataclasses.replace(SMALL, rows=SMALL.rows + 8 * number, slice_spacing_mm=12.0 + number)
    drawn = phantom.make(spec, number)
    extra = {
        "PatientName": f"Example^{number}",
        "PatientID": f"EXAMPLE{number}",
        "PatientBirthDate": f"196{number}0304",
        "PatientSex": "F" if number == 1 else "M",
        "AccessionNumber": f"A{number}",
        "StudyID": f"S{number}",
        "StudyDate": f"2026010{number}",
        "StudyTime": f"1{number}0000",
        "ReferringPhysicianName": f"Doctor^{number}",
        "SeriesNumber": number + 2,
        "TimezoneOffsetFromUTC": f"+0{number}00",
        "StudyDescription": f"Chest {number}",
    }
    volume = phantom.as_volume(drawn, uid_seed=f"conformance {number}", attributes=extra)
    lungs = LungMask(drawn.lungs.labels, "built-in")
    measured = scores.measure(volume, lungs, drawn.lesions)
    model = ModelIdentity(f"model{number}", f"1.{number}", f"{number}a" * 32)
    flags = (Flag(f"example_{number}", f"Example of a quality finding, {number}"),)
    analysis = Analysis(
        volume,
        lungs,
        drawn.lesions,
        measured,
        flags,
        model,
        source_digest=f"{number}b" * 32,
        accuracy=f"example {number}",
    )
    previous = ObjectReference(
        str(volume.headers[0].StudyInstanceUID),
        f"2.25.{number}1",
        Comprehensive3DSRStorage,
        f"2.25.{number}2",
    )
    context = ResultContext(
        created=datetime(2026, 3, number, 10, number, tzinfo=UTC) + timedelta(seconds=number),
        profile=Profile(lungs_seg=True, key_slices=True, slice_pictures=True, pdf=True, rejection_note=True),
        revision=number + 1,
        completeness=f"shown in way {number}",
        settings_digest=f"{number}c" * 32,
        predecessor=previous,
        superseded=(previous,),
        priors=Priors((_prior(number),), f"example {number}"),
        others=(OtherSeries(number, f"example {number}"),),
    )
    return Made(header.normalise(volume.headers[0]).ds, dict(run.build_results(analysis, context)))


def _prior(number: int) -> Prior:
    """An earlier result of the patient, obtained in another way."""
    uid = f"2.25.{number}3"
    report = ObjectReference(uid, f"{uid}.1", Comprehensive3DSRStorage, f"{uid}.2")
    return Prior(
        patient_id=f"EXAMPLE{number}",
        patient_id_issuer="",
        acquired=f"2025-12-0{number}T10:00:00",
        study_uid=uid,
        shares=dict.fromkeys(Region, Shares(0.1 * number, 0.05 * number)),
        technique=Technique(ModelIdentity("earlier", "0.9", "ee" * 32), "built-in", "", "B70f", 1.0),
        reports={"default": report},
    )


def attributes(kind: ResultKind) -> Iterator[tuple[str, str, str, str]]:
    """(name, tag, VR, value) of every attribute; those in the last item of a sequence below it, marked ">"."""
    one, two = examples()
    yield from _rows((one.objects[kind], two.objects[kind]), (one.source, two.source), "")


def _rows(found: Pair, sources: Pair, mark: str) -> Iterator[tuple[str, str, str, str]]:
    for tag in sorted({*found[0].keys(), *found[1].keys()}):
        element = found[0].get(tag) or found[1].get(tag)
        yield f"{mark}{element.name}", str(BaseTag(tag)), element.VR, _origin(tag, found, sources, mark)
        items = [(ds.get(tag) or element).value for ds in found] if element.VR == "SQ" else []
        if items and all(items) and (mark or element.keyword not in ELSEWHERE) and len(mark) < DEEPEST:
            yield from _rows((items[0][-1], items[1][-1]), (Dataset(), Dataset()), f"{mark}>")


def _origin(tag: int, found: Pair, sources: Pair, mark: str) -> str:
    elements = [ds.get(tag) for ds in found]
    if any(element is None for element in elements):
        return "where it applies"
    if elements[0].VR == "SQ":
        return "" if mark else ELSEWHERE.get(elements[0].keyword, "")
    if all(_same(element, source.get(tag)) for element, source in zip(elements, sources, strict=True)):
        return "from the source" if any(element.value for element in elements) else "from the source, may be empty"
    if elements[0].keyword in BULK or not _same(*elements):
        return "made for each object"
    return _shown(elements[0])


def _same(one: DataElement | None, other: DataElement | None) -> bool:
    return one is not None and other is not None and str(one.value) == str(other.value)  # a date or its text


def _shown(element: DataElement) -> str:
    if element.is_empty:
        return "empty"
    value = element.value
    text = "\\".join(map(str, value)) if element.VM > 1 else str(value)
    return f"`{text}`" if len(text) <= LONGEST else f"`{text[:LONGEST]}…`"


def content() -> Iterator[tuple[str, str, str, str]]:
    """(relationship, value type, concept, value) of the SR's items; ">" for each level below the root.

    Of several measurement groups by one template the first is shown whole, of the NUM items in it too.
    """
    root = examples()[0].objects[ResultKind.SR]
    yield "", "CONTAINER", _code(root.ConceptNameCodeSequence[0]), _template(root)
    yield from _items(root, ">", set())


def _items(parent: Dataset, mark: str, whole: set[str]) -> Iterator[tuple[str, str, str, str]]:
    """Items below one parent, like ones once; `whole` are the kinds of subtree that were shown."""
    seen = set()
    for item in parent.get("ContentSequence", ()):
        name = _code(item.ConceptNameCodeSequence[0]) if "ConceptNameCodeSequence" in item else ""
        template, figure = _template(item), item.ValueType == "NUM" and "ContentSequence" in item
        kind = f"{item.ValueType} {template}" if template or figure else ""
        if (item.ValueType, name, kind) in seen or (kind in whole and template):
            continue
        seen.add((item.ValueType, name, kind))
        yield f"{mark}{item.RelationshipType}", item.ValueType, name, _value(item)
        if kind not in whole:
            whole |= {kind} - {""}
            yield from _items(item, f"{mark}>", whole)


def _template(item: Dataset) -> str:
    return ", ".join(f"TID {each.TemplateIdentifier}" for each in item.get("ContentTemplateSequence", ()))


def _code(code: Dataset) -> str:
    return f"{code.CodeMeaning} ({code.CodeValue}, {code.CodingSchemeDesignator})"


def _value(item: Dataset) -> str:
    if item.ValueType == "CONTAINER":
        return _template(item)
    if item.ValueType == "CODE":
        return _code(item.ConceptCodeSequence[0])
    if item.ValueType == "NUM":
        return _code(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0])
    return {"SCOORD": str(item.get("GraphicType", "")), "SCOORD3D": str(item.get("GraphicType", ""))}.get(
        item.ValueType, ""
    )
