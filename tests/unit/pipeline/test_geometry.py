"""Order, faults and the canonical arrangement, for any pose of the stack."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import (
    Assessment,
    FaultKind,
    Limits,
    Slice,
    arrangement,
    assess,
    normal,
    source_affine,
)

LIMITS = Limits(min_slices=3, max_slice_spacing_mm=10.0, max_oblique_deg=30.0)


def rotated(angles_deg: tuple[float, float, float]) -> np.ndarray:
    """Columns: row direction, column direction, normal."""
    a, b, c = np.radians(angles_deg)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x


def stack(
    count: int = 12,
    spacing_mm: float = 5.0,
    angles_deg: tuple[float, float, float] = (0.0, 0.0, 0.0),
    origin: tuple[float, float, float] = (-180.0, -170.0, 40.0),
) -> list[Slice]:
    axes = rotated(angles_deg)
    row, column, axis = axes.T
    positions = [np.array(origin) + index * spacing_mm * axis for index in range(count)]
    return [
        Slice(str(index), tuple(position), (*row, *column), (0.7, 0.8), 512, 400)
        for index, position in enumerate(positions)
    ]


def at(height: float, item: Slice) -> Slice:
    return replace(item, position_mm=(*item.position_mm[:2], height))


def kinds(result: Assessment) -> set[FaultKind]:
    return {fault.kind for fault in result.faults}


angles = st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(-180, 180))
spacings = st.floats(0.3, 9.9)


@given(angles, st.tuples(*[st.floats(-2000, 2000)] * 3), st.integers(4, 40))
def test_a_spacing_at_the_limit_is_allowed_wherever_the_table_stands(angles, origin, count) -> None:
    """Positions are not multiples of anything that floating point holds: 10 mm are 10.000000000000014 somewhere."""
    assert assess(stack(count, LIMITS.max_slice_spacing_mm, angles, origin), LIMITS).faults == ()


class TestOrder:
    @given(angles, spacings, st.integers(4, 40), st.randoms(use_true_random=False))
    def test_any_pose_and_order_is_sorted_without_faults(self, angles, spacing, count, random) -> None:
        slices = stack(count, spacing, angles)
        random.shuffle(slices)
        result = assess(slices, LIMITS)
        assert result.faults == ()
        assert [int(slices[index].key) for index in result.order] == list(range(count))
        assert result.spacing_mm == pytest.approx(spacing)

    @given(spacings, st.integers(4, 40), st.integers(1, 4))
    def test_rounded_positions_are_no_fault(self, spacing, count, digits) -> None:
        slices = [
            replace(item, position_mm=tuple(round(value, digits) for value in item.position_mm))
            for item in stack(count, spacing)
        ]
        assert assess(slices, LIMITS).faults == ()

    def test_feet_first_runs_along_its_own_normal(self) -> None:
        slices = stack(angles_deg=(180.0, 0.0, 0.0))
        assert slices[1].position_mm[2] < slices[0].position_mm[2]
        assert assess(slices[::-1], LIMITS).order == tuple(reversed(range(12)))


class TestGapsAndDuplicates:
    @given(angles, spacings, st.integers(8, 40), st.data())
    def test_each_missing_slice_is_found_where_it_belongs(self, angles, spacing, count, data) -> None:
        slices = stack(count, spacing, angles)
        missing = data.draw(st.integers(1, count - 2))
        lost = slices.pop(missing)
        result = assess(slices, LIMITS)
        (fault,) = result.faults
        axis = normal(lost.orientation)
        headward = 1 if axis[2] > 0 else -1
        assert fault.kind == FaultKind.GAP
        assert fault.positions_mm == pytest.approx([headward * float(np.dot(lost.position_mm, axis))], abs=2e-3)

    def test_neighbouring_and_separate_gaps(self) -> None:
        slices = [item for item in stack(20) if item.key not in {"4", "5", "11"}]
        (fault,) = assess(slices, LIMITS).faults
        assert fault.positions_mm == (60.0, 65.0, 95.0)
        assert "3 slices are missing" in fault.text

    def test_one_stray_slice_far_away_names_a_hundred_positions_at_most(self) -> None:
        slices = [*stack(12), at(9e6, stack(1)[0])]
        (fault,) = assess(slices, LIMITS).faults
        assert (fault.kind, len(fault.positions_mm)) == (FaultKind.GAP, 100)

    @given(angles, spacings, st.integers(0, 11))
    def test_a_doubled_slice(self, angles, spacing, index) -> None:
        slices = stack(12, spacing, angles)
        result = assess([*slices, replace(slices[index], key="again")], LIMITS)
        (fault,) = result.faults
        assert fault.kind == FaultKind.DUPLICATE
        assert len(fault.positions_mm) == 1
        assert result.spacing_mm == pytest.approx(spacing)

    def test_doubled_slice_beside_a_gap(self) -> None:
        slices = stack(12)
        assert kinds(assess([*slices[:5], *slices[6:], slices[8]], LIMITS)) == {FaultKind.GAP, FaultKind.DUPLICATE}

    def test_a_series_sent_twice(self) -> None:
        result = assess(stack() * 2, LIMITS)
        assert kinds(result) == {FaultKind.DUPLICATE}
        assert result.spacing_mm == pytest.approx(5.0)


class TestSpacing:
    def test_limit(self) -> None:
        assert kinds(assess(stack(spacing_mm=12.0), LIMITS)) == {FaultKind.SPACING}

    def test_two_blocks_of_different_spacing_are_uneven(self) -> None:
        heights = [*np.arange(0, 60, 5.0), *np.arange(60, 130, 6.0)]
        result = assess([at(height, stack(1)[0]) for height in heights], LIMITS)
        assert kinds(result) == {FaultKind.SPACING}
        assert "5.00 to 6.00" in result.faults[0].text

    def test_one_slice_between_two_others(self) -> None:
        assert kinds(assess([*stack(), at(57.0, stack(1)[0])], LIMITS)) == {FaultKind.SPACING}

    def test_few(self) -> None:
        assert kinds(assess(stack(2), LIMITS)) == {FaultKind.FEW}


class TestPose:
    @given(st.floats(1.5, 30), spacings)
    def test_gantry_tilt(self, tilt, spacing) -> None:
        """The gantry tilts but the table moves along z: the step is not along the normal."""
        slices = [
            replace(item, position_mm=(-180.0, -170.0, index * spacing / math.cos(math.radians(tilt))))
            for index, item in enumerate(stack(12, spacing, (tilt, 0.0, 0.0)))
        ]
        result = assess(slices, Limits(3, 12.0, 45.0))
        (fault,) = result.faults
        assert fault.kind == FaultKind.TILT
        assert f"{tilt:.1f} degrees" in fault.text

    @pytest.mark.parametrize("key", ["0", "6"])
    def test_one_slice_shifted_sideways(self, key: str) -> None:
        slices = [
            replace(item, position_mm=(-172.0, *item.position_mm[1:])) if item.key == key else item
            for item in stack(30)
        ]
        assert kinds(assess(slices, LIMITS)) == {FaultKind.TILT}

    @pytest.mark.parametrize(("angle", "expected"), [(29.0, set()), (31.0, {FaultKind.NOT_AXIAL})])
    def test_oblique_limit(self, angle: float, expected: set[FaultKind]) -> None:
        assert kinds(assess(stack(angles_deg=(angle, 0.0, 0.0)), LIMITS)) == expected

    def test_coronal(self) -> None:
        result = assess(stack(angles_deg=(90.0, 0.0, 0.0)), LIMITS)
        assert kinds(result) == {FaultKind.NOT_AXIAL}
        assert "90 degrees" in result.faults[0].text

    def test_mixed_orientation_puts_the_others_last(self) -> None:
        scout = replace(stack(angles_deg=(90.0, 0.0, 0.0))[0], key="scout")
        result = assess([scout, *stack()], LIMITS)
        assert kinds(result) == {FaultKind.ORIENTATION}
        assert result.order[-1] == 0

    @pytest.mark.parametrize("change", [{"rows": 256}, {"columns": 512}, {"pixel_spacing_mm": (0.7, 0.81)}])
    def test_mixed_size(self, change: dict[str, object]) -> None:
        slices = stack()
        assert kinds(assess([*slices[:5], replace(slices[5], **change), *slices[6:]], LIMITS)) == {FaultKind.SIZE}


class TestOddInput:
    @pytest.mark.parametrize(
        "change",
        [
            {"position_mm": (math.nan, 0.0, 0.0)},
            {"position_mm": (math.inf, 0.0, 0.0)},
            {"position_mm": ()},
            {"orientation": (0.0,) * 6},
            {"orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)},
            {"orientation": (1.0, 0.0, 0.0)},
            {"pixel_spacing_mm": (0.0, 0.7)},
            {"pixel_spacing_mm": (-0.7, 0.7)},
            {"rows": 0},
        ],
        ids=str,
    )
    def test_unusable_slice_is_a_fault_and_comes_last(self, change: dict[str, object]) -> None:
        slices = stack()
        result = assess([replace(slices[0], **change), *slices[1:]], LIMITS)
        assert kinds(result) == {FaultKind.ORIENTATION}
        assert result.order[-1] == 0

    @pytest.mark.parametrize("count", [0, 1])
    def test_nothing_and_one(self, count: int) -> None:
        result = assess(stack(count), LIMITS)
        assert kinds(result) == {FaultKind.FEW}
        assert result.order == tuple(range(count))
        assert result.spacing_mm == 0.0

    numbers = st.floats() | st.sampled_from([0.0, 1.0, -1.0, 5.0])

    @given(
        st.lists(
            st.builds(
                Slice,
                st.just("k"),
                st.tuples(numbers, numbers, numbers),
                st.tuples(*[numbers] * 6) | st.just((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
                st.tuples(numbers, numbers),
                st.integers(-1, 3),
                st.integers(-1, 3),
            ),
            max_size=8,
        )
    )
    def test_never_raises_and_orders_every_index(self, slices: list[Slice]) -> None:
        result = assess(slices, LIMITS)
        assert sorted(result.order) == list(range(len(slices)))
        assert math.isfinite(result.spacing_mm)


class TestCanonical:
    @given(angles, spacings)
    def test_axes_point_to_head_back_and_left(self, angles, spacing) -> None:
        slices = stack(6, spacing, angles)
        turn = arrangement(slices[0].orientation)
        shape = (6, 400, 512) if turn.transpose else (6, 512, 400)
        affine = turn.affine(source_affine(slices), shape)
        # 20 degrees about x and about y, and 45 in plane to the next quarter turn, leave this much of each axis.
        assert affine[0, 0] > 0 and affine[1, 1] > 0 and affine[2, 2] > 0
        assert np.linalg.det(affine[:3, :3]) > 0

    @given(angles, spacings)
    def test_a_voxel_keeps_its_place_in_the_patient(self, angles, spacing) -> None:
        slices = [replace(item, rows=4, columns=5) for item in stack(3, spacing, angles)]
        source = source_affine(slices)
        grid = np.indices((3, 4, 5))
        turn = arrangement(slices[0].orientation)
        turned = [turn.to_canonical(index) for index in grid]  # source indices, carried along
        affine = turn.affine(source, turned[0].shape)
        k, j, i = np.indices(turned[0].shape)
        canonical = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ affine.T
        original = np.stack([turned[2], turned[1], turned[0], np.ones_like(i)], axis=-1) @ source.T
        assert np.allclose(canonical, original, atol=1e-6)

    def test_source_affine_puts_voxels_where_ps3_3_says(self) -> None:
        """Equation C.7.6.2.1-1: position + column index · row direction · column spacing + …"""
        slices = stack(6, 5.0, (10.0, -5.0, 20.0))
        row, column = np.array(slices[0].orientation[:3]), np.array(slices[0].orientation[3:])
        expected = np.array(slices[4].position_mm) + 7 * row * 0.8 + 9 * column * 0.7
        assert (source_affine(slices) @ [7, 9, 4, 1])[:3] == pytest.approx(expected)

    def test_slice_step_is_fitted_over_all_positions(self) -> None:
        slices = [at(5.0 * index + (1.0 if index == 19 else 0.0), stack(1)[0]) for index in range(20)]
        first_and_last = 96 / 19
        assert 5.0 < source_affine(slices)[2, 2] < (5.0 + first_and_last) / 2
