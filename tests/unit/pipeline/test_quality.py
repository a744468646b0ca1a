"""Each warning appears where its cause is, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.accuracy import Healthy
from pipeline.arrays import CtVolume, LesionMasks, LungMask
from pipeline.lungs import segment
from pipeline.phantom import Phantom, PhantomSpec, as_volume, make
from pipeline.quality import _height_above_table, flags
from pipeline.scores import measure
from pipeline.types import Flag, Lung, PipelineSettings
from pipeline.volume import load

SPEC = PhantomSpec(slices=60, rows=100, columns=100)
SYNTHETIC = Healthy(0.001, "synthetic healthy chests")


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make(SPEC)


def found(
    volume: CtVolume, lungs: LungMask, lesions: LesionMasks, attributes: Mapping[str, Any] | None = None
) -> dict[str, Flag]:
    for keyword, value in (attributes or {}).items():
        setattr(volume.headers[0], keyword, value)
    result = flags(volume, lungs, lesions, measure(volume, lungs, lesions))
    assert all(flag.text.isascii() and flag.text.endswith(".") for flag in result)
    assert len({flag.code for flag in result}) == len(result)
    return {flag.code: flag for flag in result}


def found_in(phantom: Phantom, attributes: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Flag]:
    return found(as_volume(phantom, **changes), phantom.lungs, phantom.lesions, attributes)


def test_a_good_series_has_no_warning(phantom: Phantom) -> None:
    assert found_in(phantom) == {}


@pytest.mark.parametrize(
    ("attributes", "code", "said"),
    [
        ({"ConvolutionKernel": "B70f"}, "sharp-kernel", "B70f"),
        ({"ConvolutionKernel": ["Br64d", "3"]}, "sharp-kernel", "Br64d"),
        ({"ConvolutionKernel": ""}, "unknown-kernel", "not stated"),
        ({"ConvolutionKernel": "Größe"}, "unknown-kernel", "Gr??e"),
        ({"ContrastBolusAgent": "Iomeprol 350"}, "contrast", "Contrast medium"),
        ({"ContrastBolusVolume": "80"}, "contrast", "Contrast medium"),
        ({"LossyImageCompression": "01"}, "lossy", "compressed with loss"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "derived", "DERIVED"),
        ({"SliceThickness": "8"}, "thick-slices", "8.0 mm"),
        ({"SliceThickness": "1.25"}, "not-contiguous", "1.2 mm lie 5.0 mm apart"),
    ],
)
def test_header(phantom: Phantom, attributes: dict[str, Any], code: str, said: str) -> None:
    (flag,) = found_in(phantom, attributes).values()
    assert flag.code == code
    assert said in flag.text


@pytest.mark.parametrize(
    "attributes",
    [
        {"ContrastBolusAgent": "NONE", "ContrastBolusVolume": "0"},
        {"ContrastBolusAgent": "", "ContrastBolusVolume": None},
        {"LossyImageCompression": "00"},
        {"ConvolutionKernel": "STANDARD"},
        {"SliceThickness": None},
        {"SliceThickness": "inf"},
        {"SliceThickness": "5"},
    ],
    ids=str,
)
def test_header_without_fault(phantom: Phantom, attributes: dict[str, Any]) -> None:
    assert found_in(phantom, attributes) == {}


def test_loss_of_a_single_slice(phantom: Phantom) -> None:
    volume = as_volume(phantom)
    volume.headers[-1].LossyImageCompression = "01"
    assert set(found(volume, phantom.lungs, phantom.lesions)) == {"lossy"}


@pytest.mark.parametrize(
    ("covered", "codes"),
    [
        ((0.4, 1.0), {"truncated-lowest"}),
        ((0.0, 0.6), {"truncated-highest"}),
        ((0.4, 0.6), {"truncated-lowest", "truncated-highest"}),
        ((0.11, 1.0), {"lung-in-lowest-slice"}),
        ((0.0, 0.92), {"lung-in-highest-slice"}),
    ],
)
def test_ends_of_the_lungs(covered: tuple[float, float], codes: set[str]) -> None:
    assert set(found_in(make(replace(SPEC, covered=covered, lesions=())))) == codes


def test_lung_at_the_edge_of_the_images(phantom: Phantom) -> None:
    volume = as_volume(phantom)
    columns = slice(25, None)  # cuts into the right lung
    cut = replace(volume, hu=volume.hu[:, :, columns])
    lungs = replace(phantom.lungs, labels=phantom.lungs.labels[:, :, columns])
    masks = (phantom.lesions.infection[:, :, columns], phantom.lesions.consolidation[:, :, columns])
    assert set(found(cut, lungs, LesionMasks(*masks))) == {"field-of-view"}


def test_lung_at_the_edge_of_a_round_field(phantom: Phantom) -> None:
    """The images end far from the lungs, but what was reconstructed does not; a wide circle is no warning."""
    volume = as_volume(phantom)
    for radius, codes in ((48, set()), (32, {"field-of-view"})):
        outside = np.hypot(*(np.indices((100, 100)) - 49.5)) > radius
        lesions = phantom.lesions
        masks = LesionMasks(lesions.infection & ~outside, lesions.consolidation & ~outside)
        cut = replace(volume, hu=np.where(outside, -1024, volume.hu).astype(np.int16))
        lungs = replace(phantom.lungs, labels=np.where(outside, 0, phantom.lungs.labels).astype(np.uint8))
        assert set(found(cut, lungs, masks)) == codes


def test_oblique(phantom: Phantom) -> None:
    assert found_in(phantom, oblique_deg=(8.0, 0.0, 0.0)) == {}
    assert "15 degrees" in found_in(phantom, oblique_deg=(15.0, 0.0, 0.0))["oblique"].text


def test_one_lung_much_smaller(phantom: Phantom) -> None:
    labels = phantom.lungs.labels.copy()
    labels[:35][labels[:35] == Lung.LEFT] = Lung.BACKGROUND
    infection = phantom.lesions.infection & (labels > 0)
    masks = LesionMasks(infection, phantom.lesions.consolidation & infection)
    flag = found(as_volume(phantom), LungMask(labels, "test"), masks)["side-mismatch"]
    assert "left lung is much smaller" in flag.text


@pytest.mark.parametrize("slices", [0, 1])
def test_a_lung_that_was_not_found_is_told_first(phantom: Phantom, slices: int) -> None:
    """Also where a rest of it was: 1 slice of 5 mm of one lung is less than 100 ml."""
    labels = phantom.lungs.labels.copy()
    rest = labels[30 : 30 + slices].copy()
    labels[labels == Lung.LEFT] = Lung.BACKGROUND
    labels[30 : 30 + slices] = rest
    infection = phantom.lesions.infection & (labels > 0)
    masks = LesionMasks(infection, phantom.lesions.consolidation & infection)
    warnings = found(as_volume(phantom), LungMask(labels, "test"), masks, {"ConvolutionKernel": "B70f"})
    assert list(warnings)[:2] == ["lung-not-found", "sharp-kernel"]
    assert "The left lung was not found" in warnings["lung-not-found"].text
    assert "score of both lungs is then too low" in warnings["lung-not-found"].text
    assert "side-mismatch" not in warnings


def test_small_lungs() -> None:
    assert set(found_in(make(PhantomSpec(slices=60, rows=60, columns=60, slice_spacing_mm=1.0)))) == {"small-lungs"}


class TestDensity:
    def healthy(self) -> Phantom:
        return make(replace(SPEC, lesions=()))

    def test_diffuse_ground_glass_that_was_missed(self) -> None:
        phantom = self.healthy()
        hu = np.where(phantom.lungs.both, phantom.hu + 150, phantom.hu).astype(np.int16)
        volume = replace(as_volume(phantom), hu=hu)
        assert set(found(volume, phantom.lungs, phantom.lesions)) == {"raised-density"}

    def test_infection_that_was_found_is_no_raised_density(self) -> None:
        phantom = self.healthy()
        hu = np.where(phantom.lungs.both, phantom.hu + 150, phantom.hu).astype(np.int16)
        rows = np.arange(100)[None, :, None]
        infection = phantom.lungs.both & (rows > 65)
        volume = replace(as_volume(phantom), hu=hu)
        masks = LesionMasks(infection, np.zeros_like(infection))
        assert "raised-density" not in found(volume, phantom.lungs, masks)

    @pytest.mark.parametrize("sides", [(Lung.RIGHT,), (Lung.LEFT,), (Lung.RIGHT, Lung.LEFT)])
    def test_a_white_lung_of_which_little_was_outlined(self, sides: tuple[Lung, ...]) -> None:
        """Whatever the score is; what was outlined is then neither doubtful nor merely raised density."""
        phantom = self.healthy()
        white = np.isin(phantom.lungs.labels, sides)
        volume = replace(as_volume(phantom), hu=np.where(white, 30, phantom.hu).astype(np.int16))
        places = np.flatnonzero(white)
        for outlined in (0, 10, places.size // 2):
            infection = np.zeros_like(white)
            infection.ravel()[places[:outlined]] = True
            masks = LesionMasks(infection, np.zeros_like(infection))
            scores = measure(volume, phantom.lungs, masks)
            told = {flag.code: flag for flag in flags(volume, phantom.lungs, masks, scores, SYNTHETIC)}
            assert "dense-lung" in told
            assert not {"raised-density", "doubtful-opacity"} & set(told)
            for side in Lung.RIGHT, Lung.LEFT:
                assert (f"{side.name.lower()} 30 HU" in told["dense-lung"].text) is (side in sides)

    def test_a_white_lung_that_was_outlined_is_not_told(self) -> None:
        phantom = self.healthy()
        white = phantom.lungs.labels == Lung.LEFT
        volume = replace(as_volume(phantom), hu=np.where(white, 30, phantom.hu).astype(np.int16))
        assert "dense-lung" not in found(volume, phantom.lungs, LesionMasks(white, white))
        kept = white.copy()
        kept.ravel()[np.flatnonzero(white)[::5]] = False  # a fifth: the rim
        assert "dense-lung" not in found(volume, phantom.lungs, LesionMasks(kept, kept))


class TestLittleOpacity:
    @pytest.mark.parametrize(("times", "told"), [(0.0, False), (0.5, True), (1.9, True), (2.1, False)])
    def test_as_much_as_in_healthy_lungs_may_be_none(self, phantom: Phantom, times: float, told: bool) -> None:
        nothing = np.zeros(phantom.hu.shape, dtype=bool)
        infection = nothing.copy()
        lung = int(phantom.lungs.both.sum())
        infection.ravel()[np.flatnonzero(phantom.lungs.both)[: round(times * 0.001 * lung)]] = True
        volume, masks = as_volume(phantom), LesionMasks(infection, nothing)
        scores = measure(volume, phantom.lungs, masks)
        found = {flag.code: flag.text for flag in flags(volume, phantom.lungs, masks, scores, SYNTHETIC)}
        assert ("doubtful-opacity" in found) is told
        assert not told or "synthetic healthy chests this model finds 0.10 %" in found["doubtful-opacity"]
        unmeasured = flags(volume, phantom.lungs, masks, scores)
        assert "doubtful-opacity" not in {flag.code for flag in unmeasured}

    def test_where_a_lung_is_missing_nothing_is_said_to_be_none(self, phantom: Phantom) -> None:
        labels = np.where(phantom.lungs.labels == Lung.LEFT, 0, phantom.lungs.labels)
        lungs = replace(phantom.lungs, labels=labels.astype(phantom.lungs.labels.dtype))
        infection = np.zeros(labels.shape, dtype=bool)
        infection.ravel()[np.flatnonzero(labels)[:20]] = True
        volume, masks = as_volume(phantom), LesionMasks(infection, np.zeros_like(infection))
        scores = measure(volume, lungs, masks)
        codes = {flag.code for flag in flags(volume, lungs, masks, scores, SYNTHETIC)}
        assert "lung-not-found" in codes
        assert "doubtful-opacity" not in codes


class TestConsolidation:
    def test_septa_are_thin(self) -> None:
        phantom = make(replace(SPEC, rows=200, columns=200))
        lines = np.zeros(phantom.hu.shape, dtype=bool)
        lines[:, :, ::4] = lines[:, ::4] = True
        thin = phantom.lesions.infection & lines
        masks = LesionMasks(phantom.lesions.infection, thin)
        assert set(found(as_volume(phantom), phantom.lungs, masks)) == {"thin-consolidation"}

    def test_a_little_is_not_told(self, phantom: Phantom) -> None:
        thin = np.zeros(phantom.hu.shape, dtype=bool)
        thin[30] = phantom.lesions.infection[30] & (np.arange(100) % 8 == 0)[None]
        assert 0 < thin.sum() * phantom.voxel_volume_ml < 2.0
        assert found(as_volume(phantom), phantom.lungs, LesionMasks(phantom.lesions.infection, thin)) == {}


class TestEffusion:
    @staticmethod
    def with_fluid(phantom: Phantom, front: bool) -> CtVolume:
        """A crescent of 10 HU, 20 mm deep, in the right lung."""
        lung = phantom.lungs.labels == Lung.RIGHT
        depth = (lung[:, ::-1].cumsum(axis=1)[:, ::-1] if not front else lung.cumsum(axis=1)) * lung
        fluid = (depth > 0) & (depth <= 6)
        fluid[45:] = False
        noise = np.random.default_rng(0).normal(10, 12, phantom.hu.shape)
        return replace(as_volume(phantom), hu=np.where(fluid, noise, phantom.hu).astype(np.int16))

    def test_behind(self, phantom: Phantom) -> None:
        volume = self.with_fluid(phantom, front=False)
        assert set(found(volume, phantom.lungs, phantom.lesions)) == {"effusion"}

    def test_in_front_of_a_supine_patient_it_is_none(self, phantom: Phantom) -> None:
        volume = self.with_fluid(phantom, front=True)
        assert found(volume, phantom.lungs, phantom.lesions) == {}

    def test_in_front_of_a_prone_patient(self, phantom: Phantom) -> None:
        volume = self.with_fluid(phantom, front=True)
        assert set(found(volume, phantom.lungs, phantom.lesions, {"PatientPosition": "HFP"})) == {"effusion"}


@pytest.mark.parametrize(
    ("position", "side"),
    [("HFDR", "low columns"), ("FFDL", "high columns"), ("HFS", "high rows"), ("FFP", "low rows")],
)
def test_height_above_the_table(position: str, side: str) -> None:
    height = _height_above_table(position, np.ones((2, 3, 5), dtype=bool))
    lowest = {"low columns": height[:, :, 0], "high columns": height[:, :, -1]}
    lowest |= {"low rows": height[:, 0], "high rows": height[:, -1]}
    assert [name for name, values in lowest.items() if (values == 0).all()] == [side]


@pytest.mark.data
def test_real_series(shared_data: Path) -> None:
    """No lesions given: what is told comes from the series itself."""
    expected = {
        "siemens-a0002-b40f": {"thick-slices", "lung-in-lowest-slice"},
        "siemens-a0002-b70f": {"thick-slices", "lung-in-lowest-slice", "sharp-kernel"},
    }
    for name, codes in expected.items():
        volume = load(sorted((shared_data / "ct" / name).iterdir()), PipelineSettings())
        nothing = np.zeros(volume.hu.shape, dtype=bool)
        assert set(found(volume, segment(volume, None, "cpu"), LesionMasks(nothing, nothing))) == codes, name
