"""Figures and statements of one of our SRs, under names that need no group around them: for messages about it."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from pipeline import codes
from pipeline.checks_sr import numbers, walk
from pipeline.types import Region

_GROUP, _FINDING = "125007", "121071"
_OWN_NAMES = {  # finding, measurement in its own group → the name that it has elsewhere
    (codes.OPACITY.value, codes.VOLUME.value): codes.OPACITY_VOLUME,
    (codes.OPACITY.value, codes.ATTENUATION.value): codes.OPACITY_ATTENUATION,
    (codes.CONSOLIDATION.value, codes.VOLUME.value): codes.CONSOLIDATION_VOLUME,
    (codes.GROUND_GLASS_OPACITY.value, codes.VOLUME.value): codes.GGO_VOLUME,
}
_NAMES = {
    code.value: code
    for code in (
        codes.SEVERITY_SCORE,
        codes.CONSOLIDATION_SCORE,
        codes.GGO_SCORE,
        codes.LUNG_VOLUME,
        codes.OPACITY_VOLUME,
        codes.CONSOLIDATION_VOLUME,
        codes.GGO_VOLUME,
        codes.LUNG_ATTENUATION,
        codes.OPACITY_ATTENUATION,
    )
}
_UNITS = {code.value: code for code in (codes.PERCENT, codes.MILLILITRE, codes.HOUNSFIELD_UNIT)}


@dataclass(frozen=True)
class Figure:
    """One number of both lungs or one of them."""

    name: Code
    region: Region
    value: float
    unit: Code


@dataclass(frozen=True)
class Statement:
    """One of the Qualitative Evaluations: a text, or a code."""

    name: Code
    text: str = ""
    code: Code | None = None


def figures(ds: Dataset) -> list[Figure]:
    """The summary, which is the first measurement group of every report (see `sr_groups`)."""
    group = next((item for item in walk(ds) if _name(item).value == _GROUP), None)
    found = []
    for number in numbers(group) if group is not None else ():
        name = _OWN_NAMES.get((number.finding, number.name)) or _NAMES.get(number.name)
        unit = _UNITS.get(number.unit)
        if name is not None and unit is not None and number.region is not None:
            found.append(Figure(name, number.region, number.value, unit))
    return found


def statements(ds: Dataset) -> list[Statement]:
    """What a reader must know before the figures are used, and the severity class."""
    found = []
    for container in walk(ds):
        if _name(container).value != codes.QUALITATIVE_EVALUATIONS.value:
            continue
        for item in container.get("ContentSequence") or ():
            if item.ValueType == "TEXT":
                found.append(Statement(_name(item), text=str(item.TextValue)))
            elif item.ValueType == "CODE":
                found.append(Statement(_name(item), code=_code(item.ConceptCodeSequence[0])))
    return found


def _name(item: Dataset) -> Code:
    sequence = item.get("ConceptNameCodeSequence")
    return _code(sequence[0]) if sequence else Code("", "", "")


def _code(item: Dataset) -> Code:
    return Code(
        *(str(item.get(keyword) or "") for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
    )
