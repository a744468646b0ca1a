"""What every result object says about itself: who made it, from which series, when, and for what it may be used."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from highdicom import ContributingEquipment
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, DT, TM

from pipeline import SOFTWARE_NAME, __version__, codes, uids
from pipeline.header import SourceHeader, series_number
from pipeline.subjects import DESCRIPTIONS, Subject
from pipeline.types import Analysis, ModelIdentity, ResultContext, ResultKind

MANUFACTURER = "dicomnode project"
_TITLES = {
    ResultKind.LESIONS: "Lung opacity SEG",
    ResultKind.LUNGS: "Lung SEG",
    ResultKind.PICTURE: "Lung opacity picture",
    ResultKind.SLICES: "Lung opacity slices",
    ResultKind.DOCUMENT: "Lung opacity PDF",
    ResultKind.SR: "Lung opacity report",
    ResultKind.REJECTION: "Rejected results",
}
_USE = " - RESEARCH USE ONLY"
_NUMBERS = {  # last digit of SeriesNumber; a kind keeps its own
    ResultKind.LESIONS: 1,
    ResultKind.LUNGS: 2,
    ResultKind.PICTURE: 3,
    ResultKind.SR: 4,
    ResultKind.REJECTION: 5,
    ResultKind.SLICES: 6,
    ResultKind.DOCUMENT: 7,
}


def plain(text: str, limit: int = 64) -> str:
    """`text` in printable ASCII, cut to `limit` characters (64: VR LO): our own words fit every character set."""
    ascii_text = text.encode("ascii", "replace").decode("ascii").replace("\\", "/")
    return "".join(sign if sign.isprintable() else " " for sign in ascii_text)[:limit]


def series_description(source: SourceHeader, context: ResultContext, kind: ResultKind) -> str:
    """What a radiologist reads in the list of series; what does not fit goes, never what it may be used for."""
    number, room = series_number(source.ds), 64 - len(_USE)
    of_series = (f" of series {number}", f", series {number}", "") if number else ("",)
    words = [f"{_TITLES[kind]}{each}, rev {context.revision}" for each in of_series]
    return plain(next((each for each in words if len(each) <= room), words[-1]), room) + _USE


def result_series_number(source: SourceHeader, kind: ResultKind) -> int:
    """SeriesNumber: 9, the source's number, the kind's digit; results sort behind the series of the scanner."""
    return int(f"9{series_number(source.ds):03d}{_NUMBERS[kind]}")


def software_versions(model: ModelIdentity) -> list[str]:
    """SoftwareVersions: the software and the model package."""
    return [f"{SOFTWARE_NAME} {__version__}", plain(f"model {model.name} {model.version}")]


def serial_number(model: ModelIdentity) -> str:
    """DeviceSerialNumber: the start of the model's digest; a retrained model is another device."""
    return model.digest[:16]


@dataclass(frozen=True)
class Algorithm:
    """What segmented or measured a subject, as Algorithm Identification (PS3.3 10.16, PS3.16 TID 4019) names it."""

    name: str
    version: str
    family: Code
    parameters: Mapping[str, str]


def algorithm(analysis: Analysis, subject: Subject) -> Algorithm:
    """The lesion networks for a finding, the lung method for a lung."""
    if not DESCRIPTIONS[subject].is_lung:
        return Algorithm(
            name=device_name(analysis.model),
            version=plain(f"{analysis.model.version} ({SOFTWARE_NAME} {__version__})"),
            family=codes.ARTIFICIAL_INTELLIGENCE,
            parameters={"model_sha256": analysis.model.digest},
        )
    is_network = "lungmask" in analysis.lungs.method.lower()
    return Algorithm(
        name=f"{SOFTWARE_NAME} lungs",
        version=__version__,
        family=codes.ARTIFICIAL_INTELLIGENCE if is_network else codes.MORPHOLOGICAL_OPERATIONS,
        parameters={"method": plain(analysis.lungs.method, 200)},
    )


def device_name(model: ModelIdentity) -> str:
    """The software with its model, as one device."""
    return plain(f"{SOFTWARE_NAME} {model.name}")


