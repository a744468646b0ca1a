"""A result SR of this software, read back as an earlier result; whatever else it is, is refused with a reason.

The bytes come from an archive and are not trusted: the report must name this software as manufacturer, device and
observer, agree with itself, and stay within bounds. That shows what made it, not that nobody forged it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from pipeline import SOFTWARE_NAME, codes, priors, provenance, uids
from pipeline.checks_sr import numbers, walk
from pipeline.errors import PipelineError
from pipeline.pixels import DAMAGED
from pipeline.priors import Prior, Shares, Technique
from pipeline.types import ModelIdentity, ObjectReference, Region

MAX_BYTES = 8 << 20  # of a data set; a report on two thousand slices has less than one
MAX_ITEMS = 20_000
_AGREE_PERCENT = 0.01  # figures have six digits
_MODEL = re.compile(r"([\w.-]{1,64}) ([\w.-]{1,64}), SHA-256 ([0-9a-f]{64})")
_SOFTWARE = re.compile(rf"{SOFTWARE_NAME} (\S{{1,50}})")
_MEASUREMENTS, _GROUP, _OBSERVER_UID = "126010", "125007", "121012"


class NotAPrior(PipelineError):
    """This is no result that can be compared with; the message says why."""


@dataclass(frozen=True)
class ReadReport:
    """A report and what tells which of several counts.

    Attributes:
        revision: of the result.
        created: content date and time, in a form that sorts.
        replaces: SOP Instance UIDs of its predecessor documents.
    """

    prior: Prior
    revision: int
    created: str
    replaces: frozenset[str]


def read(ds: Dataset, origin: str) -> ReadReport:
    """Read a decoded report.

    Args:
        ds: of at most `MAX_BYTES`, decoded by the caller.
        origin: name of the archive.

    Raises:
        NotAPrior: it is damaged, made by something else, of no use, or contradicts itself.
    """
    try:
        return _read(ds, origin)
    except (*DAMAGED, MemoryError) as error:
        raise NotAPrior(f"cannot be read ({type(error).__name__})") from error


def _read(ds: Dataset, origin: str) -> ReadReport:
    if len(list(islice(walk(ds), MAX_ITEMS + 1))) > MAX_ITEMS:
        _refuse(f"more than {MAX_ITEMS} content items")
    _require_kind(ds)
    said = _statements(ds)
    model = _model(said, ds)
    reference = ObjectReference(
        *(_uid(ds, word) for word in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"))
    )
    prior = Prior(
        patient_id=str(ds.get("PatientID") or ""),
        patient_id_issuer=str(ds.get("IssuerOfPatientID") or ""),
        acquired=_acquired(ds),
        study_uid=reference.study_uid,
        shares=_all_shares(ds),
        technique=Technique(
            model=model,
            lungs=said.get(codes.LUNG_METHOD.value, ""),
            resampling=said.get(codes.RESAMPLING.value, ""),
            kernel=said.get(codes.KERNEL.value, ""),
            thickness_mm=_thickness(ds),
        ),
        reports={"": reference},
        origin=origin,
    )
    revision = said.get(codes.REVISION.value, "")
    if not re.fullmatch(r"[1-9]\d{0,5}", revision):
        _refuse("no revision")
    return ReadReport(prior, int(revision), f"{ds.ContentDate}{ds.ContentTime}", _predecessors(ds))


def _refuse(why: str) -> NoReturn:
    raise NotAPrior(why)


def _require_kind(ds: Dataset) -> None:
    """A complete measurement report (TID 1500) that this software says it made."""
    if ds.get("SOPClassUID") != Comprehensive3DSRStorage or ds.get("Modality") != "SR":
        _refuse("not a Comprehensive 3D SR")
    if (ds.get("Manufacturer"), ds.get("ManufacturerModelName")) != (provenance.MANUFACTURER, SOFTWARE_NAME):
        _refuse("made by other software")
    if ds.get("CompletionFlag") != "COMPLETE":
        _refuse("not complete")
    if ds.ContentTemplateSequence[0].TemplateIdentifier != "1500":
        _refuse("not a measurement report")
    declared = {str(item.CodingSchemeDesignator) for item in ds.get("CodingSchemeIdentificationSequence") or ()}
    if codes.PRIVATE_SCHEME not in declared:
        _refuse(f"the coding scheme {codes.PRIVATE_SCHEME} is not declared")


def _model(said: Mapping[str, str], ds: Dataset) -> ModelIdentity:
    """The model package, which device and observer have to agree with."""
    named = _MODEL.fullmatch(said.get(codes.MODEL.value, ""))
    versions = ds.get("SoftwareVersions") or ""
    software = _SOFTWARE.fullmatch(versions if isinstance(versions, str) else str(versions[0]))
    if named is None or software is None:
        _refuse("model package or software are not named")
    model = ModelIdentity(named[1], named[2], named[3])
    device = uids.derive("device", SOFTWARE_NAME, software.group(1), model.digest)
    observers = {str(item.UID) for item in ds.ContentSequence if _code(item) == _OBSERVER_UID}
    if str(ds.get("DeviceUID")) != device or observers != {device}:
        _refuse("device and model contradict each other")
    return model


def _statements(ds: Dataset) -> dict[str, str]:
    """The texts of Qualitative Evaluations that are there once, by code."""
    found: dict[str, str] = {}
    twice = set()
    for container in _children(ds, codes.QUALITATIVE_EVALUATIONS.value):
        for item in container.get("ContentSequence") or ():
            if item.ValueType == "TEXT":
                twice |= {_code(item)} & found.keys()
                found[_code(item)] = provenance.plain(str(item.TextValue), 200)
    return {code: text for code, text in found.items() if code not in twice}


def _all_shares(ds: Dataset) -> dict[Region, Shares]:
    """Scores in the measurement groups of this examination; what stands there twice has to agree."""
    known = {code.value for code in (codes.SEVERITY_SCORE, codes.CONSOLIDATION_SCORE, codes.GGO_SCORE)}
    percents: dict[tuple[str, Region], float] = {}
    for measurements in _children(ds, _MEASUREMENTS):
        for group in _children(measurements, _GROUP):
            for number in numbers(group):
                if number.name not in known:
                    continue
                if number.unit != codes.PERCENT.value or number.region is None:
                    _refuse("a score without its unit or its lung")
                before = percents.setdefault((number.name, number.region), number.value)
                if not math.isclose(before, number.value, abs_tol=_AGREE_PERCENT):
                    _refuse(f"two scores of {number.region} contradict each other")
    found = {region: _shares(percents, region) for region in Region}
    if found[Region.BOTH].severity is None:
        _refuse("no severity score of both lungs")
    return found


def _shares(percents: Mapping[tuple[str, Region], float], region: Region) -> Shares:
    scores = (codes.SEVERITY_SCORE, codes.CONSOLIDATION_SCORE, codes.GGO_SCORE)
    severity, consolidation, ggo = (percents.get((code.value, region)) for code in scores)
    if severity is None and consolidation is None:
        return Shares(None, None)
    if severity is None or consolidation is None or ggo is None:
        _refuse(f"a score of {region} is missing")
    if not math.isclose(severity, consolidation + ggo, abs_tol=_AGREE_PERCENT):
        _refuse(f"consolidation and ground glass of {region} do not make its severity")
    return Shares(severity / 100, consolidation / 100)


def _acquired(ds: Dataset) -> str:
    """From the image library (TID 1602); a report of a version that had it not there: from the study."""
    said: dict[str, str] = {}
    for item in _library_group(ds):
        if item.ValueType in ("DATE", "TIME"):
            said[_code(item)] = str(item.get("Date") or item.get("Time") or "")
    header = {
        "AcquisitionDate": said.get(codes.ACQUISITION_DATE.value),
        "AcquisitionTime": said.get(codes.ACQUISITION_TIME.value),
        "StudyDate": ds.get("StudyDate"),
        "StudyTime": ds.get("StudyTime"),
    }
    return priors.acquired(header) or _refuse("no date")


def _thickness(ds: Dataset) -> float | None:
    for item in _library_group(ds):
        if item.ValueType == "NUM" and _code(item) == codes.SLICE_THICKNESS.value:
            value = float(item.MeasuredValueSequence[0].NumericValue)
            return value if 0 < value < 1000 else _refuse("a slice thickness that is none")
    return None


def _library_group(ds: Dataset) -> list[Dataset]:
    return [
        item
        for library in _children(ds, codes.IMAGE_LIBRARY.value)
        for group in _children(library, codes.IMAGE_LIBRARY_GROUP.value)
        for item in group.get("ContentSequence") or ()
    ]


def _predecessors(ds: Dataset) -> frozenset[str]:
    return frozenset(
        str(instance.ReferencedSOPInstanceUID)
        for study in ds.get("PredecessorDocumentsSequence") or ()
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    )


def _children(item: Dataset, code: str) -> Iterable[Dataset]:
    children = item.get("ContentSequence") or ()
    return [child for child in children if child.ValueType == "CONTAINER" and _code(child) == code]


def _code(item: Dataset) -> str:
    sequence = item.get("ConceptNameCodeSequence")
    return str(sequence[0].get("CodeValue") or "") if sequence else ""


def _uid(ds: Dataset, keyword: str) -> str:
    uid = str(ds.get(keyword) or "")
    return uid if uids.is_uid(uid) else _refuse(f"{keyword} is no UID")


def current(reports: Iterable[ReadReport], retired: Iterable[str] = ()) -> tuple[dict[str, ReadReport], int]:
    """Of each study the report that counts, and of how many studies none does because they contradict.

    What another one names as its predecessor does not count, nor what is `retired` (SOP Instance UIDs); of the
    others the highest revision does.
    """
    by_study: dict[str, list[ReadReport]] = {}
    every = list(reports)
    replaced = {*retired, *(uid for report in every for uid in report.replaces)}
    for report in every:
        if report.prior.report("").sop_instance_uid not in replaced:
            by_study.setdefault(report.prior.study_uid, []).append(report)
    chosen: dict[str, ReadReport] = {}
    for study, candidates in by_study.items():
        newest = max(report.revision for report in candidates)
        best = sorted((r for r in candidates if r.revision == newest), key=lambda r: r.created)
        if all(report.prior.shares == best[-1].prior.shares for report in best):
            chosen[study] = best[-1]
    return chosen, len(by_study) - len(chosen)
