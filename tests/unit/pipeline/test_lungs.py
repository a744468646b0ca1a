"""Lungs against the phantom's truth and expert lesions, and lungmask with weights of its own layout."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from lungmask.resunet import UNet
from scipy import ndimage

from pipeline import lungs
from pipeline.arrays import CtVolume, LabelArray
from pipeline.errors import ModelError, SeriesRejected
from pipeline.lungs import builtin, segment
from pipeline.phantom import Lesion, Phantom, PhantomSpec, as_volume, make
from pipeline.types import Lung, PipelineSettings
from pipeline.volume import load


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def opaque(hu: np.ndarray, labels: LabelArray, lung: Lung) -> np.ndarray:
    """One lung with its blurred border as dense as soft tissue."""
    area = ndimage.binary_dilation(labels == lung, np.ones((1, 3, 3)), iterations=2)
    return np.where(area & ((labels == Lung.BACKGROUND) | (labels == lung)), 30, hu).astype(np.int16)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make(PhantomSpec(slices=32, rows=180, columns=180, slice_spacing_mm=8.0))


@pytest.fixture(scope="module")
def found(phantom: Phantom) -> LabelArray:
    return builtin(phantom.hu, phantom.spacing_mm)


class TestBuiltinOnPhantom:
    @pytest.mark.parametrize("lung", [Lung.RIGHT, Lung.LEFT])
    def test_each_lung_by_its_side(self, phantom: Phantom, found: LabelArray, lung: Lung) -> None:
        assert dice(found == lung, phantom.lungs.labels == lung) > 0.98

    def test_sides_are_never_swapped(self, phantom: Phantom, found: LabelArray) -> None:
        both = (found > 0) & phantom.lungs.both
        assert (found == phantom.lungs.labels)[both].mean() > 0.9999

    def test_lesions_lie_inside(self, phantom: Phantom, found: LabelArray) -> None:
        assert (found > 0)[phantom.lesions.infection].mean() > 0.995
        assert (found > 0)[phantom.lesions.consolidation].mean() > 0.98

    def test_trachea_and_stomach_stay_out(self, phantom: Phantom, found: LabelArray) -> None:
        gas = (phantom.hu < -900) & ~phantom.lungs.both
        middle = slice(50, 130)  # rows and columns well inside the body
        stomach, trachea = gas[:4, middle, middle], gas[18:, middle, middle]  # between them bronchi enter the lungs
        assert stomach.sum() > 500 and trachea.sum() > 500
        assert not (found > 0)[:4, middle, middle][stomach].any()
        assert not (found > 0)[18:, middle, middle][trachea].any()

    @pytest.mark.parametrize(
        ("spec", "least"),
        [
            (PhantomSpec(slices=20, rows=96, columns=128, pixel_spacing_mm=(3.0, 2.8)), 0.97),
            (PhantomSpec(slices=10, rows=400, columns=400, slice_spacing_mm=10.0), 0.97),
            (PhantomSpec(slices=120, rows=90, columns=90, slice_spacing_mm=1.0), 0.95),
            (PhantomSpec(slices=16, rows=120, columns=120, covered=(0.3, 0.7)), 0.97),
        ],
        ids=["oblong", "fine", "thin slices", "cut off at both ends"],
    )
    def test_any_grid(self, spec: PhantomSpec, least: float) -> None:
        phantom = make(spec)
        labels = builtin(phantom.hu, phantom.spacing_mm)
        assert labels.shape == phantom.hu.shape
        for lung in (Lung.RIGHT, Lung.LEFT):
            assert dice(labels == lung, phantom.lungs.labels == lung) > least

    def test_both_sides_are_treated_alike(self, phantom: Phantom, found: LabelArray) -> None:
        mirrored = builtin(phantom.hu[:, :, ::-1], phantom.spacing_mm)[:, :, ::-1]
        assert dice(mirrored == Lung.LEFT, found == Lung.RIGHT) > 0.99
        assert dice(mirrored == Lung.RIGHT, found == Lung.LEFT) > 0.99

    def test_single_slice(self, phantom: Phantom) -> None:
        for index in (12, 16, 22):
            labels = builtin(phantom.hu[index : index + 1], phantom.spacing_mm)
            for lung in (Lung.RIGHT, Lung.LEFT):
                assert dice(labels[0] == lung, phantom.lungs.labels[index] == lung) > 0.97

    def test_large_consolidation_at_the_pleura_is_kept(self) -> None:
        """A lobe full of dense lung, seen by the threshold neither from inside nor from the wall."""
        lesion = Lesion("consolidation", Lung.RIGHT, (80.0, 75.0, 120.0), (45.0, 40.0, 50.0))
        phantom = make(PhantomSpec(slices=32, rows=180, columns=180, slice_spacing_mm=8.0, lesions=(lesion,)))
        dense = phantom.lesions.consolidation
        assert (phantom.hu < -400)[dense].mean() < 0.02
        labels = builtin(phantom.hu, phantom.spacing_mm)
        assert (labels == Lung.RIGHT)[dense].mean() > 0.9
        assert dice(labels == Lung.RIGHT, phantom.lungs.labels == Lung.RIGHT) > 0.96

    def test_dense_ground_glass_in_front_is_kept(self, phantom: Phantom) -> None:
        """In front nothing is filled by shape: it must be seen by its density."""
        rows = np.arange(180)[None, :, None]
        glass = (phantom.lungs.labels == Lung.RIGHT) & (rows < 85)
        glass[[*range(10), *range(20, 32)]] = False
        noise = np.random.default_rng(0).normal(-260, 30, phantom.hu.shape)
        labels = builtin(np.where(glass, noise, phantom.hu).astype(np.int16), phantom.spacing_mm)
        assert (labels == Lung.RIGHT)[glass].mean() > 0.97

    def test_lungs_that_touch_in_front_are_parted(self, phantom: Phantom) -> None:
        hu = phantom.hu.copy()
        columns = slice(85, 98)
        bridge = np.zeros(hu.shape, dtype=bool)
        bridge[18:24, 36:60, columns] = True
        bridge &= ~phantom.lungs.both
        hu[bridge] = -820
        labels = builtin(hu, phantom.spacing_mm)
        both = (labels > 0) & phantom.lungs.both
        assert (labels > 0)[bridge].mean() > 0.5
        assert (labels == phantom.lungs.labels)[both].mean() > 0.995

    def test_corner_of_a_cropped_picture_is_not_lung(self, phantom: Phantom) -> None:
        """Pictures cropped to the lungs and framed, as published slices are: room air in the crop's corners."""
        index = 14
        lung = phantom.lungs.both[index]
        rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
        hu = np.full((1, 200, 200), 40, np.int16)
        crop = phantom.hu[index, rows[0] - 3 : rows[-1] + 4, columns[0] - 3 : columns[-1] + 4].copy()
        y, x = np.indices(crop.shape)
        corner = (crop.shape[0] - y + x) < 22  # behind, where pockets of air are looked for
        crop[corner] = -900  # darker than lung, but no pure gas: pictures have no exact scale
        hu[0, 20 : 20 + crop.shape[0], 20 : 20 + crop.shape[1]] = crop
        framed = np.zeros(hu.shape, dtype=bool)
        framed[0, 20 : 20 + crop.shape[0], 20 : 20 + crop.shape[1]] = corner
        labels = builtin(hu, phantom.spacing_mm)
        assert (labels > 0).sum() > 0.9 * lung.sum()
        assert (labels > 0)[framed].mean() < 0.05

    @pytest.mark.parametrize("gas_hu", [-1000, -900], ids=["gas", "not gas alone"])
    def test_a_wide_colon_below_the_lungs_is_none(self, phantom: Phantom, found: LabelArray, gas_hu: int) -> None:
        """Two loops of more than a litre: larger than a tenth of a lung, which bowel was thought never to be."""
        rows, columns = np.indices((180, 180))
        loops = (np.abs(columns - 89.5) - 40) ** 2 + (rows - 80) ** 2 < 15**2
        abdomen = np.repeat(np.where(phantom.hu[:1] > -500, 40, phantom.hu[:1]), 50, axis=0)
        abdomen[:, loops] = gas_hu
        labels = builtin(np.concatenate([abdomen, phantom.hu]).astype(np.int16), phantom.spacing_mm)
        assert not labels[:50].any()
        assert (labels[50:] == found).mean() > 0.9999

    @pytest.mark.parametrize("value", [-1024, 40])
    def test_nothing_but_air_or_tissue(self, value: int) -> None:
        assert not builtin(np.full((5, 40, 40), value, np.int16), (5.0, 4.0, 4.0)).any()


