"""The notice that a study was not analysed: whose it is, what it says, and that it says nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from pipeline import notice
from pipeline.errors import ResultError
from pipeline.notice import Form, Notice
from tests.fixtures.ct import slice_of
from tests.fixtures.results import through_bytes

CREATED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
REASONS = ("Thorax 1.0 (12 images): 3 slices are missing", "Thorax 5.0 (40 images): no lungs were found")


def built(form: str, image: Dataset | None = None, **changes: Any) -> Dataset:
    values = {"form": cast(Form, form), "reasons": REASONS, "created": CREATED, **changes}
    return through_bytes(notice.build(image or image_of(), Notice(**values)))


def image_of(**attributes: Any) -> Dataset:
    return slice_of(1, PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100", PatientID="P1", **attributes)


@pytest.mark.parametrize(
    ("form", "sop_class"), [("report", Comprehensive3DSRStorage), ("picture", SecondaryCaptureImageStorage)]
)
def test_it_belongs_to_the_study_and_names_no_other_instance_than_its_own(form: str, sop_class: str) -> None:
    image = image_of()
    ds = built(form, image)
    assert ds.SOPClassUID == sop_class
    assert (str(ds.PatientName), ds.PatientID) == ("Müller^Jörg", "P1")
    assert ds.StudyInstanceUID == image.StudyInstanceUID
    assert ds.SeriesInstanceUID != image.SeriesInstanceUID
    assert ds.SeriesDescription == "CT not analysed - RESEARCH USE ONLY"
    assert ds == built(form, image), "the same notice has the same bytes"
    assert ds.SOPInstanceUID != built(form, image, reasons=REASONS[:1]).SOPInstanceUID


def test_the_report_has_every_reason_and_no_figure() -> None:
    ds = built("report")
    (evaluations,) = [item for item in ds.ContentSequence if item.ValueType == "CONTAINER"]
    words = [item.TextValue for item in evaluations.ContentSequence]
    assert words[:2] == [f"Not analysed: {reason}" for reason in REASONS]
    assert words[2].startswith("Research use only")
    assert len(words) == 3


def test_the_picture_shows_the_words_and_nobodys_name() -> None:
    ds = built("picture")
    assert ds.BurnedInAnnotation == "NO"
    assert (ds.Rows, ds.Columns) == (notice.HEIGHT, notice.WIDTH)
    one, other = notice.render(REASONS[:1]), notice.render(REASONS)
    assert np.array_equal(np.asarray(other), ds.pixel_array)
    assert not np.array_equal(np.asarray(one), np.asarray(other))


def test_more_reasons_than_there_is_room_for_say_so() -> None:
    many = [f"Series {number} (1 images): no lungs were found" for number in range(40)]
    assert np.array_equal(np.asarray(notice.render(many)), np.asarray(notice.render(many[:30])))
    assert not np.array_equal(np.asarray(notice.render(many)), np.asarray(notice.render(many[:16])))


def test_without_uids_there_is_no_notice() -> None:
    image = image_of()
    del image.StudyInstanceUID
    with pytest.raises(ResultError, match="StudyInstanceUID"):
        notice.build(image, Notice("report", REASONS, CREATED))
