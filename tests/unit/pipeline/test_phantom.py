"""The phantom has what it says, where it says it, and its files say so to another reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.phantom import (
    Effusion,
    Lesion,
    Phantom,
    PhantomSpec,
    Structure,
    as_volume,
    lesions_in,
    make,
    write_series,
)
from pipeline.phantom_series import PATIENT_POSITIONS
from pipeline.types import Lung

SMALL = PhantomSpec(slices=12, rows=72, columns=96, slice_spacing_mm=8.0, pixel_spacing_mm=(4.0, 3.75))


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make(SMALL, seed=1)


def middle_mm(phantom: Phantom, mask: np.ndarray) -> np.ndarray:
    """LPS mm of the centre of a mask."""
    slice_, row, column = np.argwhere(mask).mean(axis=0)
    return (phantom.affine @ [column, row, slice_, 1.0])[:3]


class TestAnatomy:
    def test_right_lung_lies_on_the_right_and_heart_makes_the_left_one_smaller(self, phantom: Phantom) -> None:
        right, left = phantom.lungs.labels == Lung.RIGHT, phantom.lungs.labels == Lung.LEFT
        assert middle_mm(phantom, right)[0] < -30 < 30 < middle_mm(phantom, left)[0]
        assert right.sum() > 1.1 * left.sum()

    def test_lungs_are_air_with_the_usual_density(self, phantom: Phantom) -> None:
        healthy = phantom.lungs.both & ~phantom.lesions.infection
        assert -870 < np.median(phantom.hu[healthy]) < -790

    def test_lesions_have_their_density_and_lie_in_the_lungs(self, phantom: Phantom) -> None:
        assert -650 < np.median(phantom.hu[phantom.lesions.ggo]) < -500
        assert -30 < np.median(phantom.hu[phantom.lesions.consolidation]) < 30
        assert not (phantom.lesions.infection & ~phantom.lungs.both).any()

    def test_size_of_a_free_lesion_is_that_of_its_ellipsoid(self) -> None:
        (lesion,) = [item for item in lesions_in(Lung.LEFT) if item.kind == "ggo"]
        phantom = make(PhantomSpec(slices=60, rows=180, columns=180, lesions=(lesion,)))
        inside = 4 / 3 * np.pi * np.prod(lesion.radii_mm) / 1000
        drawn = phantom.lesions.infection.sum() * phantom.voxel_volume_ml
        assert 0.8 * inside < drawn <= 1.01 * inside  # the pleura cuts a little off

    @pytest.mark.parametrize("lung", [Lung.RIGHT, Lung.LEFT])
    def test_lesions_of_one_lung_only(self, lung: Lung) -> None:
        phantom = make(PhantomSpec(slices=12, rows=64, columns=64, lesions=lesions_in(lung)))
        assert set(np.unique(phantom.lungs.labels[phantom.lesions.infection])) == {lung}

    def test_healthy(self) -> None:
        assert not make(PhantomSpec(slices=4, rows=64, columns=64, lesions=())).lesions.infection.any()

    def test_seed_moves_noise_but_not_truth(self, phantom: Phantom) -> None:
        other, again = make(SMALL, seed=2), make(SMALL, seed=1)
        assert (again.hu == phantom.hu).all()
        assert (other.hu != phantom.hu).any()
        assert (other.lungs.labels == phantom.lungs.labels).all()


ORIENTATIONS = {
    **{name: {"patient_position": name} for name in PATIENT_POSITIONS},
    "negative row step": {"orientation": (1, 0, 0, 0, -1, 0)},
    "negative column step": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "oblique": {"oblique_deg": (7.0, -4.0, 3.0)},
    "decubitus and oblique": {"patient_position": "HFDR", "oblique_deg": (5.0, 4.0, -6.0)},
}


class TestFiles:
    @pytest.mark.parametrize("changes", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
    def test_another_reader_finds_the_lesion_in_the_same_place(
        self, phantom: Phantom, tmp_path: Path, changes: dict[str, object]
    ) -> None:
        """SimpleITK (GDCM) reads the files; truth and picture meet in patient coordinates."""
        paths = write_series(phantom, tmp_path, **changes)
        volume = as_volume(phantom, **changes)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(path) for path in paths])
        image = reader.Execute()
        for mask in (phantom.lesions.consolidation, phantom.lungs.labels == Lung.LEFT):
            chosen = np.argwhere(mask)[:: max(1, int(mask.sum()) // 50)]
            for slice_, row, column in chosen:
                point = (volume.affine @ [column, row, slice_, 1.0])[:3]
                index = image.TransformPhysicalPointToIndex([float(value) for value in point])
                assert image[index] == phantom.hu[slice_, row, column]

    @pytest.mark.parametrize("changes", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
    def test_as_volume_carries_masks_to_the_order_of_the_files(
        self, phantom: Phantom, tmp_path: Path, changes: dict[str, object]
    ) -> None:
        write_series(phantom, tmp_path, order="shuffled", **changes)
        by_uid = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, tmp_path.iterdir())}
        volume = as_volume(phantom, order="shuffled", **changes)
        source = volume.to_source(phantom.hu)
        for header, plane in zip(volume.headers, source, strict=True):
            assert (by_uid[header.SOPInstanceUID].pixel_array.astype(int) - 1024 == plane).all()

    @pytest.mark.parametrize(
        "syntax",
        [
            ExplicitVRLittleEndian,
            ImplicitVRLittleEndian,
            DeflatedExplicitVRLittleEndian,
            RLELossless,
            JPEG2000Lossless,
            JPEGLSLossless,
            JPEGLosslessSV1,
        ],
        ids=lambda syntax: syntax.name,
    )
    def test_transfer_syntax_keeps_every_value(self, phantom: Phantom, tmp_path: Path, syntax: str) -> None:
        paths = write_series(phantom, tmp_path, transfer_syntax=syntax, signed=True)
        ds = pydicom.dcmread(paths[5])
        assert ds.file_meta.TransferSyntaxUID == syntax
        assert (ds.pixel_array.astype(int) - 1024 == phantom.hu[5]).all()

    def test_rescale_and_padding_per_slice(self, phantom: Phantom, tmp_path: Path) -> None:
        changes = {"rescale": ((1, -1024), (0.5, -2000)), "padding": 63000}
        first, second = (pydicom.dcmread(path) for path in write_series(phantom, tmp_path, **changes)[5:7])
        assert (first.RescaleIntercept, second.RescaleIntercept) == (-2000, -1024)
        assert first.pixel_array[0, 0] == first.PixelPaddingValue == 63000
        assert first.pixel_array[36, 48] * 0.5 - 2000 == phantom.hu[5, 36, 48]

    def test_uids_follow_from_the_seed(self, phantom: Phantom, tmp_path: Path) -> None:
        def uids(folder: str, **changes: object) -> list[tuple[str, str, str]]:
            read = [pydicom.dcmread(path) for path in write_series(phantom, tmp_path / folder, **changes)]
            return [(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID) for ds in read]

        first, again = uids("a", uid_seed="x"), uids("b", uid_seed="x")
        sharp = uids("c", uid_seed="y", study_seed="x")
        assert first == again
        assert len({uid for _, _, uid in first}) == 12
        assert {uid[0] for uid in first} == {uid[0] for uid in sharp}
        assert not {uid[1:] for uid in first} & {uid[1:] for uid in sharp}

    def test_breaking_a_series(self, phantom: Phantom, tmp_path: Path) -> None:
        paths = write_series(
            phantom,
            tmp_path,
            drop=frozenset({4}),
            double=frozenset({6}),
            attributes={"Modality": "MR", "KVP": None},
            edit=lambda index, ds: setattr(ds, "Rows", 5) if index == 7 else None,
        )
        read = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        heights = [float(ds.ImagePositionPatient[2]) for ds in read]
        assert heights == [0, 8, 16, 24, 40, 48, 48, 56, 64, 72, 80, 88]
        assert read[5].SOPInstanceUID != read[6].SOPInstanceUID
        assert {ds.Modality for ds in read} == {"MR"}
        assert not any("KVP" in ds for ds in read)
        assert [ds.Rows for ds in read].count(5) == 1
        assert [ds.InstanceNumber for ds in read] == list(range(1, 13))


ILL = PhantomSpec(
    slices=48,
    rows=180,
    columns=180,
    slice_spacing_mm=6.0,
    lesions=(
        Lesion("crazy_paving", Lung.RIGHT, (85.0, 20.0, 200.0), (30.0, 34.0, 34.0)),
        Lesion("consolidation", Lung.LEFT, (70.0, 40.0, 120.0), (40.0, 36.0, 40.0)),
    ),
    effusions=(Effusion(Lung.RIGHT, depth_mm=45.0, top_mm=150.0),),
)
DENSITY = {  # HU between which the middle of each structure lies
    (Structure.TRACHEA, Structure.STOMACH_GAS): (-1024, -900),
    (Structure.ARTERIES, Structure.VEINS): (-450, 60),
    (Structure.SUBCUTANEOUS_FAT, Structure.MEDIASTINAL_FAT, Structure.BREAST): (-120, -20),
    (Structure.HEART, Structure.AORTA, Structure.PULMONARY_ARTERY, Structure.VENAE_CAVAE): (20, 60),
    (Structure.LIVER, Structure.SPLEEN, Structure.STOMACH, Structure.MUSCLE): (30, 70),
    (Structure.RIBS, Structure.STERNUM, Structure.CLAVICLES, Structure.SCAPULAE, Structure.VERTEBRAE): (100, 500),
    (Structure.EFFUSION,): (0, 16),
}


@pytest.fixture(scope="module")
def ill() -> Phantom:
    return make(ILL, seed=3)


class TestStructures:
    def test_every_structure_is_there_with_its_density(self, ill: Phantom) -> None:
        assert set(np.unique(ill.structures)) == {int(kind) for kind in Structure}
        for kinds, (low, high) in DENSITY.items():
            for kind in kinds:
                assert low < np.median(ill.hu[ill.structure(kind)]) < high, kind.name

    def test_each_lies_on_its_side(self, ill: Phantom) -> None:
        assert middle_mm(ill, ill.structure(Structure.LIVER))[0] < -20
        for kind in (Structure.HEART, Structure.STOMACH, Structure.SPLEEN, Structure.AORTA):
            assert middle_mm(ill, ill.structure(kind))[0] > 5, kind.name
        assert middle_mm(ill, ill.structure(Structure.STERNUM))[1] < -60
        assert middle_mm(ill, ill.structure(Structure.VERTEBRAE))[1] > 60

    def test_lungs_are_lobes_with_what_runs_in_them(self, ill: Phantom) -> None:
        within = [kind for kind in Structure if kind >= Structure.RIGHT_UPPER_LOBE]
        assert (ill.structure(*within) == ill.lungs.both).all()
        right = ill.lungs.labels == Lung.RIGHT
        assert ill.structure(Structure.RIGHT_MIDDLE_LOBE)[right].any()
        assert not ill.structure(Structure.LEFT_UPPER_LOBE, Structure.LEFT_LOWER_LOBE)[right].any()

    def test_effusion_is_neither_lung_nor_opacity(self, ill: Phantom) -> None:
        fluid = ill.structure(Structure.EFFUSION)
        assert fluid.sum() * ill.voxel_volume_ml > 50
        assert not (fluid & (ill.lungs.both | ill.lesions.infection)).any()
        assert middle_mm(ill, fluid)[1] > 40  # it lies behind

    def test_crazy_paving_is_ground_glass_with_lines(self, ill: Phantom) -> None:
        paved = ill.crazy_paving
        assert paved.any()
        assert (ill.lesions.ggo[paved]).all()
        plain = make(replace(ILL, lesions=(replace(ILL.lesions[0], kind="ggo"),)), seed=3)
        assert np.percentile(ill.hu[paved], 85) > np.percentile(plain.hu[paved], 85) + 80

    def test_bronchi_stay_open_in_consolidation(self, ill: Phantom) -> None:
        """An air bronchogram; it counts as consolidation, as it is drawn by hand."""
        inside = ill.lesions.consolidation & ill.structure(Structure.BRONCHI)
        assert inside.sum() > 10
        assert ill.hu[inside].min() < -700

    def test_a_sharp_kernel_has_its_noise_and_its_name(self, ill: Phantom, tmp_path: Path) -> None:
        small = replace(SMALL, lesions=())
        soft, sharp = make(small), make(replace(small, kernel="sharp"))
        liver = soft.structure(Structure.LIVER)
        assert sharp.hu[liver].std() > 2 * soft.hu[liver].std()
        assert pydicom.dcmread(write_series(sharp, tmp_path)[0]).ConvolutionKernel == "B70f"
        assert (sharp.structures == soft.structures).all()
