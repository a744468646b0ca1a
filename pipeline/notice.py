"""A notice that a study was not analysed, and why: a report or a picture for whoever waits for a result.

There is no analysis, so it names no model, no figure and no finding. The report is a Measurement Report (PS3.16
TID 1500) with Qualitative Evaluations alone; archives and viewers that take results take it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    LanguageOfContentItemAndDescendants,
    ObservationContext,
    ObserverContext,
    RelationshipTypeValues,
)
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary

from pipeline import RESEARCH_USE_ONLY, SOFTWARE_NAME, __version__, codes, header, picture, provenance, uids
from pipeline.capture import capture
from pipeline.header import SourceHeader, series_number
from pipeline.picture_canvas import AMBER, BACKGROUND, MUTED, TEXT, Box, Canvas, wrap
from pipeline.sr_items import container, text

Form = Literal["report", "picture"]
TITLE = "CT not analysed"
WIDTH, HEIGHT, MOST_LINES = 1000, 600, 16
_MEANING = "No result is to be expected unless it is analysed again. This says nothing about the lungs."


@dataclass(frozen=True)
class Notice:
    """What is to be said.

    Attributes:
        form: as a report or as a picture.
        reasons: a sentence for each series.
        created: time zone aware.
    """

    form: Form
    reasons: tuple[str, ...]
    created: datetime


def build(image: Dataset, notice: Notice) -> Dataset:
    """The object, in the study of an image that was received.

    Args:
        image: header of any instance of the study.
        notice: the same one gives the same bytes.

    Raises:
        ResultError: the image has no UIDs to refer to.
    """
    source = header.normalise(image)
    built = (_report if notice.form == "report" else _picture)(source, notice)
    ds = provenance.at_moment(built, notice.created, source)
    if notice.form == "picture":
        picture.describe(ds, source, [])
        ds.BurnedInAnnotation = "NO"
    return ds


def _arguments(source: SourceHeader, notice: Notice) -> dict[str, Any]:
    causes = (str(source.ds.StudyInstanceUID), notice.form, notice.created.isoformat(), *notice.reasons)
    return {
        "series_instance_uid": uids.derive("notice series", *causes),
        "series_number": int(f"9{series_number(source.ds):03d}9"),
        "series_description": f"{TITLE} - RESEARCH USE ONLY",
        "sop_instance_uid": uids.derive("notice", *causes),
        "instance_number": 1,
        "manufacturer": provenance.MANUFACTURER,
        "manufacturer_model_name": SOFTWARE_NAME,
        "software_versions": [f"{SOFTWARE_NAME} {__version__}"],
        "specific_character_set": None,  # as in `provenance.arguments`
    }


def _report(source: SourceHeader, notice: Notice) -> Dataset:
    statements = container(codes.QUALITATIVE_EVALUATIONS)
    for reason in notice.reasons:
        statements.ContentSequence.append(text(codes.QUALITY_FINDING, f"Not analysed: {reason}"))
    statements.ContentSequence.append(text(codes.INTENDED_USE, f"{RESEARCH_USE_ONLY}. {_MEANING}"))
    root = ContainerContentItem(name=dictionary.cid7021.ImagingMeasurementReport, template_id="1500")
    root.ContentSequence = ContentSequence()
    english = CodedConcept("en", "RFC5646", "English")
    root.ContentSequence.extend(LanguageOfContentItemAndDescendants(english))
    root.ContentSequence.extend(_observer())
    procedure = CodeContentItem(
        dictionary.DCM.ProcedureReported, codes.PROCEDURE_REPORTED, RelationshipTypeValues.HAS_CONCEPT_MOD
    )
    root.ContentSequence.extend([procedure, statements])
    return Comprehensive3DSR(
        evidence=[provenance.nameless(source)],
        content=root,
        is_complete=True,
        is_verified=False,
        performed_procedure_codes=[codes.CT_OF_CHEST],
        coding_schemes=codes.coding_schemes(),
        **_arguments(source, notice),
    )


def _observer() -> ObservationContext:
    """The software alone: no model has looked."""
    attributes = DeviceObserverIdentifyingAttributes(
        uid=uids.derive("device", SOFTWARE_NAME, __version__),
        name=SOFTWARE_NAME,
        manufacturer_name=provenance.MANUFACTURER,
        model_name=SOFTWARE_NAME,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=dictionary.DCM.Device, observer_identifying_attributes=attributes
        )
    )


def _picture(source: SourceHeader, notice: Notice) -> Dataset:
    return capture(np.asarray(render(notice.reasons)), source, _arguments(source, notice))


def render(reasons: Sequence[str]) -> Image.Image:
    """The picture, RGB, 1000 × 600; without anything that identifies a person."""
    canvas = Canvas(Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND))
    canvas.text((32, 52), TITLE, 34, TEXT, anchor="lm", weight="bold")
    banner = Box(520, 28, WIDTH - 32, 78)
    canvas.panel(banner, AMBER)
    centre = ((banner.left + banner.right) // 2, (banner.top + banner.bottom) // 2)
    canvas.text(centre, RESEARCH_USE_ONLY, 19, BACKGROUND, anchor="mm", weight="bold", width=banner.width - 16)
    lines = [line for reason in reasons for line in wrap(provenance.plain(reason, 400), 20, WIDTH - 80)]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "... and more: `dicomnode status` has them all"]
    for place, line in enumerate(lines):
        canvas.text((40, 126 + 26 * place), line, 20, TEXT, anchor="lm")
    canvas.text((40, HEIGHT - 52), _MEANING, 18, MUTED, anchor="lm")
    canvas.text((40, HEIGHT - 26), f"{SOFTWARE_NAME} {__version__}", 16, MUTED, anchor="lm")
    return canvas.image
