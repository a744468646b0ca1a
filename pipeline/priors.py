"""Earlier results of the same patient: what they say, in which order, and whether they can be compared.

Figures of two examinations can be compared only where they were obtained alike. `differences` names what was not,
in words for a radiologist (ASCII: they go into DICOM objects). Nothing here searches: priors are given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter

from pipeline.kernel import sharpness
from pipeline.types import Analysis, ModelIdentity, ObjectReference, Region, RegionScores

if TYPE_CHECKING:  # as in `pipeline.types`
    from pydicom.dataset import Dataset

MAX_ID = 64  # characters of a PatientID or its issuer (PS3.5 6.2, VR LO); a longer one identifies nobody
THICKNESS_TOLERANCE_MM = 0.1
NOT_LOOKED_FOR = "not looked for"
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?")


@dataclass(frozen=True)
class Shares:
    """Fractions of 1 of a region's lung volume; None where the region was not measured."""

    severity: float | None
    consolidation: float | None

    def __post_init__(self) -> None:
        for share in (self.severity, self.consolidation):
            if share is not None and not 0.0 <= share <= 1.0:
                raise ValueError(f"a share of the lung is a fraction of 1, not {share}")
        if (self.severity is None) != (self.consolidation is None):
            raise ValueError("a region has both shares or none")


@dataclass(frozen=True)
class Technique:
    """How figures were obtained. Empty texts and None stand for what is not known."""

    model: ModelIdentity
    lungs: str = ""
    resampling: str = ""
    kernel: str = ""
    thickness_mm: float | None = None


@dataclass(frozen=True)
class Prior:
    """One earlier result of a patient.

    Attributes:
        patient_id, patient_id_issuer: whose it is; together they are the identity, a name never is.
        acquired: of the CT, local time of the scanner, ISO 8601; without a time where that is not known.
        study_uid: StudyInstanceUID of the CT.
        shares: for both lungs, right and left.
        reports: the SR of each profile, by its name.
        origin: where the result was found, e.g. "this node".
    """

    patient_id: str = field(repr=False)
    patient_id_issuer: str = field(repr=False)
    acquired: str
    study_uid: str
    shares: Mapping[Region, Shares]
    technique: Technique
    reports: Mapping[str, ObjectReference]
    origin: str = "this node"

    def __post_init__(self) -> None:
        if not _MOMENT.fullmatch(self.acquired):
            raise ValueError(f"{self.acquired!r} is not a date or a date with time")
        datetime.fromisoformat(self.acquired)
        if set(self.shares) != set(Region):
            raise ValueError("shares of both lungs, right and left are needed")
        if not self.reports:
            raise ValueError("a prior is a report")

    def report(self, profile: str) -> ObjectReference:
        """The SR of a profile, or the first of another one."""
        return self.reports.get(profile) or next(iter(self.reports.values()))


@dataclass(frozen=True)
class Priors:
    """Earlier results, oldest first, and a sentence on where they were looked for."""

    results: tuple[Prior, ...] = ()
    search: str = NOT_LOOKED_FOR

    @property
    def latest(self) -> Prior | None:
        """What changes are told against."""
        return self.results[-1] if self.results else None


@cache
def _adapter() -> TypeAdapter[Priors]:
    """Built when it is first needed: that takes longer than everything else here."""
    return TypeAdapter(Priors)


def to_json(priors: Priors) -> dict[str, Any]:
    """For a database; `from_json` gives the same value back."""
    content: dict[str, Any] = _adapter().dump_python(priors, mode="json")
    return content


def from_json(content: Mapping[str, Any]) -> Priors:
    """What `to_json` made. Raises ValueError where it is something else."""
    return _adapter().validate_python(dict(content))


class Header(Protocol):
    """Attributes by keyword: a data set, or what a node keeps of one."""

    def get(self, keyword: str, /) -> Any:
        """The value; None where there is none."""


def acquired(header: Header) -> str:
    """When a CT was acquired, as `Prior.acquired`: by its acquisition, else by its study; else empty."""
    moments = (
        _first(header, "AcquisitionDateTime"),
        f"{_first(header, 'AcquisitionDate'):<8}{_first(header, 'AcquisitionTime')}",
        f"{_first(header, 'StudyDate'):<8}{_first(header, 'StudyTime')}",
    )
    return next((moment for text in moments if (moment := _moment(text))), "")


def _first(header: Header, keyword: str) -> str:
    """The value as text, of several the first: the wire brings several where the standard allows one."""
    value = header.get(keyword)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return "" if value is None else str(value)


def first_acquired(headers: Iterable[Header]) -> str:
    """The earliest of a series."""
    return min((moment for header in headers if (moment := acquired(header))), default="")


