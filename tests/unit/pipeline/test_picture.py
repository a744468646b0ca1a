"""The picture: what is on the page and where, and the Secondary Capture that carries it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from pipeline import accuracy, phantom, picture
from pipeline.arrays import LesionMasks, LungMask
from pipeline.picture_canvas import AMBER, LINE, Box, Canvas, font, wrap
from pipeline.picture_figures import draw_bars
from pipeline.picture_panels import cut_to_lungs, draw_overview, fit
from pipeline.priors import NOT_LOOKED_FOR
from pipeline.subjects import DESCRIPTIONS, Subject
from pipeline.types import Analysis, Flag, Profile
from tests.fixtures.results import (
    SMALL,
    analysis_of,
    make_analysis,
    make_context,
    no_lesions,
    through_bytes,
    without_left_lung,
)

BLUE, ORANGE = DESCRIPTIONS[Subject.INFECTION].rgb, DESCRIPTIONS[Subject.CONSOLIDATION].rgb
SLICES = (slice(84, 690), slice(24, 1096))  # rows and columns of the page that show axial slices
FIGURES = (slice(84, 976), slice(1112, 1576))
WARNINGS = (slice(702, 976), slice(24, 740))
MEASURED = accuracy.sentence(
    {
        "heldout_cases": 128,
        "heldout_severity_limit_low": -0.123,
        "heldout_severity_limit_high": 0.145,
        "heldout_infection_dice_case_mean": 0.74,
    }
)
COMPLETENESS = (
    "300 instances, as many as pacs lists; 20 of them fetched by C-MOVE; 300 slices of 1 mm without a gap from "
    "-301.5 to -2.5 mm, nothing came for 60 s, and no association was sending it"
)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis()


def page(analysis: Analysis, **changes: object) -> np.ndarray:
    return np.asarray(picture.render(analysis, make_context(**changes)))


def count(pixels: np.ndarray, rgb: tuple[int, int, int]) -> int:
    return int((pixels == rgb).all(axis=-1).sum())


def object_of(analysis: Analysis) -> Dataset:
    ds = picture.build(analysis, make_context())
    assert ds is not None
    return through_bytes(ds)


def test_the_object_holds_the_page_as_rendered(analysis: Analysis) -> None:
    ds = object_of(analysis)
    np.testing.assert_array_equal(ds.pixel_array, page(analysis))
    assert (ds.Rows, ds.Columns, ds.PhotometricInterpretation) == (1000, 1600, "RGB")


def test_building_twice_gives_the_same_object(analysis: Analysis) -> None:
    assert object_of(analysis) == object_of(analysis)


def test_what_the_object_says_of_itself(analysis: Analysis) -> None:
    ds = object_of(analysis)
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (ds.BodyPartExamined, list(ds.PatientOrientation)) == ("CHEST", ["L", "P"])
    assert (ds.ConversionType, ds.BurnedInAnnotation, ds.LossyImageCompression) == ("SYN", "NO", "00")
    assert (ds.ContentDate, ds.ContentTime) == (ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture)
    assert ds.ContentDate == "20260301"
    assert "RESEARCH USE ONLY" in ds.SeriesDescription
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert ds[keyword].value == analysis.volume.headers[0][keyword].value
    sources = {item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence}
    assert sources < {header.SOPInstanceUID for header in analysis.volume.headers}


def test_lossy_source_makes_a_lossy_picture() -> None:
    ds = object_of(make_analysis(attributes={"LossyImageCompression": "01", "LossyImageCompressionRatio": 12}))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12)


def test_no_picture_where_the_profile_does_not_want_it(analysis: Analysis) -> None:
    assert picture.build(analysis, make_context(profile=Profile(picture=False))) is None


def test_the_pixels_do_not_depend_on_who_the_patient_is(analysis: Analysis) -> None:
    other = {"PatientName": "Other^Name", "PatientID": "ELSE", "StudyDate": "19990101"}
    np.testing.assert_array_equal(page(analysis), page(make_analysis(attributes=other)))


def test_lesions_are_outlined_in_their_colours_and_nothing_else_is(analysis: Analysis) -> None:
    shown = page(analysis)[SLICES]
    assert count(shown, BLUE) > 100
    assert count(shown, ORANGE) > 20
    healthy = page(make_analysis(lesions=no_lesions))[SLICES]
    assert count(healthy, BLUE) == count(healthy, ORANGE) == 0
    assert (healthy.max(axis=-1) > 200).any()


def test_outlines_are_thin(analysis: Analysis) -> None:
    """The CT inside the outline stays visible."""
    shown = page(analysis)[SLICES]
    blue = (shown == BLUE).all(axis=-1)
    inner = blue[1:-1, 1:-1] & blue[:-2, 1:-1] & blue[2:, 1:-1] & blue[1:-1, :-2] & blue[1:-1, 2:]
    assert inner.sum() < 0.02 * blue.sum()


@pytest.mark.parametrize("position", ["HFS", "FFP", "HFDL"])
def test_the_patients_left_is_on_the_readers_right(position: str) -> None:
    """Lesions of the left lung lie in the right half of each slice, however the patient was scanned."""
    left = phantom.PhantomSpec(
        SMALL.slices, SMALL.rows, SMALL.columns, SMALL.slice_spacing_mm, lesions=phantom.lesions_in(2)
    )
    rows, columns = np.nonzero((page(make_analysis(left, patient_position=position))[SLICES] == BLUE).all(axis=-1))
    within_cell = columns % 360
    assert within_cell.size > 50
    assert (within_cell > 180).all()


def test_slices_in_unequal_pixels_keep_their_shape() -> None:
    """Rows twice as far apart as columns: the lungs are drawn as tall as they are, not as they are stored."""
    spec = phantom.PhantomSpec(20, 40, 80, 14.0, pixel_spacing_mm=(9.0, 4.5))
    cut = cut_to_lungs(make_analysis(spec))
    box = fit(Box(0, 0, 400, 400), cut.size_mm)
    assert box.width / box.height == pytest.approx(cut.size_mm[1] / cut.size_mm[0], rel=0.02)
    square = cut_to_lungs(make_analysis())
    assert cut.size_mm == pytest.approx(square.size_mm, abs=20)


def test_bars_and_banner() -> None:
    """The bar of the worse lung is longer; ground glass and consolidation are both in it."""
    left = phantom.PhantomSpec(
        SMALL.slices, SMALL.rows, SMALL.columns, SMALL.slice_spacing_mm, lesions=phantom.lesions_in(2)
    )
    shown = page(make_analysis(left))[FIGURES]
    right_bar, left_bar = shown[150:170], shown[200:222]
    assert count(right_bar, BLUE) == 0
    assert count(left_bar, BLUE) > count(left_bar, ORANGE) > 0
    assert count(page(make_analysis()), AMBER) > 10_000


def test_warnings_are_written_and_too_many_are_counted(analysis: Analysis) -> None:
    few = tuple(Flag(f"F{number}", f"Warning number {number}.") for number in range(2))
    many = tuple(Flag(f"F{number}", "A long sentence about quality. " * 6) for number in range(30))
    ink = [int((page(make_analysis(flags=flags))[WARNINGS].max(axis=-1) > 150).sum()) for flags in ((), few, many)]
    assert ink[0] < ink[1] < ink[2]
    below = page(make_analysis(flags=many))[WARNINGS][-8:]
    assert (below.max(axis=-1) < 60).all()  # nothing is written over the edge


@pytest.mark.parametrize(("number", "size"), [(4, 17), (6, 14), (11, 13)])
def test_many_warnings_are_written_smaller_before_any_is_left_out(number: int, size: int) -> None:
    """As many as a part of a chest with contrast and a sharp kernel has: who sees no SR sees them here only."""
    text = "The lungs are cut off at the lowest slice: volumes and scores are those of a part of the lungs."
    flags = tuple(Flag(f"F{each}", f"{each}. {text}") for each in range(number))
    words = picture.draw(make_analysis(flags=flags), make_context()).words
    found = [word for word in words if "The lungs are cut off" in word.text]
    assert [word.size for word in found] == [size] * number
    assert all(word.box.bottom <= picture._WARNINGS.bottom for word in found)
    assert not any("more: see the report" in word.text for word in words)


def test_a_case_without_lungs_on_one_side_and_one_slice_of_lung_can_be_drawn(analysis: Analysis) -> None:
    labels = np.zeros_like(analysis.lungs.labels)
    labels[10] = analysis.lungs.labels[10] == 1
    nothing = np.zeros(labels.shape, bool)
    thin = analysis_of(analysis.volume, LungMask(labels, "x"), LesionMasks(nothing, nothing))
    assert page(thin).shape == (1000, 1600, 3)


def test_a_lung_that_was_not_found_has_no_bar_and_is_named_in_amber(analysis: Analysis) -> None:
    """An empty bar would read as a healthy lung."""
    one = page(without_left_lung(analysis))[FIGURES]
    both = page(analysis)[FIGURES]
    left_bar, right_bar = (slice(210, 228), slice(20, 444)), (slice(158, 176), slice(20, 444))
    assert count(both[left_bar], LINE) > 400
    assert count(one[left_bar], LINE) == 0
    assert count(one[right_bar], BLUE) > 400
    assert count(one, AMBER) > 100
    assert count(both, AMBER) == 0


def test_long_figures_are_written_smaller() -> None:
    def extent(width: int | None) -> int:
        canvas = Canvas(Image.new("RGB", (600, 60)))
        canvas.text((0, 30), "4.9999996 %", 52, anchor="lm", width=width)
        return int(np.flatnonzero(np.asarray(canvas.image).max(axis=(0, 2)))[-1])

    assert extent(170) <= 170 < extent(None)


def test_a_lung_that_is_all_opaque_fills_its_bar(analysis: Analysis) -> None:
    lung = analysis.lungs.labels > 0
    full = analysis_of(analysis.volume, analysis.lungs, LesionMasks(lung, lung))
    bar = page(full)[FIGURES][160:168]
    assert count(bar, ORANGE) > 0.9 * 440 * 8


@pytest.mark.parametrize("pixels", [0.0, 0.3, 0.6, 0.9, 1.4])
def test_shares_thinner_than_a_pixel_do_no_harm(analysis: Analysis, pixels: float) -> None:
    """Where the second of two such parts began and ended on one pixel, no picture could be made."""
    box = Box(20, 0, 460, 120)
    share = pixels * 0.1 / box.width
    regions = {
        region: replace(scores, severity_score=2 * share, ggo_score=share, consolidation_score=share)
        for region, scores in analysis.scores.regions.items()
    }
    canvas = Canvas(Image.new("RGB", (480, 120)))
    draw_bars(canvas, box, replace(analysis, scores=replace(analysis.scores, regions=regions)))
    shown = np.asarray(canvas.image)[:, :, :3]
    assert (count(shown[23:39], BLUE) > 0) == (pixels > 0.5)
    assert count(shown[23:39], ORANGE) <= 2 * 16


def test_lines_are_wrapped_and_long_words_are_cut() -> None:
    lines = wrap("one two three four five " + "x" * 200, 17, 120)
    assert len(lines) > 2
    assert all(font(17).getlength(line) <= 120 for line in lines)
    assert wrap("", 17, 120) == []


def test_a_small_stack_shows_what_there_is() -> None:
    short = make_analysis(phantom.PhantomSpec(slices=4, rows=40, columns=40, slice_spacing_mm=70.0))
    assert Image.fromarray(page(short)).size == (1600, 1000)


@pytest.mark.parametrize("told", ["", MEASURED])
def test_all_that_made_the_page_is_on_it_whatever_the_length(told: str) -> None:
    """A series that was shown complete at length, and a model whose accuracy takes three lines."""
    context = make_context(completeness=COMPLETENESS)
    canvas = Canvas(Image.new("RGB", (picture.WIDTH, picture.HEIGHT)))
    picture._draw_origin(canvas, replace(make_analysis(), accuracy=told), context)
    words = " ".join(word.text for word in canvas.words)
    assert COMPLETENESS in words
    assert NOT_LOOKED_FOR in words
    assert all(word.box.bottom <= picture._ORIGIN.bottom for word in canvas.words)


def test_numbers_of_slices_that_lie_close_are_not_written_over_each_other(analysis: Analysis) -> None:
    canvas = Canvas(Image.new("RGB", (picture.WIDTH, picture.HEIGHT)))
    middle = len(analysis.volume.hu) // 2
    numbers = {middle + 1: 1, middle: 2, middle - 1: 3}
    analysis = replace(analysis, volume=replace(analysis.volume, affine=np.diag([2.0, 2.0, 0.5, 1.0])))
    draw_overview(canvas, Box(0, 0, 300, 300), analysis, numbers)
    boxes = [word.box for word in canvas.words if word.text in {"1", "2", "3"}]
    assert len(boxes) == 3
    assert all(upper.bottom <= lower.top for upper, lower in zip(boxes, boxes[1:], strict=False))
