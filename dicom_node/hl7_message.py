"""A result SR as an HL7 v2.5.1 message ORU^R01^ORU_R01: the scores for a RIS. Pure, without a clock.

The message is made of the SR alone, so that one that is sent again has the same bytes and the same control ID.
Names, codes and units are those of the SR; OBX-4 says which lung. The result has a filler order number of its own:
a RIS that replaces results by that number must never take it for the radiologist's report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import Protocol

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_node.hl7_text import SEPARATORS, components, escape, repeated, segment, subcomponents
from pipeline import RESEARCH_USE_ONLY, codes, sr_figures
from pipeline.sr_figures import Statement
from pipeline.types import Region

VERSION = "2.5.1"
CONTROL_ID_LENGTH = 20  # MSH-10
REGIONS = {Region.BOTH: "both lungs", Region.RIGHT: "right lung", Region.LEFT: "left lung"}
SR_UID = ("SR_UID", "SR Instance UID", codes.PRIVATE_SCHEME)
STUDY_UID = ("110180", "Study Instance UID", "DCM")
SERIES_UID = ("112002", "Series Instance UID", "DCM")
_SEXES = frozenset({"F", "M", "O"})  # of PS3.3 C.7.1.1, which table 0001 has too
TOLD = (  # in this order
    codes.SEVERITY_CLASS,
    codes.INTENDED_USE,
    codes.QUALITY_FINDING,
    codes.MODEL,
    codes.COMPLETENESS,
    codes.REVISION,
)
UIDS = ((STUDY_UID, "StudyInstanceUID"), (SERIES_UID, "SeriesInstanceUID"), (SR_UID, "SOPInstanceUID"))


class Incomplete(ValueError):
    """The report lacks what a message needs."""


class Address(Protocol):
    """How the two sides call themselves; `config.Hl7Destination` is one."""

    @property
    def sending_application(self) -> str:
        """MSH-3."""

    @property
    def sending_facility(self) -> str:
        """MSH-4."""

    @property
    def receiving_application(self) -> str:
        """MSH-5."""

    @property
    def receiving_facility(self) -> str:
        """MSH-6."""

    @property
    def assigning_authority(self) -> str:
        """PID-3.4 where the report names no issuer of the patient ID."""

    @property
    def processing_id(self) -> str:
        """MSH-11."""

    @property
    def result_status(self) -> str:
        """OBR-25 of a first result: F or P."""


@dataclass(frozen=True)
class Message:
    """An encoded message and what its acknowledgement has to name."""

    control_id: str
    data: bytes


def build(ds: Dataset, address: Address) -> Message:
    """The message of a report.

    Raises:
        Incomplete: it has no patient ID, or no figures.
    """
    if not _text(ds, "PatientID").strip():
        raise Incomplete("it has no PatientID, without which a RIS cannot file it (PID-3)")
    control_id = sha256(str(ds.SOPInstanceUID).encode()).hexdigest()[:CONTROL_ID_LENGTH].upper()
    corrected = bool(ds.get("PredecessorDocumentsSequence"))
    status = "C" if corrected else address.result_status
    lines = [_msh(ds, address, control_id), _pid(ds, address.assigning_authority), _obr(ds, address, status)]
    lines.append(segment("NTE", {1: "1", 2: "L", 3: escape(RESEARCH_USE_ONLY)}))
    for number, fields in enumerate(_observations(ds), 1):
        lines.append(segment("OBX", {1: str(number), **fields, 11: status}))
    return Message(control_id, "".join(f"{line}\r" for line in lines).encode("utf-8"))


def _msh(ds: Dataset, address: Address, control_id: str) -> str:
    """2.14.9. Original acknowledgement mode: MSH-15 and 16 are empty."""
    fields = {
        3: escape(address.sending_application),
        4: escape(address.sending_facility),
        5: escape(address.receiving_application),
        6: escape(address.receiving_facility),
        7: _moment(ds, "ContentDate", "ContentTime"),
        9: components("ORU", "R01", "ORU_R01"),
        10: control_id,
        11: escape(address.processing_id),
        12: VERSION,
        18: "UNICODE UTF-8",
    }
    # MSH-1 is the separator itself and MSH-2 the others: both stand in the head
    return segment(f"MSH{SEPARATORS}", {number - 2: value for number, value in fields.items()})


def _pid(ds: Dataset, authority: str) -> str:
    """3.4.2."""
    issuer = _text(ds, "IssuerOfPatientID") or authority
    qualifiers = (ds.get("IssuerOfPatientIDQualifiersSequence") or [Dataset()])[0]
    assigned = subcomponents(
        issuer, _text(qualifiers, "UniversalEntityID"), _text(qualifiers, "UniversalEntityIDType")
    )
    sex = _text(ds, "PatientSex")
    return segment(
        "PID",
        {
            1: "1",
            3: f"{escape(_text(ds, 'PatientID').strip())}^^^{assigned}^PI",
            5: _name(ds),
            7: escape(_text(ds, "PatientBirthDate")),
            8: sex if sex in _SEXES else "U",
        },
    )


def _name(ds: Dataset) -> str:
    """PN (PS3.5 6.2.1) as XPN (2.A.89): suffix and prefix change places, groups become repetitions."""
    groups = _text(ds, "PatientName").split("=")[:3]
    names = []
    for group, representation in zip(groups, "AIP", strict=False):
        family, given, middle, prefix, suffix = (*(part.strip() for part in group.split("^")), "", "", "", "", "")[
            :5
        ]
        if group.strip("^ "):
            names.append(components(family, given, middle, suffix, prefix, "", "", representation))
    return repeated(names)


def _obr(ds: Dataset, address: Address, status: str) -> str:
    """4.5.3 and 7.4.1; OBR-18 to 20 as IHE Radiology has them."""
    request = (ds.get("ReferencedRequestSequence") or [Dataset()])[0]
    accession = _text(request, "AccessionNumber") or _text(ds, "AccessionNumber")
    own = sha256(str(ds.StudyInstanceUID).encode()).hexdigest()[:CONTROL_ID_LENGTH].upper()
    return segment(
        "OBR",
        {
            1: "1",
            2: escape(_text(request, "PlacerOrderNumberImagingServiceRequest")),
            3: components(own, address.sending_application),
            4: _procedure(ds, request),
            7: _moment(ds, "StudyDate", "StudyTime"),
            18: escape(accession),
            19: escape(_text(request, "RequestedProcedureID")),
            22: _moment(ds, "ContentDate", "ContentTime"),
            24: "CT",  # table 0074
            25: status,
        },
    )


def _procedure(ds: Dataset, request: Dataset) -> str:
    coded = request.get("RequestedProcedureCodeSequence") or ds.get("PerformedProcedureCodeSequence")
    code = coded[0] if coded else Dataset()
    return components(*(_text(code, keyword) for keyword in ("CodeValue", "CodeMeaning", "CodingSchemeDesignator")))


def _observations(ds: Dataset) -> Iterator[dict[int, str]]:
    """OBX-2 to 6: what must be read first, the figures, what they mean, where the objects are."""
    figures, said = sr_figures.figures(ds), sr_figures.statements(ds)
    if not figures:
        raise Incomplete("it has no figures")
    for code in TOLD:
        yield from (_statement(one) for one in said if one.name.value == code.value)
    for figure in figures:
        yield {
            2: "NM",
            3: components(figure.name.value, figure.name.meaning, figure.name.scheme_designator),
            4: REGIONS[figure.region],
            5: _number(figure.value),
            6: components(figure.unit.value, figure.unit.meaning, figure.unit.scheme_designator),
        }
    for name, keyword in UIDS:
        yield {2: "ST", 3: components(*name), 5: escape(_text(ds, keyword))}


def _number(value: float) -> str:
    """NM (2.A.47) with six digits; unlike DS it has no exponent."""
    return f"{Decimal(f'{value:.6g}'):f}"


def _statement(said: Statement) -> dict[int, str]:
    name = components(said.name.value, said.name.meaning, said.name.scheme_designator)
    if said.code is None:
        return {2: "TX", 3: name, 5: escape(said.text)}
    return {2: "CWE", 3: name, 5: components(said.code.value, said.code.meaning, said.code.scheme_designator)}


def _text(ds: Dataset, keyword: str) -> str:
    """A value as text; a backslash that made several of it is put back."""
    value = ds.get(keyword)
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")


def _moment(ds: Dataset, date: str, time: str) -> str:
    """DTM (2.A.22); local time, with the offset where the report tells it."""
    day, clock = _text(ds, date), _text(ds, time).partition(".")[0]
    if not re.fullmatch(r"[0-9]{8}", day):
        return ""
    if not re.fullmatch(r"[0-9]{4}(?:[0-9]{2})?", clock):
        return day
    offset = _text(ds, "TimezoneOffsetFromUTC")
    return f"{day}{clock}{offset if re.fullmatch(r'[+-][0-9]{4}', offset) else ''}"
