"""A folder of DICOM files that no server has sorted: which series it holds, and what lies beside the chosen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import CTImageStorage, MediaStorageDirectoryStorage

from pipeline import others, pixels
from pipeline.errors import SeriesRejected
from pipeline.others import OtherSeries


def series_in(folder: Path) -> dict[str, list[Path]]:
    """The CT instances below a folder by SeriesInstanceUID; a DICOMDIR and other files are passed over.

    Where there is no CT Image Storage at all, the series of other SOP classes, so that the reason can be told.

    Raises:
        SeriesRejected: there is no DICOM file, or one of them is damaged: it may belong to any series.
    """
    found: dict[bool, dict[str, list[Path]]] = {True: {}, False: {}}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _is_beside(p)):
        header = _header(path)
        if header is not None and (uid := str(header.get("SeriesInstanceUID") or "")):
            found[_may_be_a_slice(header)].setdefault(uid, []).append(path)
    if not any(found.values()):
        raise SeriesRejected(f"{folder} holds no DICOM files")
    return found[True] or found[False]


def _is_beside(path: Path) -> bool:
    """A directory of a medium (PS3.10 8.6), or what macOS leaves beside a file."""
    return path.name.upper() == "DICOMDIR" or path.name.startswith("._")


def _header(path: Path) -> FileDataset | None:
    """Class and series of an instance; None where the file is not said to be one. Raises SeriesRejected."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"])
    except pixels.DAMAGED as error:
        if _claims_to_be_dicom(path):
            raise _damaged(path, (str(error).strip() or type(error).__name__).split("\n")[0]) from error
        return None
    directory = header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    homeless = _may_be_a_slice(header) and not header.get("SeriesInstanceUID")
    if homeless and not directory and _claims_to_be_dicom(path):
        raise _damaged(path, "it does not say of which series it is")
    return header


def _may_be_a_slice(header: Dataset) -> bool:
    """By its class, or because that is absent or empty: the reading of the series then says so."""
    return (header.get("SOPClassUID") or CTImageStorage) == CTImageStorage


def _damaged(path: Path, why: str) -> SeriesRejected:
    advice = "it may be a slice of the series; copy it again, or take it out of the folder"
    return SeriesRejected(f"{path} cannot be read as DICOM ({why}): {advice}")


def _claims_to_be_dicom(path: Path) -> bool:
    """By its prefix (PS3.10 7.1) or its name."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".dcm" or file.read(132)[128:] == b"DICM"


def others_in(found: Mapping[str, Sequence[Path]], chosen: str) -> tuple[OtherSeries, ...]:
    """The series of the same study and patient beside the chosen one; `found` as `series_in` gives them."""
    told = {uid: _whose(files[0]) for uid, files in found.items()}
    return tuple(
        OtherSeries(number, others.ANOTHER_ASKED_FOR)
        for uid, (whose, number) in told.items()
        if uid != chosen and whose == told[chosen][0]
    )


def _whose(path: Path) -> tuple[tuple[str, ...], int | None]:
    """Study and patient of an instance, and its SeriesNumber; of no study where it cannot be read."""
    keywords = ["StudyInstanceUID", "PatientID", "IssuerOfPatientID", "SeriesNumber"]
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=keywords)
        *whose, number = (str(header.get(keyword) or "").strip() for keyword in keywords)
    except pixels.DAMAGED:
        return (str(path),), None
    return tuple(whose), others.series_number(number)
