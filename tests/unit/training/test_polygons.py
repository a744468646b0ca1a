"""One rule for pixels and polygons, held on any polygon."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.polygons import rasterise

SHAPE = (24, 30)
POINT = st.tuples(st.floats(-5, 35), st.floats(-5, 29))
POLYGON = st.lists(POINT, min_size=3, max_size=8).map(np.array)
NAMED = np.array([(4.0, 3.0), (20.0, 3.0), (20.0, 10.0), (4.0, 10.0)])


def crossings(points: np.ndarray, x: float, y: float) -> bool:
    """Even-odd by a ray to the left of one point: slow, and written another way."""
    inside = False
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            inside = not inside
    return inside


@given(POLYGON)
def test_a_pixel_is_inside_if_its_centre_is(points: np.ndarray) -> None:
    found = rasterise(points, SHAPE)
    expected = [[crossings(points, x, y) for x in range(SHAPE[1])] for y in range(SHAPE[0])]
    np.testing.assert_array_equal(found, expected)


@given(POLYGON, st.integers(-3, 3), st.integers(-3, 3))
def test_a_shift_by_whole_pixels_shifts_the_pixels(points: np.ndarray, right: int, down: int) -> None:
    inner = np.clip(np.round(points * 8) / 8, (4, 4), (25, 19))  # eighths: the shift is exact
    moved = rasterise(inner + (right, down), SHAPE)
    np.testing.assert_array_equal(moved, np.roll(rasterise(inner, SHAPE), (down, right), (0, 1)))


@given(POLYGON, st.integers(0, 7))
def test_start_and_direction_do_not_matter(points: np.ndarray, start: int) -> None:
    turned = np.roll(np.round(points * 8) / 8, start, axis=0)
    np.testing.assert_array_equal(rasterise(turned, SHAPE), rasterise(np.round(points * 8) / 8, SHAPE))


@given(st.floats(1, 28), st.floats(1, 28), st.floats(1, 22), st.floats(1, 22))
def test_neighbours_share_no_pixel_and_leave_none_out(x0: float, x1: float, y0: float, y1: float) -> None:
    outer = np.array([(0.0, 0.0), (29.5, 0.0), (29.5, 23.5), (0.0, 23.5)])
    first = np.array([outer[0], outer[1], (x0, y0), (x1, y1), outer[3]])
    second = np.array([(x0, y0), outer[1], outer[2], outer[3], (x1, y1)])
    both = rasterise(first, SHAPE).astype(int) + rasterise(second, SHAPE)
    # the cut may leave the outer square and cross itself; then even-odd still adds up
    np.testing.assert_array_equal(both % 2, rasterise(outer, SHAPE))


def test_a_rectangle_through_centres_is_half_open() -> None:
    expected = np.zeros(SHAPE, bool)
    expected[3:10, 4:20] = True
    np.testing.assert_array_equal(rasterise(NAMED, SHAPE), expected)
    np.testing.assert_array_equal(rasterise(NAMED - 0.5, SHAPE), expected)


def test_a_keyhole_leaves_the_hole_out() -> None:
    outer = [(0.5, 0.5), (20.5, 0.5), (20.5, 20.5), (0.5, 20.5), (0.5, 0.5)]
    hole = [(5.5, 5.5), (5.5, 10.5), (10.5, 10.5), (10.5, 5.5), (5.5, 5.5)]
    found = rasterise(np.array([*outer, *hole, (0.5, 0.5)]), SHAPE)
    assert found.sum() == 20 * 20 - 5 * 5
    assert not found[6:11, 6:11].any()
