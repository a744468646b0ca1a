"""Reading a series: the same Hounsfield units on the same grid from any encoding, pose and order, or a reason."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from pipeline import pixels
from pipeline.arrays import CtVolume
from pipeline.errors import SeriesRejected
from pipeline.phantom import Phantom, PhantomSpec, as_volume, make, write_series
from pipeline.phantom_series import PATIENT_POSITIONS
from pipeline.pixels import codestream_size, to_hu
from pipeline.types import PipelineSettings
from pipeline.volume import load, source_digest

SETTINGS = PipelineSettings()


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make(PhantomSpec(slices=12, rows=60, columns=72, slice_spacing_mm=6.0, pixel_spacing_mm=(5.0, 4.5)))


def load_written(phantom: Phantom, folder: Path, **changes: object) -> CtVolume:
    return load(write_series(phantom, folder, **changes), SETTINGS)


def rejected(phantom: Phantom, folder: Path, **changes: object) -> str:
    with pytest.raises(SeriesRejected) as info:
        load_written(phantom, folder, **changes)
    return str(info.value)


POSES = {
    **{name: {"patient_position": name} for name in PATIENT_POSITIONS},
    "negative row step": {"orientation": (1, 0, 0, 0, -1, 0)},
    "negative column step": {"orientation": (-1, 0, 0, 0, 1, 0)},
    "oblique": {"oblique_deg": (12.0, -9.0, 5.0)},
    "oblique FFDL": {"patient_position": "FFDL", "oblique_deg": (-8.0, 6.0, 10.0)},
}


class TestPose:
    @pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
    @pytest.mark.parametrize("pose", POSES.values(), ids=POSES.keys())
    def test_canonical_grid_and_way_back(
        self, phantom: Phantom, tmp_path: Path, pose: dict[str, object], order: str
    ) -> None:
        volume = load_written(phantom, tmp_path, order=order, **pose)
        expected = as_volume(phantom, **pose)
        assert (volume.hu == phantom.hu).all()
        assert volume.hu.flags.c_contiguous
        assert volume.affine == pytest.approx(expected.affine, abs=1e-4)
        assert volume.spacing_mm == pytest.approx(phantom.spacing_mm)
        source = volume.to_source(volume.hu)
        by_uid = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, tmp_path.iterdir())}
        for header, plane in zip(volume.headers, source, strict=True):
            assert (by_uid[header.SOPInstanceUID].pixel_array.astype(int) - 1024 == plane).all()

    def test_order_of_the_files_does_not_matter(self, phantom: Phantom, tmp_path: Path) -> None:
        paths = write_series(phantom, tmp_path)
        one, other = load(paths, SETTINGS), load(paths[::-1], SETTINGS)
        assert [ds.SOPInstanceUID for ds in one.headers] == [ds.SOPInstanceUID for ds in other.headers]
        assert (one.hu == other.hu).all()
        assert source_digest(paths) == source_digest(paths[::-1])
        assert source_digest(paths) != source_digest(paths[1:])


class TestEncoding:
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
    @pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
    def test_transfer_syntax(self, phantom: Phantom, tmp_path: Path, syntax: str, signed: bool) -> None:
        rescale = ((1.0, 0.0),) if signed else ((1.0, -1024.0),)  # signed: negative values are stored
        volume = load_written(phantom, tmp_path, transfer_syntax=syntax, signed=signed, rescale=rescale)
        assert (volume.hu == phantom.hu).all()

    def test_rescale_of_each_slice(self, phantom: Phantom, tmp_path: Path) -> None:
        volume = load_written(phantom, tmp_path, rescale=((1, -1024), (0.25, -1024), (1, -2000)))
        assert (volume.hu == phantom.hu).all()

    @pytest.mark.parametrize(("signed", "padding"), [(True, -2000), (True, 3000), (False, 63536), (False, 0)])
    def test_padding_becomes_air(self, phantom: Phantom, tmp_path: Path, signed: bool, padding: int) -> None:
        volume = load_written(phantom, tmp_path, signed=signed, padding=padding)
        assert (volume.hu[:, 0, 0] == -1024).all()
        assert (volume.hu[:, 20:40, 20:50] == phantom.hu[:, 20:40, 20:50]).all()

    def test_headers_carry_no_pixels(self, phantom: Phantom, tmp_path: Path) -> None:
        volume = load_written(phantom, tmp_path, transfer_syntax=RLELossless)
        assert not any(element.tag.group >= 0x7FE0 for ds in volume.headers for element in ds)
        assert volume.headers[3].file_meta.TransferSyntaxUID == RLELossless


def header(**attributes: object) -> Dataset:
    ds = Dataset()
    ds.RescaleSlope, ds.RescaleIntercept, ds.BitsStored = 1, 0, 16
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


class TestToHu:
    @given(
        st.lists(st.integers(-32768, 32767), min_size=1, max_size=20),
        st.sampled_from([0.25, 0.5, 1.0, 2.0]),
        st.integers(-2048, 0),
    )
    def test_is_the_rescale_equation_cut_off_at_air(self, values: list[int], slope: float, intercept: int) -> None:
        stored = np.array([values], np.int16)
        expected = np.rint(np.array([values]) * slope + intercept)
        if expected.max() > 32767:
            with pytest.raises(SeriesRejected, match="16 bits"):
                to_hu(stored, header(RescaleSlope=slope, RescaleIntercept=intercept))
        else:
            hu = to_hu(stored, header(RescaleSlope=slope, RescaleIntercept=intercept))
            assert hu.dtype == np.int16
            assert (hu == np.maximum(expected, -1024)).all()

    @pytest.mark.parametrize(("value", "limit"), [(-2000, -1500), (-1500, -2000)])
    def test_padding_range_in_either_direction(self, value: int, limit: int) -> None:
        stored = np.array([[-2001, -2000, -1700, -1500, -1499, 7]], np.int16)
        attributes = {"PixelPaddingValue": value, "PixelPaddingRangeLimit": limit, "RescaleIntercept": 2100}
        hu = to_hu(stored, header(PixelRepresentation=1, **attributes))
        assert hu.tolist() == [[99, -1024, -1024, -1024, 601, 2107]]

    def test_signed_padding_that_was_written_as_unsigned(self) -> None:
        hu = to_hu(np.array([[-2000, 40]], np.int16), header(PixelPaddingValue=63536, RescaleIntercept=1900))
        assert hu.tolist() == [[-1024, 1940]]

    def test_overlay_bits_above_the_stored_ones_are_ignored(self) -> None:
        unsigned = np.array([[0x1064, 0x0064]], np.uint16)
        assert to_hu(unsigned, header(BitsStored=12)).tolist() == [[100, 100]]
        signed = np.array([[0x0F9C]], np.int16)  # −100 in 12 bits, the sign not extended
        assert to_hu(signed, header(BitsStored=12)).tolist() == [[-100]]

    def test_padding_beyond_the_stored_bits(self) -> None:
        hu = to_hu(np.array([[63536, 1064]], np.uint16), header(BitsStored=12, PixelPaddingValue=63536))
        assert hu.tolist() == [[-1024, 1064]]


def change(keyword: str, value: object, only: int | None = None) -> Callable[[int, Dataset], None]:
    def edit(index: int, ds: Dataset) -> None:
        if only is None or index == only:
            setattr(ds, keyword, value)

    return edit


def cut_pixels(index: int, ds: Dataset) -> None:
    if index == 5:
        ds.PixelData = ds.PixelData[:-1000]


def drop_pixels(index: int, ds: Dataset) -> None:
    if index == 5:
        del ds.PixelData


BAD_HEADERS = {
    "MR by class": ({"SOPClassUID": MRImageStorage}, "not CT Image Storage but MR Image Storage (12 of 12"),
    "enhanced CT": ({"SOPClassUID": EnhancedCTImageStorage}, "not CT Image Storage but Enhanced CT"),
    "PET": ({"Modality": "PT"}, "Modality is PT, not CT"),
    "no modality": ({"Modality": None}, "Modality is missing"),
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "LOCALIZER"),
    "secondary": ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "SECONDARY"),
    "MPR": ({"ImageType": ["DERIVED", "PRIMARY", "CT_SOM5 MPR"]}, "MPR"),
    "MIP": ({"ImageType": ["DERIVED", "PRIMARY", "MIP"]}, "MIP"),
    "no instance UID": ({"SOPInstanceUID": ""}, "missing or without a usable value: SOPInstanceUID"),
    "no position": ({"ImagePositionPatient": None}, "ImagePositionPatient"),
    "half an orientation": ({"ImageOrientationPatient": [1, 0, 0]}, "ImageOrientationPatient"),
    "zero orientation": (
        {"ImageOrientationPatient": [0] * 6},
        "12 slice(s) have no usable position or orientation",
    ),
    "empty spacing": ({"PixelSpacing": None}, "PixelSpacing"),
    "no rescale": ({"RescaleSlope": None, "RescaleIntercept": None}, "RescaleSlope, RescaleIntercept"),
    "zero slope": ({"RescaleSlope": "0"}, "RescaleSlope is 0"),
    "overflow": ({"RescaleSlope": "40"}, "do not fit into 16 bits"),
    "other unit": ({"RescaleType": "MGML"}, "values are MGML"),
    "huge": ({"Rows": 60000, "Columns": 60000}, "the limit is 2048 x 2048"),
    "frames": ({"NumberOfFrames": "4000"}, "4000 frames"),
    "colour": ({"SamplesPerPixel": 3}, "colour"),
    "8 bits": ({"BitsAllocated": 8, "BitsStored": 8}, "8 bits stored in 8"),
    "left justified": ({"BitsStored": 12, "HighBit": 15}, "HighBit is 15 where 12 bits are stored"),
    "head": ({"BodyPartExamined": "HEAD"}, "BodyPartExamined is HEAD"),
    "abdomen": ({"BodyPartExamined": "Abdomen"}, "BodyPartExamined is Abdomen"),
    "coronal": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not axial"),
}

BROKEN = {
    "no pixel data": ({"edit": drop_pixels}, "0006.dcm (InstanceNumber 6): the pixel data cannot be decoded"),
    "short pixel data": ({"edit": cut_pixels}, "0006.dcm (InstanceNumber 6): the pixel data cannot be decoded"),
    "gap": ({"drop": frozenset({4, 5})}, "2 slices are missing, at 24.00, 30.00 mm"),
    "duplicate": ({"double": frozenset({3})}, "1 slice(s) lie where another one lies, at 18.00 mm"),
    "few": ({"drop": frozenset(range(2, 12))}, "2 slices, at least 10 are needed"),
    "one localizer": (
        {"edit": change("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], only=0)},
        "(1 of 12 instances)",
    ),
    "mixed spacing": ({"edit": change("PixelSpacing", [5.0, 4.4], only=7)}, "PixelSpacing differs"),
    "mixed orientation": (
        {"edit": change("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], only=0)},
        "1 of 12 slices have another orientation",
    ),
    "two series": (
        {"edit": change("SeriesInstanceUID", "1.2.3", only=2)},
        "2 different values of SeriesInstanceUID",
    ),
    "two patients": ({"edit": change("PatientID", "ANOTHER", only=9)}, "2 different values of PatientID"),
    "two names": ({"edit": change("PatientName", "Another^One", only=0)}, "2 different values of PatientName"),
    "same instance twice": ({"edit": change("SOPInstanceUID", "1.2.3")}, "11 SOP instances occur more than once"),
}


class TestRejection:
    @pytest.mark.parametrize(("attributes", "reason"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
    def test_header(self, phantom: Phantom, tmp_path: Path, attributes: dict[str, object], reason: str) -> None:
        def edit(_: int, ds: Dataset) -> None:
            ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"  # stays valid where the data set's is taken away

        assert reason in rejected(phantom, tmp_path, attributes=attributes, edit=edit)

    @pytest.mark.parametrize(("changes", "reason"), BROKEN.values(), ids=BROKEN.keys())
    def test_series(self, phantom: Phantom, tmp_path: Path, changes: dict[str, object], reason: str) -> None:
        assert reason in rejected(phantom, tmp_path, **changes)

    def test_no_files(self) -> None:
        with pytest.raises(SeriesRejected, match="no files"):
            load([], SETTINGS)

    def test_derived_alone_is_taken(self, phantom: Phantom, tmp_path: Path) -> None:
        volume = load_written(phantom, tmp_path, attributes={"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]})
        assert (volume.hu == phantom.hu).all()

    @pytest.mark.parametrize("part", [None, "", "CHEST", "CHEST_ABDOMEN", "PARTIALBODY", "ABDOMEN THORAX", "X17"])
    def test_tags_that_may_hold_lungs_are_left_to_the_lungs(
        self, phantom: Phantom, tmp_path: Path, part: str | None
    ) -> None:
        volume = load_written(phantom, tmp_path, attributes={"BodyPartExamined": part})
        assert len(volume.headers) == 12

    def test_limit_of_the_spacing_is_a_setting(self, tmp_path: Path) -> None:
        phantom = make(PhantomSpec(slices=10, rows=32, columns=32, slice_spacing_mm=12.0))
        paths = write_series(phantom, tmp_path)
        with pytest.raises(SeriesRejected, match="12.00 mm apart, the limit is 10 mm"):
            load(paths, SETTINGS)
        assert load(paths, PipelineSettings(max_slice_spacing_mm=15.0)).spacing_mm[0] == pytest.approx(12.0)


class TestDamagedFiles:
    @pytest.fixture
    def paths(self, phantom: Phantom, tmp_path: Path) -> list[Path]:
        return write_series(phantom, tmp_path)

    def reason(self, paths: list[Path]) -> str:
        with pytest.raises(SeriesRejected) as info:
            load(paths, SETTINGS)
        return str(info.value)

    def test_not_dicom(self, paths: list[Path]) -> None:
        paths[3].write_text("patient list")
        assert "0004.dcm is not a DICOM file" in self.reason(paths)

    def test_empty_file(self, paths: list[Path]) -> None:
        paths[3].write_bytes(b"")
        assert "0004.dcm is not a DICOM file" in self.reason(paths)

    def test_missing_file(self, paths: list[Path]) -> None:
        paths[3].unlink()
        assert "0004.dcm is not a DICOM file" in self.reason(paths)

    @given(share=st.floats(0.0, 0.999))
    @settings(max_examples=25)
    def test_cut_off_anywhere(self, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
        folder = tmp_path_factory.mktemp("cut")
        phantom = make(PhantomSpec(slices=10, rows=16, columns=16, lesions=()))
        paths = write_series(phantom, folder)
        content = paths[3].read_bytes()
        paths[3].write_bytes(content[: int(share * len(content))])
        with pytest.raises(SeriesRejected):
            load(paths, SETTINGS)

    @pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
    def test_compressed_and_cut_off(self, phantom: Phantom, tmp_path: Path, syntax: str) -> None:
        paths = write_series(phantom, tmp_path, transfer_syntax=syntax)
        content = paths[3].read_bytes()
        paths[3].write_bytes(content[:-1500])
        assert self.reason(paths)

    @pytest.mark.parametrize("said", [JPEG2000Lossless, RLELossless, JPEGLSLossless])
    def test_native_pixels_that_are_said_to_be_compressed(self, paths: list[Path], said: str) -> None:
        content = paths[3].read_bytes()
        ds = pydicom.dcmread(paths[3])
        old = ds.file_meta.TransferSyntaxUID.encode()
        new = said.encode() + b"\0" * (len(said) % 2)
        meta = content.index(old) - 8
        length = int.from_bytes(content[140:144], "little") + len(new) - len(old) - len(old) % 2
        head = content[:140] + length.to_bytes(4, "little") + content[144 : meta + 6]
        rest = content[meta + 8 + len(old) + len(old) % 2 :]
        paths[3].write_bytes(head + len(new).to_bytes(2, "little") + new + rest)
        assert pydicom.dcmread(paths[3], stop_before_pixels=True).file_meta.TransferSyntaxUID == said
        assert "0004.dcm (InstanceNumber 4): the pixel data cannot be decoded" in self.reason(paths)

    def test_syntax_without_a_decoder(self, phantom: Phantom, tmp_path: Path) -> None:
        mpeg = "1.2.840.10008.1.2.4.100"
        paths = write_series(phantom, tmp_path, transfer_syntax=RLELossless)
        for path in paths:
            ds = pydicom.dcmread(path)
            ds.file_meta.TransferSyntaxUID = mpeg
            ds.save_as(path, enforce_file_format=True)
        assert "MPEG2 Main Profile / Main Level is not supported" in self.reason(paths)


class TestBombs:
    @pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
    def test_codestream_of_another_size_is_not_decoded(self, phantom: Phantom, tmp_path: Path, syntax: str) -> None:
        paths = write_series(phantom, tmp_path, transfer_syntax=syntax)
        size = (60).to_bytes(2, "big") + (72).to_bytes(2, "big")
        if syntax == JPEG2000Lossless:
            size = (72).to_bytes(4, "big") + (60).to_bytes(4, "big")
        content = paths[3].read_bytes()
        assert content.count(size) >= 1
        paths[3].write_bytes(content.replace(size, b"\x00\x00\x7f\xff" * (len(size) // 4), 1))
        with pytest.raises(SeriesRejected, match="the codestream is .* the data set 60 x 72"):
            load(paths, SETTINGS)

    def test_deflated_bomb_is_not_inflated(
        self, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = write_series(phantom, tmp_path, transfer_syntax=DeflatedExplicitVRLittleEndian)
        assert max(path.stat().st_size for path in paths) < 8000
        monkeypatch.setattr(pixels, "MAX_FILE_BYTES", 8000)
        with pytest.raises(SeriesRejected, match="inflates to more than"):
            load(paths, SETTINGS)

    def test_large_file_is_not_read(
        self, phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = write_series(phantom, tmp_path)
        monkeypatch.setattr(pixels, "MAX_FILE_BYTES", 8000)
        with pytest.raises(SeriesRejected, match="larger than"):
            load(paths, SETTINGS)

    @given(st.binary(max_size=40), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\xff\x4f\xff\x51"]))
    def test_odd_codestreams_have_no_size_or_raise_what_is_caught(self, tail: bytes, start: bytes) -> None:
        try:
            size = codestream_size(start + tail)
        except pixels.DAMAGED:
            return
        assert size is None or len(size) == 2


@pytest.mark.data
class TestRealSeries:
    @pytest.mark.parametrize(
        ("name", "shape", "spacing"),
        [
            ("philips-a0001-s2", (64, 512, 512), (5.0, 0.841796875, 0.841796875)),
            ("siemens-a0002-b40f", (30, 512, 512), (8.0, 0.646484375, 0.646484375)),
            ("siemens-a0002-b70f", (30, 512, 512), (8.0, 0.646484375, 0.646484375)),
        ],
    )
    def test_chest(
        self, shared_data: Path, name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]
    ) -> None:
        volume = load(sorted((shared_data / "ct" / name).iterdir()), SETTINGS)
        assert volume.hu.shape == shape
        assert volume.spacing_mm == pytest.approx(spacing)
        assert volume.hu.min() == -1024
        lower = itertools.pairwise(float(ds.ImagePositionPatient[2]) for ds in volume.headers)
        assert all(one < other for one, other in lower)

    def test_jpeg_2000_after_its_header_is_mended(self, shared_data: Path, tmp_path: Path) -> None:
        source = sorted((shared_data / "odd" / "j2k-abdomen").iterdir())
        with pytest.raises(SeriesRejected, match="SOPClassUID is missing or empty"):
            load(source, SETTINGS)
        mended = []
        for path in source:
            ds = pydicom.dcmread(path)
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.1", "1.2.2", "1.2.3"
            mended.append(tmp_path / path.name)
            ds.save_as(mended[-1])
        volume = load(mended, SETTINGS)
        assert volume.hu.shape == (20, 512, 512)
        assert -20 < np.median(volume.hu[(volume.hu > -200) & (volume.hu < 300)]) < 120

    def test_odd_slices(self, shared_data: Path) -> None:
        with pytest.raises(SeriesRejected, match="Modality is missing"):
            load(sorted((shared_data / "odd" / "untagged-pair").iterdir()), SETTINGS)
        with pytest.raises(SeriesRejected, match="REFORMATTED, SECONDARY"):
            load(sorted((shared_data / "odd" / "nysbu").glob("*coronal*")), SETTINGS)

    def test_derived_covid_volume(self, shared: Path, tmp_path: Path) -> None:
        nifti = shared / "data" / "covid" / "volumes" / "ct" / "radiopaedia-10_85902_1.nii.gz"
        tool = shared / "tools" / "nifti_to_ct_series.py"
        subprocess.run([sys.executable, tool, nifti, tmp_path, "--rows", "128"], check=True, capture_output=True)
        volume = load(sorted(tmp_path.iterdir()), PipelineSettings(max_slice_spacing_mm=25.0))
        assert volume.hu.shape[1:] == (128, 128)
        assert volume.hu.min() == -1024
