"""Outlines, and the colours of the findings: apart for colour-blind readers, and apart in a greyscale print."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.picture_canvas import AMBER, BACKGROUND, PANEL, TEXT
from pipeline.picture_outlines import DASHED, dashes, draw_outline, lines
from pipeline.subjects import DESCRIPTIONS, Subject

# Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1.0, for linear RGB.
SIMULATED = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# sRGB to CIE XYZ with the white D65 (IEC 61966-2-1).
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
CLEARLY = 20.0  # CIELAB; about 2.3 can just be noticed side by side
OPACITY, CONSOLIDATION = DESCRIPTIONS[Subject.INFECTION].rgb, DESCRIPTIONS[Subject.CONSOLIDATION].rgb
Rgb = tuple[int, int, int]


def linear(rgb: Rgb) -> npt.NDArray[np.float64]:
    share = np.array(rgb) / 255.0
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(rgb: Rgb, seen_by: str) -> npt.NDArray[np.float64]:
    xyz = TO_XYZ @ np.clip(SIMULATED[seen_by] @ linear(rgb), 0.0, 1.0) / (TO_XYZ @ np.ones(3))
    bent = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * bent[1] - 16, 500 * (bent[0] - bent[1]), 200 * (bent[1] - bent[2])])


def contrast(one: Rgb, other: Rgb) -> float:
    """WCAG 2.2: 1 is none, 21 is black on white; of the luminance alone, as a greyscale print has it."""
    light, dark = sorted((float(TO_XYZ[1] @ linear(rgb)) for rgb in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("seen_by", SIMULATED)
def test_everybody_tells_the_colours_apart(seen_by: str) -> None:
    lungs = (DESCRIPTIONS[Subject.RIGHT_LUNG].rgb, DESCRIPTIONS[Subject.LEFT_LUNG].rgb)
    for one, other in (*combinations((OPACITY, CONSOLIDATION, AMBER, TEXT), 2), lungs):
        difference = float(np.linalg.norm(lab(one, seen_by) - lab(other, seen_by)))
        assert difference > CLEARLY, (one, other)


def test_red_and_green_of_one_lightness_would_be_found() -> None:
    red, green = (200, 60, 50), (96, 118, 50)
    seen = [np.linalg.norm(lab(red, by) - lab(green, by)) for by in ("usual", "deuteranopia")]
    assert seen[0] > CLEARLY > seen[1]


def test_a_greyscale_print_is_readable() -> None:
    """The findings differ in luminance and in line style; everything that is drawn stands out from the ground."""
    assert contrast(OPACITY, CONSOLIDATION) > 1.5
    assert frozenset({Subject.CONSOLIDATION}) == DASHED
    for ground in (PANEL, BACKGROUND):
        assert all(contrast(rgb, ground) > 3.0 for rgb in (OPACITY, CONSOLIDATION))
        assert all(contrast(rgb, ground) > 4.5 for rgb in (TEXT, AMBER))


def test_dashes_of_a_line_have_gaps_and_end_with_it() -> None:
    found = list(dashes(np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 10.0]])))
    assert [float(np.hypot(*np.diff(dash, axis=0).T).sum()) for dash in found] == pytest.approx([7, 7, 7])
    np.testing.assert_allclose(found[1], [[11.0, 0.0], [18.0, 0.0]])
    np.testing.assert_allclose(found[2], [[20.0, 2.0], [20.0, 9.0]])


def test_holes_have_a_border_too_and_nothing_has_none() -> None:
    ring = np.zeros((40, 40), bool)
    ring[10:30, 10:30] = True
    assert len(lines(ring, (80, 80))) == 1
    ring[15:25, 15:25] = False
    assert len(lines(ring, (80, 80))) == 2
    assert lines(np.zeros((40, 40), bool), (80, 80)) == []


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("shrunk", [2, 5])
def test_a_region_that_is_smaller_than_a_pixel_of_the_picture_is_outlined(side: int, shrunk: int) -> None:
    """As on a matrix of 1024, whose slices are shown at a third of that."""
    mask = np.zeros((400, 600), bool)
    mask[101 : 101 + side, 203 : 203 + side] = True
    mask[300, 50:250] = True
    found = sorted(lines(mask, (600 // shrunk, 400 // shrunk)), key=len)
    assert len(found) == 2
    for line, (row, column) in zip(found, ((101 + side / 2, 203 + side / 2), (300.5, 150.0)), strict=True):
        middle = (line.min(axis=0) + line.max(axis=0) + 1) / 2
        assert np.abs(middle * shrunk - (column, row)).max() <= shrunk


@pytest.mark.parametrize("dashed", [False, True])
def test_the_line_lies_on_the_border_with_a_dark_edge(dashed: bool) -> None:
    mask = np.zeros((40, 40), bool)
    mask[:, 5:20] = True
    picture = Image.new("RGB", (80, 80), (255, 255, 255))
    draw_outline(picture, mask, OPACITY, dashed)
    middle = np.asarray(picture)[40:60]
    drawn = (middle == OPACITY).all(axis=-1)
    assert set(np.nonzero(drawn)[1]) <= {9, 10, 39, 40}
    assert drawn.any(axis=1).all() is np.bool_(not dashed)
    assert (middle == BACKGROUND).all(axis=-1).any()
