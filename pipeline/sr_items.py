"""Content items that several parts of the report are made of (PS3.3 C.17.3)."""

from __future__ import annotations

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentSequence,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code

from pipeline import codes, provenance
from pipeline.types import Region

CONTAINS = RelationshipTypeValues.CONTAINS
ACQUISITION_CONTEXT = RelationshipTypeValues.HAS_ACQ_CONTEXT
_MODIFIER = RelationshipTypeValues.HAS_CONCEPT_MOD
LATERALITY = {Region.BOTH: codes.BILATERAL, Region.RIGHT: codes.RIGHT, Region.LEFT: codes.LEFT}


def container(name: Code) -> ContainerContentItem:
    """An empty CONTAINER."""
    item = ContainerContentItem(name=name, relationship_type=CONTAINS)
    item.ContentSequence = ContentSequence()
    return item


def text(name: Code, value: str) -> TextContentItem:
    """A TEXT of our own words."""
    return TextContentItem(name=name, value=provenance.plain(value, 1024), relationship_type=CONTAINS)


def number(name: Code, value: float, unit: Code, relationship: RelationshipTypeValues = CONTAINS) -> NumContentItem:
    """A NUM: NumericValue is what people read, six digits; FloatingPointValue is exact."""
    item = NumContentItem(name=name, value=float(value), unit=unit, relationship_type=relationship)
    item.MeasuredValueSequence[0].NumericValue = f"{value:.6g}"
    return item


def lung_number(name: Code, value: float, unit: Code, region: Region) -> NumContentItem:
    """A NUM of both lungs or one of them, which the finding site tells."""
    item = number(name, value, unit)
    site = CodeContentItem(dictionary.SCT.FindingSite, codes.LUNG, _MODIFIER)
    site.ContentSequence = ContentSequence(
        [CodeContentItem(dictionary.SCT.Laterality, LATERALITY[region], _MODIFIER)]
    )
    item.ContentSequence = ContentSequence([site])
    return item