def _moment(text: str) -> str:
    """DT, or DA and TM joined (PS3.5 6.2), in ISO 8601; the time only where it is valid, empty without a date."""
    found = re.match(r"([1-9]\d{7})(?:(\d{2}(?:\d{2}){0,2})(?![\d:]))?", text)
    if found is None:
        return ""
    day, time = found.group(1), found.group(2)
    for digits, form, shown in (
        (f"{day}{time:0<6}" if time else "", "%Y%m%d%H%M%S", "%Y-%m-%dT%H:%M:%S"),
        (day, "%Y%m%d", "%Y-%m-%d"),
    ):
        try:
            return datetime.strptime(digits, form).strftime(shown)
        except ValueError:
            continue
    return ""


def is_earlier(one: str, other: str) -> bool:
    """Whether `one` was acquired before `other`; of two on one day only where both times are known."""
    if not one or not other or one[:10] != other[:10]:
        return bool(one and other) and one[:10] < other[:10]
    return "T" in one and "T" in other and one < other


def days_between(one: str, other: str) -> int:
    """Calendar days from `one` to `other`."""
    return (date.fromisoformat(other[:10]) - date.fromisoformat(one[:10])).days


def identifies(patient_id: str) -> bool:
    """Whether a PatientID tells patients apart."""
    return 0 < len(patient_id.strip()) <= MAX_ID


def usable(priors: Priors, headers: Iterable[Dataset]) -> Priors:
    """The last gate before anything is written: only earlier results of the patient whom the images name."""
    headers = list(headers)
    now, patient = first_acquired(headers), _patient(headers[0])
    kept = tuple(
        sorted(
            (p for p in priors.results if _is_prior(p, patient, now)),
            key=lambda prior: (prior.acquired, prior.study_uid),
        )
    )
    left_out = len(priors.results) - len(kept)
    note = f"; {left_out} left out: of another patient, or not earlier than this CT" if left_out else ""
    return replace(priors, results=kept, search=priors.search + note)


def _patient(header: Dataset) -> tuple[str, str]:
    return tuple(  # type: ignore[return-value]
        str(header.get(keyword) or "").replace("\0", "").strip() for keyword in ("PatientID", "IssuerOfPatientID")
    )


def _is_prior(prior: Prior, patient: tuple[str, str], now: str) -> bool:
    same = (prior.patient_id.strip(), prior.patient_id_issuer.strip()) == patient
    return same and identifies(patient[0]) and is_earlier(prior.acquired, now)


def shares(regions: Mapping[Region, RegionScores]) -> dict[Region, Shares]:
    """What of the scores is compared."""
    return {region: Shares(scores.severity_score, scores.consolidation_score) for region, scores in regions.items()}


def technique(analysis: Analysis) -> Technique:
    """How the figures of an analysis were obtained."""
    header = analysis.volume.headers[0]
    kernel = header.get("ConvolutionKernel") or ""
    first = kernel if isinstance(kernel, str) else str(kernel[0])  # Siemens: the second is a strength
    return Technique(
        model=analysis.model,
        lungs=analysis.lungs.method,
        resampling=analysis.resampling,
        kernel=first.strip(),
        thickness_mm=_length(header.get("SliceThickness")),
    )


def _length(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def differences(prior: Technique, now: Technique) -> list[str]:
    """What keeps the figures of a prior from being compared with those of now, a clause each; empty: nothing."""
    told = []
    if not prior.model.digest or prior.model.digest != now.model.digest:
        told.append(f"other model ({_named(prior.model)}, now {_named(now.model)})")
    if prior.lungs != now.lungs:
        told.append(_other("lung segmentation", prior.lungs, now.lungs))
    if prior.resampling != now.resampling:
        told.append(_other("resampling", prior.resampling, now.resampling))
    classes = [sharpness(each.kernel).name.lower() for each in (prior, now)]
    if classes[0] != classes[1] or ("unknown" in classes and prior.kernel != now.kernel):
        told.append(_other("kernel", *(_kernel(*each) for each in zip((prior, now), classes, strict=True))))
    if _differ(prior.thickness_mm, now.thickness_mm):
        told.append(_other("slice thickness", _mm(prior.thickness_mm), _mm(now.thickness_mm)))
    return told


def _other(what: str, before: str, now: str) -> str:
    if not before:
        return f"{what} of then not known"
    return f"other {what} ({before}, now {now or 'not known'})"


def _named(model: ModelIdentity) -> str:
    return f"{model.name} {model.version}, {model.digest[:8]}"


def _kernel(technique: Technique, sharpness_class: str) -> str:
    return f"{technique.kernel} ({sharpness_class})" if technique.kernel else ""


def _mm(length: float | None) -> str:
    return "" if length is None else f"{length:g} mm"


def _differ(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) > THICKNESS_TOLERANCE_MM
