"""Every coded concept of the result objects, in one place.

Standard codes where one exists (the context group of PS3.16 is named beside it), else the private scheme
`99DCMNODE`, which each object that uses it declares in CodingSchemeIdentificationSequence (PS3.3 C.12.1.1.1).
`table` is the list that the conformance statement prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

PRIVATE_SCHEME = "99DCMNODE"

# Findings and anatomy
OPACITY = Code("112001", "DCM", "Opacity")  # CID 6104
GROUND_GLASS_OPACITY = Code("112120", "DCM", "Ground glass opacity")  # CID 6104
CONSOLIDATION = Code("9656002", "SCT", "Consolidation")  # not in pydicom's dictionary
LUNG = Code("39607008", "SCT", "Lung")  # CID 4
RIGHT = Code("24028007", "SCT", "Right")  # CID 244
LEFT = Code("7771000", "SCT", "Left")  # CID 244
BILATERAL = Code("51440002", "SCT", "Bilateral")  # CID 244
MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")  # CID 7150
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")  # CID 7150

# Measurements and units
VOLUME = Code("118565006", "SCT", "Volume")  # CID 7469
AREA = Code("42798000", "SCT", "Area")  # CID 7469
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")  # CID 7469
MEAN = Code("373098007", "SCT", "Mean")  # CID 7464
MILLILITRE = Code("ml", "UCUM", "milliliter")
SQUARE_MILLIMETRE = Code("mm2", "UCUM", "square millimeter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
PERCENT = Code("%", "UCUM", "percent")
HOUNSFIELD_UNIT = Code("[hnsf'U]", "UCUM", "Hounsfield unit")

# Structure and provenance
PROCEDURE_REPORTED = Code("25045-6", "LN", "CT unspecified body region")  # CID 100; 24627-2 is not in it
CT_OF_CHEST = Code("169069000", "SCT", "CT of chest")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")  # TID 1500 row 12
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")  # TID 1600
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")  # TID 1600
DERIVED_MEASUREMENTS = Code("126011", "DCM", "Derived Imaging Measurements")  # TID 1500 row 10
PREVIOUS_FINDINGS = Code("121068", "DCM", "Previous Findings")
PRIOR_REPORT = Code("122075", "DCM", "Prior report for current patient")  # CID 3407
ACQUISITION_DATE = Code("126201", "DCM", "Acquisition Date")  # TID 1602
ACQUISITION_TIME = Code("126202", "DCM", "Acquisition Time")  # TID 1602
SLICE_THICKNESS = Code("112225", "DCM", "Slice Thickness")  # TID 1604
MODALITY = Code("121139", "DCM", "Modality")  # TID 1602
COMPUTED_TOMOGRAPHY = Code("CT", "DCM", "Computed Tomography")  # CID 29
FRAME_OF_REFERENCE_UID = Code("112227", "DCM", "Frame of Reference UID")  # TID 1602
QUALITY_FINDING = Code("111052", "DCM", "Quality Finding")
SEGMENTATION = Code("113076", "DCM", "Segmentation")  # CID 7203
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162
MORPHOLOGICAL_OPERATIONS = Code("123104", "DCM", "Morphological Operations")  # CID 7162
REJECTED_FOR_QUALITY = Code("113001", "DCM", "Rejected for Quality Reasons")  # CID 7010 and 7011
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")  # CID 7005


def _private(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


SEVERITY_SCORE = _private("SEVERITY", "Severity score: opaque / lung volume")
CONSOLIDATION_SCORE = _private("CONSOLIDATION", "Consolidation score: consolidated / lung volume")
GGO_SCORE = _private("GGO", "Ground glass score: ground glass / lung volume")
LUNG_VOLUME = _private("LUNG_VOLUME", "Volume of the lung")
OPACITY_VOLUME = _private("OPACITY_VOLUME", "Volume of opacity")
CONSOLIDATION_VOLUME = _private("CONSOL_VOLUME", "Volume of consolidation")
GGO_VOLUME = _private("GGO_VOLUME", "Volume of ground glass opacity")
LUNG_ATTENUATION = _private("LUNG_HU", "Attenuation coefficient of the lung")
OPACITY_ATTENUATION = _private("OPACITY_HU", "Attenuation coefficient of opacity")
SEVERITY_CLASS = _private("SEVERITY_CLASS", "Class of the severity score of both lungs")
SEVERITY_CLASSES: Mapping[str, Code] = {
    "< 5 %": _private("CLASS_1", "< 5 %"),
    "5-25 %": _private("CLASS_2", "5-25 %"),
    "25-50 %": _private("CLASS_3", "25-50 %"),
    "> 50 %": _private("CLASS_4", "> 50 %"),
}
INTENDED_USE = _private("INTENDED_USE", "Intended use")
MODEL = _private("MODEL", "Model package")
LUNG_METHOD = _private("LUNG_METHOD", "Method of lung segmentation")
COMPLETENESS = _private("COMPLETENESS", "How the series was shown to be complete")
OTHER_SERIES = _private("OTHER_SERIES", "Series of the study that were not analysed")
REVISION = _private("REVISION", "Revision of the result")
ACCURACY = _private("ACCURACY", "Agreement with an expert")
KERNEL = _private("KERNEL", "Convolution kernel of the source")
RESAMPLING = _private("RESAMPLING", "Rule by which slices were resampled")
PRIOR_SEARCH = _private("PRIOR_SEARCH", "Where earlier results were looked for")
COMPARABILITY = _private("COMPARABILITY", "Why the figures may not be comparable")
SEVERITY_CHANGE = _private("SEVERITY_CHANGE", "Change of severity score, percentage points")
CONSOLIDATION_CHANGE = _private("CONSOL_CHANGE", "Change of consolidation score, percentage points")
HEADER_NOTE = _private("HEADER_NOTE", "Attribute of the source that was left out")

_VOCABULARY: Mapping[str, tuple[Code, ...]] = {
    "finding or anatomy": (
        OPACITY,
        GROUND_GLASS_OPACITY,
        CONSOLIDATION,
        LUNG,
        RIGHT,
        LEFT,
        BILATERAL,
        MORPHOLOGICALLY_ABNORMAL,
        ANATOMICAL_STRUCTURE,
    ),
    "measurement": (
        VOLUME,
        AREA,
        ATTENUATION,
        MEAN,
        SEVERITY_SCORE,
        CONSOLIDATION_SCORE,
        GGO_SCORE,
        LUNG_VOLUME,
        OPACITY_VOLUME,
        CONSOLIDATION_VOLUME,
        GGO_VOLUME,
        LUNG_ATTENUATION,
        OPACITY_ATTENUATION,
        SEVERITY_CHANGE,
        CONSOLIDATION_CHANGE,
        SLICE_THICKNESS,
    ),
    "unit": (MILLILITRE, SQUARE_MILLIMETRE, MILLIMETRE, PERCENT, HOUNSFIELD_UNIT),
    "evaluation": (
        SEVERITY_CLASS,
        *SEVERITY_CLASSES.values(),
        QUALITY_FINDING,
        INTENDED_USE,
        MODEL,
        LUNG_METHOD,
        COMPLETENESS,
        OTHER_SERIES,
        REVISION,
        ACCURACY,
        KERNEL,
        RESAMPLING,
        PRIOR_SEARCH,
        COMPARABILITY,
        HEADER_NOTE,
    ),
    "structure or provenance": (
        PROCEDURE_REPORTED,
        CT_OF_CHEST,
        QUALITATIVE_EVALUATIONS,
        DERIVED_MEASUREMENTS,
        PREVIOUS_FINDINGS,
        PRIOR_REPORT,
        ACQUISITION_DATE,
        ACQUISITION_TIME,
        IMAGE_LIBRARY,
        IMAGE_LIBRARY_GROUP,
        MODALITY,
        COMPUTED_TOMOGRAPHY,
        FRAME_OF_REFERENCE_UID,
        SEGMENTATION,
        SOURCE_IMAGE,
        ARTIFICIAL_INTELLIGENCE,
        MORPHOLOGICAL_OPERATIONS,
        PROCESSING_EQUIPMENT,
        REJECTED_FOR_QUALITY,
    ),
}


def table() -> Iterator[tuple[str, str, str, str]]:
    """(use, code value, coding scheme designator, code meaning) of every code, for docs/conformance.md."""
    for use, group in _VOCABULARY.items():
        for code in group:
            yield use, code.value, code.scheme_designator, code.meaning


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """The declaration of the private scheme (PS3.3 C.12.1.1.1)."""
    return [
        CodingSchemeIdentificationItem(
            designator=PRIVATE_SCHEME,
            name="dicomnode private codes",
            version="1",
            responsible_organization="dicomnode project",
        )
    ]