@pytest.mark.parametrize("dense", [Lung.RIGHT, Lung.LEFT])
class TestOneLungIsOpaque:
    """Sides are told by the body then: the borders of one lung do not show where the middle of the chest is."""

    @pytest.mark.parametrize(
        "spec",
        [
            PhantomSpec(),
            PhantomSpec(slices=48, rows=128, columns=128, slice_spacing_mm=6.0),
            PhantomSpec(slices=40, rows=160, columns=160, slice_spacing_mm=7.0),
        ],
        ids=["5 mm", "6 mm", "7 mm"],
    )
    def test_the_other_keeps_its_side(self, spec: PhantomSpec, dense: Lung) -> None:
        phantom = make(spec)
        truth, healthy = phantom.lungs.labels, Lung(3 - dense)
        labels = builtin(opaque(phantom.hu, truth, dense), phantom.spacing_mm)
        assert dice(labels == healthy, truth == healthy) > 0.98
        assert (labels == healthy)[labels > 0].mean() > 0.995  # no trachea either

    def test_a_rest_of_air_keeps_its_side(self, phantom: Phantom, dense: Lung) -> None:
        """Aerated in the upper slices only: much less air than in the other lung."""
        truth = phantom.lungs.labels.copy()
        hu = np.where(np.arange(32)[:, None, None] < 25, opaque(phantom.hu, truth, dense), phantom.hu)
        truth[:25][truth[:25] == dense] = Lung.BACKGROUND
        labels = builtin(hu.astype(np.int16), phantom.spacing_mm)
        for lung in (Lung.RIGHT, Lung.LEFT):
            assert dice(labels == lung, truth == lung) > 0.97

    def test_a_lung_that_crosses_the_midline(self, phantom: Phantom, dense: Lung) -> None:
        """Herniated in front of the heart, as where the dense lung has lost volume."""
        truth = phantom.lungs.labels
        hu = opaque(phantom.hu, truth, dense)
        columns = slice(75, 105)
        hu[10:22, 50:75, columns] = -850
        labels = builtin(hu, phantom.spacing_mm)
        assert (labels == 3 - dense)[10:22, 52:73, columns].mean() > 0.99
        assert (labels == 3 - dense)[labels > 0].mean() > 0.995

    def test_off_centre_with_one_arm_at_the_side(self, phantom: Phantom, dense: Lung) -> None:
        hu = np.pad(
            opaque(phantom.hu, phantom.lungs.labels, dense), ((0, 0), (0, 0), (60, 0)), constant_values=-1000
        )
        rows, columns = np.ogrid[:180, :240]
        edge = np.flatnonzero((hu > -500).any(axis=(0, 1)))[0]
        arm = (rows - 90) ** 2 + (columns - edge + 18) ** 2 < 22**2
        hu = np.where(arm, np.maximum(hu, 40), hu).astype(np.int16)
        labels = builtin(hu, phantom.spacing_mm)[:, :, 60:]
        assert (labels == 3 - dense)[labels > 0].mean() > 0.995
        assert dice(labels > 0, phantom.lungs.labels == 3 - dense) > 0.97


