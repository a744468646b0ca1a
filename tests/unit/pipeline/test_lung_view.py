"""What a lung network is shown, and what of its answer is lung: in cut, wide and long scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import lung_network, package
from pipeline.arrays import MaskArray
from pipeline.lung_air import Floats, find_body_middle, find_middle
from pipeline.lung_builtin import builtin
from pipeline.lung_view import FIELD_MM, find_padding, near_air
from pipeline.phantom import Phantom, PhantomSpec, make
from pipeline.types import Lung, PipelineSettings
from pipeline.volume import load
from tests.unit.pipeline.test_lungs import dice


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """On the coarse grid itself, 2 mm in plane, so that a network's answer can be the truth."""
    return make(PhantomSpec(slices=32, rows=180, columns=180, slice_spacing_mm=8.0))


def all_but_circle(radius: float) -> MaskArray:
    return np.hypot(*(np.indices((180, 180)) - 89.5)) > radius


@pytest.mark.parametrize("cut", ["square", "round"])
def test_lung_that_the_field_of_view_cuts_off_is_found(phantom: Phantom, cut: str) -> None:
    """No wall encloses it there: both lungs were lost in every slice in which they reach the edge."""
    hu, truth = phantom.hu.copy(), phantom.lungs.labels.copy()
    if cut == "square":
        hu, truth = hu[:, :, 40:140], truth[:, :, 40:140]
    else:
        hu[:, all_but_circle(52)], truth[:, all_but_circle(52)] = -1024, Lung.BACKGROUND
    labels = builtin(np.ascontiguousarray(hu), phantom.spacing_mm, lambda _: truth > 0)
    for lung in (Lung.RIGHT, Lung.LEFT):
        assert dice(labels == lung, truth == lung) > 0.97


@pytest.mark.parametrize("slices", [slice(None), slice(16, 17)], ids=["volume", "single slice"])
def test_padding_around_a_round_field_is_no_lung(phantom: Phantom, slices: slice) -> None:
    """Where the field cut lung off the network took it to go on in the padding: 1.4 l more than there was."""
    outside = all_but_circle(52)
    hu, found = phantom.hu[slices].copy(), phantom.lungs.both[slices].copy()
    hu[:, outside] = -1024
    found[:, 60:120, 15:165] |= outside[60:120, 15:165]
    labels = builtin(hu, phantom.spacing_mm, lambda _: found)
    assert not labels[:, outside].any()
    assert dice(labels > 0, phantom.lungs.both[slices] & ~outside) > 0.95


def test_air_inside_is_no_padding() -> None:
    """A bulla, or emphysema where a sharp kernel makes noise, may have the lowest value there is, too."""
    hu = np.full((1, 60, 60), -1024, np.int16)
    hu[:, 10:50, 10:50] = 40
    hu[:, 20:40, 20:40] = -1024
    hu[:, 30, :10] = -1000
    padded = find_padding(hu)
    assert not padded[20:40, 20:40].any()
    assert padded[2, 2] and padded[50:].all()


def test_what_a_network_finds_beside_the_chest_moves_no_side(phantom: Phantom) -> None:
    """A piece in an arm moved the middle by 27 mm, and in some slices both lungs were left ones."""
    found = phantom.lungs.both.copy()
    found[10:12, 90:94, 8:20] = True
    labels = builtin(phantom.hu, phantom.spacing_mm, lambda _: found)
    both = phantom.lungs.both & (labels > 0)
    assert (labels == phantom.lungs.labels)[both].mean() > 0.999
    far = np.pad(phantom.lungs.both, ((0, 0), (0, 0), (50, 0)))
    middle = find_middle(far, find_body_middle(far))
    far[10:12, 90:94, 10:60] = True
    assert abs(find_middle(far, find_body_middle(far)) - middle) <= 1


def test_room_air_that_a_network_takes_for_lung_is_none(phantom: Phantom) -> None:
    found = phantom.lungs.both.copy()
    found[:, :20, :20] = True
    labels = builtin(phantom.hu, phantom.spacing_mm, lambda _: found)
    assert not labels[:, :20, :20].any()


@pytest.mark.parametrize("beside", [(100, 20), (20, 100)], ids=["left", "right"])
def test_a_wide_field_is_shown_around_the_body(phantom: Phantom, beside: tuple[int, int]) -> None:
    """At 600 mm the shipped network took 15 % more than there was: it sees how large lungs are in a picture."""
    hu, marker = phantom.hu.copy(), np.s_[16:18, 80:96, 125:141]  # in the left lung, too wide for a vessel
    hu[marker] = 3000
    seen = []

    def network(shown: Floats) -> MaskArray:
        seen.append(shown)
        return np.asarray(shown > 2500)

    margins = ((0, 0), (60, 60), beside)
    labels = builtin(np.pad(hu, margins, constant_values=-1000), phantom.spacing_mm, network)
    labels = labels[:, 60:240, beside[0] : beside[0] + 180]
    assert seen[0].shape[1:] == (FIELD_MM / 2, FIELD_MM / 2)
    assert (seen[0] > -900).sum() == (hu > -900).sum()  # the body is in it
    assert (labels[marker] == Lung.LEFT).all()
    assert dice(labels > 0, phantom.lungs.both) > 0.97


@pytest.mark.parametrize(
    ("aerated", "kept"),
    [(slice(8, 30), {"beside", "joined"}), (slice(22, 30), {"beside", "joined", "below", "above"})],
    ids=["most of the lungs", "only the upper part"],
)
def test_pieces_below_and_above_the_lungs(aerated: slice, kept: set[str]) -> None:
    """Stomach and shoulders were lung; dense lung below the last air still is."""
    air = np.zeros((40, 20, 30), dtype=bool)
    air[aerated, 5:15, 5:25] = True
    pieces = {
        "beside": np.s_[24:26, 5:8, 27:29],
        "joined": np.s_[aerated.start - 2 : aerated.start, 5:8, 5:8],
        "below": np.s_[1:4, 8:12, 8:12],
        "above": np.s_[33:36, 8:12, 8:12],
    }
    found = np.zeros_like(air)
    for where in pieces.values():
        found[where] = True
    left = near_air(found, air, (8.0, 8.0, 8.0))
    assert {name for name, where in pieces.items() if left[where].all()} == kept
    assert left.sum() == sum(left[pieces[name]].sum() for name in kept)


@pytest.mark.data
def test_real_chest_cut_off_on_both_sides(shared_data: Path) -> None:
    """Every fourth slice, whole and without 60 mm on either side; the highest shows shoulders only."""
    settings = PipelineSettings(device="cpu")
    network = lung_network.of(package.load(settings.model), settings)
    assert network is not None
    volume = load(sorted((shared_data / "ct" / "philips-a0001-s2").iterdir()), settings)
    spacing = (20.0, *volume.spacing_mm[1:])
    hu = np.ascontiguousarray(volume.hu[::4])
    whole = builtin(hu, spacing, network.finds)
    assert not whole[15].any()
    cut = np.s_[:, :, 130:380]
    labels = builtin(np.ascontiguousarray(hu[cut]), spacing, network.finds)
    for lung in (Lung.RIGHT, Lung.LEFT):
        assert dice(labels == lung, whole[cut] == lung) > 0.93