def arguments(analysis: Analysis, context: ResultContext, source: SourceHeader, kind: ResultKind) -> dict[str, Any]:
    """The arguments that highdicom's SEG, SR and Secondary Capture classes share."""
    return {
        "series_instance_uid": uids.series(analysis, context, kind),
        "series_number": result_series_number(source, kind),
        "series_description": series_description(source, context, kind),
        "sop_instance_uid": uids.instance(analysis, context, kind),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": SOFTWARE_NAME,
        "software_versions": software_versions(analysis.model),
        "device_serial_number": serial_number(analysis.model),
        "contributing_equipment": _equipment(analysis),
        "specific_character_set": None,  # set by `finish`: highdicom refuses the empty first term of ISO 2022
    }


def nameless(source: SourceHeader) -> Dataset:
    """The header for highdicom, which prints names that it finds unusual; `finish` puts the name back."""
    ds = Dataset()
    for elem in source.ds:
        ds.add(copy(elem))  # an element that is shared would be changed in the source too
    ds.PatientName = ""
    return ds


def finish(built: Dataset, analysis: Analysis, context: ResultContext, source: SourceHeader) -> Dataset:
    """What highdicom built, `at_moment` of the job, with the device that made it."""
    ds = at_moment(built, context.created, source)
    ds.DeviceUID = uids.device(analysis.model)
    return ds


def at_moment(built: Dataset, moment_of_job: datetime, source: SourceHeader) -> Dataset:
    """A plain dataset of what highdicom built, with the moment of the job wherever highdicom put its own.

    Building an object twice thus gives the same bytes. The moment is written in the source's TimezoneOffsetFromUTC
    where it has one, else in its own zone: DA and TM share one zone (PS3.3 C.12.1.1.6).
    """
    ds = Dataset(built)
    ds.file_meta = built.file_meta
    ds.preamble = b"\0" * 128
    created = _in_zone(moment_of_job, source.ds.get("TimezoneOffsetFromUTC"))
    for moment in ("InstanceCreation", "Content", "Series"):
        setattr(ds, f"{moment}Date", DA(created.date()))
        setattr(ds, f"{moment}Time", TM(created.time().replace(microsecond=0)))
    for item in ds.get("ContributingEquipmentSequence", ()):
        if item.PurposeOfReferenceCodeSequence[0].CodeValue == codes.PROCESSING_EQUIPMENT.value:
            item.ContributionDateTime = DT(created.replace(microsecond=0))
    # But for the name these are of the SOP Common Module (PS3.3 C.12.1), which highdicom does not copy.
    for keyword in (
        "PatientName",
        "TimezoneOffsetFromUTC",
        "SpecificCharacterSet",
        "LongitudinalTemporalInformationModified",
    ):
        if keyword in source.ds:
            ds.add(source.ds[keyword])
    return ds


def _equipment(analysis: Analysis) -> list[ContributingEquipment]:
    """The items of ContributingEquipmentSequence (0018,A001): each algorithm, with its DeviceUID (AIR 6.5.3.1)."""
    model, method = analysis.model, analysis.lungs.method
    lungs = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.PROCESSING_EQUIPMENT,
        manufacturer_model_name=f"{SOFTWARE_NAME} lungs",
        software_versions=[f"{SOFTWARE_NAME} {__version__}", plain(method)],
        contribution_description="Processing algorithm: segmentation of the lungs",
    )
    lungs.DeviceUID = uids.lung_device(model, method)
    lesions = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.PROCESSING_EQUIPMENT,
        manufacturer_model_name=device_name(model),
        software_versions=software_versions(model),
        device_serial_number=serial_number(model),
        contribution_description="Processing algorithm: segmentation and quantification",
    )
    lesions.DeviceUID = uids.device(model)
    return [lungs, lesions]


def _in_zone(created: datetime, offset: object) -> datetime:
    """`created` in a zone given as TimezoneOffsetFromUTC, e.g. "+0900"; unchanged where that is not one."""
    if created.tzinfo is None:
        raise ValueError("`created` must know its time zone")
    try:
        return created.astimezone(datetime.strptime(str(offset), "%z").tzinfo)
    except ValueError:
        return created