class TestSegment:
    def test_method_and_labels(self, phantom: Phantom, found: LabelArray) -> None:
        mask = segment(as_volume(phantom), None, "cpu")
        assert mask.method == "built-in 3"
        assert (mask.labels == found).all()

    def test_no_lungs_is_a_reason(self, phantom: Phantom) -> None:
        volume = as_volume(phantom)
        solid = replace(volume, hu=np.maximum(volume.hu, 0).astype(np.int16))
        with pytest.raises(SeriesRejected, match="no lungs found: 0 ml"):
            segment(solid, None, "cpu")

    def test_a_rim_of_lung_base_is_not_enough(self) -> None:
        low = make(PhantomSpec(slices=12, rows=128, columns=128, covered=(0.0, 0.15)))
        assert low.lungs.both.any()
        with pytest.raises(SeriesRejected, match=r"no lungs found: \d+ ml"):
            segment(as_volume(low), None, "cpu")


def state_dict(path: Path, classes: int = 3) -> Path:
    """Random weights in the layout of R231."""
    torch.manual_seed(0)
    layout = {"padding": True, "depth": 5, "up_mode": "upsample", "batch_norm": True, "residual": False}
    torch.save(UNet(n_classes=classes, **layout).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return state_dict(tmp_path_factory.mktemp("weights") / "unet_r231.pth")


class TestLungmask:
    @pytest.fixture
    def volume(self) -> CtVolume:
        return as_volume(make(PhantomSpec(slices=3, rows=64, columns=64, slice_spacing_mm=60.0)))

    def test_runs_offline_and_says_nothing_on_stdout(
        self,
        weights: Path,
        volume: CtVolume,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def no_download(*_: object, **__: object) -> None:
            raise AssertionError("a download was tried")

        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_download)
        mask = segment(volume, weights, "cpu", least_ml=0.0)
        logging.getLogger("lungmask").warning("a message")
        assert capsys.readouterr().out == ""
        assert mask.method.startswith("lungmask R231 ")
        assert len(mask.method.split()[-1]) == 12
        assert mask.labels.shape == volume.hu.shape
        assert mask.labels.dtype == np.uint8
        assert set(np.unique(mask.labels)) <= set(Lung)

    def test_labels_are_those_of_the_network(
        self, weights: Path, volume: CtVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The canonical order is what the network wants: right lung 1, left lung 2, not turned on the way."""
        truth = np.zeros(volume.hu.shape, np.uint8)
        truth[:, 20:40, 10:25], truth[:, 20:40, 40:55], truth[0, 0, 0] = Lung.RIGHT, Lung.LEFT, 3
        seen = []
        monkeypatch.setattr(lungs.LMInferer, "apply", lambda self, image: seen.append(image) or truth.copy())
        mask = segment(volume, weights, "cpu")
        assert seen[0] is volume.hu
        assert mask.labels[0, 0, 0] == Lung.BACKGROUND
        assert (mask.labels[truth < 3] == truth[truth < 3]).all()

    def test_out_of_memory_goes_on_on_the_cpu(
        self, weights: Path, volume: CtVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = []

        def apply(inferer: lungs.LMInferer, _: CtVolume, device: torch.device) -> LabelArray:
            tried.append(device.type)
            if device.type != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return np.ones(volume.hu.shape, np.uint8)

        monkeypatch.setattr(lungs.devices, "choose", lambda name: torch.device("cuda:0"))
        monkeypatch.setattr(lungs, "_apply", apply)
        assert (segment(volume, weights, "auto").labels == 1).all()
        assert tried == ["cuda", "cpu"]

    def test_other_errors_are_not_hidden(
        self, weights: Path, volume: CtVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def apply(*_: object) -> LabelArray:
            raise RuntimeError("device-side assert")

        monkeypatch.setattr(lungs.devices, "choose", lambda name: torch.device("cuda:0"))
        monkeypatch.setattr(lungs, "_apply", apply)
        with pytest.raises(RuntimeError, match="device-side assert"):
            segment(volume, weights, "auto")

    def test_missing_weights(self, tmp_path: Path, volume: CtVolume) -> None:
        with pytest.raises(ModelError, match="not usable as lungmask R231 weights"):
            segment(volume, tmp_path / "none.pth", "cpu")

    def test_other_network(self, tmp_path: Path, volume: CtVolume) -> None:
        path = tmp_path / "other.pth"
        torch.save({"weight": torch.zeros(3, 3), "bias": torch.zeros(3)}, path)
        with pytest.raises(ModelError, match="not usable"):
            segment(volume, path, "cpu")

    def test_lobes_are_refused(self, tmp_path: Path, volume: CtVolume) -> None:
        with pytest.raises(ModelError, match="6 classes"):
            segment(volume, state_dict(tmp_path / "lobes.pth", classes=6), "cpu")

    @pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken"])
    def test_damaged_weights(self, tmp_path: Path, volume: CtVolume, content: bytes) -> None:
        path = tmp_path / "bad.pth"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="not usable"):
            segment(volume, path, "cpu")

    def test_code_in_the_file_is_not_run(self, tmp_path: Path, volume: CtVolume) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (tmp_path / "pwned",)

        torch.save({"x": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(ModelError, match="not usable"):
            segment(volume, tmp_path / "evil.pth", "cpu")
        assert not (tmp_path / "pwned").exists()


@pytest.mark.data
class TestRealData:
    def test_expert_lesions_lie_inside(self, shared_data: Path) -> None:
        """COVID-SemiSeg slices: 0.948 of infection and 0.864 of consolidation when this was written."""
        folder = shared_data / "covid" / "medseg-train"
        inside, total, unlabelled, lung = np.zeros(2), np.zeros(2), 0.0, 0.0
        for path in sorted((folder / "ct").iterdir()):
            image = sitk.ReadImage(str(path))
            hu = sitk.GetArrayFromImage(image)
            label = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "label" / path.name)))
            column, row, slice_ = image.GetSpacing()
            mask = builtin(hu, (slice_, row, column)) > 0
            for index, lesion in enumerate((label > 0, label == 2)):
                inside[index] += (mask & lesion).sum() * row * column
                total[index] += lesion.sum() * row * column
            unlabelled += (mask & (label == 0) & (hu > -50)).sum() * row * column
            lung += mask.sum() * row * column
        infection, consolidation = inside / total
        assert infection > 0.94
        assert consolidation > 0.85
        assert unlabelled / lung < 0.03  # vessels, and what was taken of heart and wall

    @pytest.mark.parametrize(
        ("name", "right_ml", "left_ml"), [("philips-a0001-s2", 3280, 2430), ("siemens-a0002-b40f", 1160, 1620)]
    )
    def test_chest_ct(self, shared_data: Path, name: str, right_ml: float, left_ml: float) -> None:
        """Volumes of masks that were looked at slice by slice; siemens has a large tumour on the right."""
        volume = load(sorted((shared_data / "ct" / name).iterdir()), PipelineSettings())
        labels = segment(volume, None, "cpu").labels
        assert (labels == Lung.RIGHT).sum() * volume.voxel_volume_ml == pytest.approx(right_ml, rel=0.05)
        assert (labels == Lung.LEFT).sum() * volume.voxel_volume_ml == pytest.approx(left_ml, rel=0.05)

    @pytest.mark.parametrize("dense", [Lung.RIGHT, Lung.LEFT])
    def test_one_lung_made_opaque(self, shared_data: Path, dense: Lung) -> None:
        files = sorted((shared_data / "ct" / "siemens-a0002-b40f").iterdir())
        volume = load(files, PipelineSettings())
        labels = builtin(volume.hu, volume.spacing_mm)
        alone = builtin(opaque(volume.hu, labels, dense), volume.spacing_mm)
        assert (alone == 3 - dense)[alone > 0].mean() > 0.995
        assert dice(alone == 3 - dense, labels == 3 - dense) > 0.99

    def test_both_kernels_give_the_same_lungs(self, shared_data: Path) -> None:
        labels = []
        for name in ("siemens-a0002-b40f", "siemens-a0002-b70f"):
            volume = load(sorted((shared_data / "ct" / name).iterdir()), PipelineSettings())
            labels.append(segment(volume, None, "cpu").labels)
        for lung in (Lung.RIGHT, Lung.LEFT):
            assert dice(labels[0] == lung, labels[1] == lung) > 0.98
