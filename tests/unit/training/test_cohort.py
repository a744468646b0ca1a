"""Cohorts: what is read, what is refused, and folds that keep patients together."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import phantom
from training import cohort, dataset, images
from training.cohort import Case
from training.errors import CohortError


def write_image(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 5.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def make_cohort(folder: Path, rows: str) -> Path:
    for name in ("a", "b"):
        write_image(folder / "ct" / f"{name}.nii.gz", np.zeros((1, 16, 16), np.int16))
    (folder / "cases.csv").write_text(rows)
    return folder


def test_cases_are_read_with_unknowns(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, "case,patient,ggo,consolidation\nb,p1,1,\na,,0,1\n")
    write_image(folder / "label" / "a.nii.gz", np.zeros((1, 16, 16), np.uint8))
    first, second = cohort.read(folder)
    assert (first.name, first.patient, first.ggo, first.consolidation) == ("a", "a", False, True)
    assert (second.name, second.patient, second.ggo, second.consolidation) == ("b", "p1", True, None)
    assert first.label is not None
    assert second.label is None


def test_a_folder_without_a_table_is_a_cohort(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, "case\na\n")
    (folder / "cases.csv").unlink()
    assert [case.patient for case in cohort.read(folder)] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("case\na\na\n", ["listed twice"]),
        ("case,ggo\na,yes\nmissing,0\n", ["ggo is 'yes'", "missing: no "]),
        ("case\n../a\n", ["no usable case name"]),
        ("name\na\n", ["no column 'case'"]),
        ("case\n", ["no cases"]),
        ("case,split\na,somewhere\n", ["split is 'somewhere'"]),
        ("case,patient,split\na,p,train\nb,p,test\n", ["patient 'p' is in 2 splits (test, train)"]),
        ("case,patient,split\na,p,train\nb,p,\n", ["patient 'p' is in 2 splits (none, train)"]),
    ],
)
def test_every_complaint_is_told(tmp_path: Path, rows: str, words: list[str]) -> None:
    with pytest.raises(CohortError) as told:
        cohort.read(make_cohort(tmp_path, rows))
    assert all(word in str(told.value) for word in words)


@pytest.mark.parametrize("name", ["label/a.nii", "label/a.nrrd", "label/a.seg.nrrd", "lung/a.mha"])
def test_a_mask_in_another_format_is_not_passed_over(tmp_path: Path, name: str) -> None:
    folder = make_cohort(tmp_path, "case\na\n")
    (folder / name).parent.mkdir()
    (folder / name).write_bytes(b"")
    with pytest.raises(CohortError, match=rf"a: {name} is not read: save it as a\.nii\.gz"):
        cohort.read(folder)


@given(
    patients=st.lists(st.integers(0, 30), min_size=20, max_size=60).filter(lambda p: len(set(p)) >= 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_a_patient_lies_in_one_fold_and_every_fold_is_used(patients: list[int], seed: int) -> None:
    cases = [Case(f"c{k}", f"p{p}", Path("x"), consolidation=p % 3 != 0) for k, p in enumerate(patients)]
    found = cohort.folds(cases, 5, seed)
    of = {
        case.patient: {f for c, f in zip(cases, found, strict=True) if c.patient == case.patient} for case in cases
    }
    assert all(len(numbers) == 1 for numbers in of.values())
    assert set(found) == set(range(5))
    assert found == cohort.folds(list(cases), 5, seed)


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(CohortError, match="3 folds of 2 patients"):
        cohort.folds([Case("a", "a", Path("x")), Case("b", "b", Path("x"))], 3, 0)


def chest(shape: tuple[int, int, int]) -> np.ndarray:
    """Soft tissue and, in every other row, lung."""
    hu = np.full(shape, 40, np.int16)
    hu[:, ::2] = -850
    return hu


def one_case(folder: Path, label: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 5.0)) -> Case:
    write_image(folder / "ct" / "a.nii.gz", chest((2, 16, 16)))
    write_image(folder / "label" / "a.nii.gz", label, spacing)
    return Case("a", "a", folder / "ct" / "a.nii.gz", folder / "label" / "a.nii.gz")


@pytest.mark.parametrize(
    ("shape", "value", "spacing", "words"),
    [
        ((2, 16, 15), 1, (1, 1, 5), "a: the label has another grid than the image"),
        ((2, 16, 16), 3, (1, 1, 5), "a: the label holds 3, not 0, 1 and 2 only"),
        ((2, 16, 16), 1, (2, 1, 5), "a: the label lies elsewhere than the image"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(
    tmp_path: Path, shape: tuple[int, int, int], value: int, spacing: tuple[float, float, float], words: str
) -> None:
    case = one_case(tmp_path, np.full(shape, value, np.uint8), spacing)
    with pytest.raises(CohortError, match=words):
        dataset.load(case, None)


def test_images_are_turned_to_the_canonical_order(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    array[0, 0] -= 900
    image = sitk.GetImageFromArray(array)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    (tmp_path / "ct").mkdir()
    sitk.WriteImage(image, str(tmp_path / "ct" / "a.nii.gz"))
    source = dataset.load(Case("a", "a", tmp_path / "ct" / "a.nii.gz"), None)
    np.testing.assert_array_equal(source.hu, array[:, ::-1, ::-1])


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    # NRRD, because the NIfTI reader turns such values to 0 itself
    array = np.zeros((1, 4, 4), np.float32)
    array[0, 1, 1] = np.nan
    write_image(tmp_path / "ct" / "a.nrrd", array)
    with pytest.raises(CohortError, match="not numbers"):
        dataset.load(Case("a", "a", tmp_path / "ct" / "a.nrrd"), None)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, "case\na\n")
    (folder / "cases.csv").write_bytes(b"case\n\xff\n")
    with pytest.raises(CohortError, match="CSV in UTF-8"):
        cohort.read(folder)


def test_a_folder_of_instances_is_an_image(tmp_path: Path) -> None:
    drawn = phantom.make(phantom.PhantomSpec(slices=12, rows=64, columns=64, slice_spacing_mm=9.0))
    phantom.write_series(drawn, tmp_path / "ct" / "a", patient_position="FFP", order="shuffled")
    (case,) = cohort.read(tmp_path)
    image = images.load(case.image)
    np.testing.assert_array_equal(image.array, drawn.hu)
    np.testing.assert_allclose(image.affine, drawn.affine, atol=1e-6)
    assert images.read(case.image)[1] == pytest.approx(drawn.spacing_mm)


def test_a_series_that_the_node_would_not_analyse_is_refused(tmp_path: Path) -> None:
    drawn = phantom.make(phantom.PhantomSpec(slices=12, rows=64, columns=64, slice_spacing_mm=9.0))
    phantom.write_series(drawn, tmp_path / "ct" / "a", drop=frozenset({5}))
    with pytest.raises(CohortError, match="slices are missing"):
        images.load(tmp_path / "ct" / "a")


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (10.0, -5.0, 8.0)])
def test_a_written_mask_lies_on_the_grid_of_its_image(tmp_path: Path, degrees: tuple[float, float, float]) -> None:
    drawn = phantom.make(phantom.PhantomSpec(slices=12, rows=64, columns=64, slice_spacing_mm=9.0))
    volume = phantom.as_volume(drawn, oblique_deg=degrees)
    mask = drawn.lesions.infection.astype(np.uint8)
    images.write_mask(tmp_path / "label" / "a.nii.gz", mask, volume.affine)
    read = images.load(tmp_path / "label" / "a.nii.gz")
    np.testing.assert_array_equal(read.array, mask)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-3)
    assert [path.name for path in (tmp_path / "label").iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("kind", "value", "found"), [("f4", np.nan, True), ("f8", np.inf, True), ("f4", 1.0, False)]
)
def test_numbers_that_are_none_are_found_in_nifti(
    tmp_path: Path, suffix: str, kind: str, value: float, found: bool
) -> None:
    array = np.zeros((2, 8, 8), kind)
    write_image(tmp_path / f"a{suffix}", array)
    path = tmp_path / f"a{suffix}"
    packed = suffix.endswith("gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    content[-8:] = np.full(8 // np.dtype(kind).itemsize, value, kind).tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    assert images.holds_no_numbers(path) is found
    path.write_bytes(b"broken")
    with pytest.raises(CohortError, match="cannot be read as NIfTI"):
        images.holds_no_numbers(path)


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, min_size=1))
def test_the_split_of_a_patient_does_not_depend_on_the_others(patients: list[str]) -> None:
    for patient in patients:
        split = cohort.split_of(patient, 0.2, 0.3)
        assert split in cohort.SPLITS
        if split == "test":
            assert cohort.split_of(patient, 0.1, 0.4) == "test"
        if split == "validation":
            assert cohort.split_of(patient, 0.3, 0.1) == "validation"


def test_splits_have_about_the_shares_that_were_asked_for() -> None:
    splits = [cohort.split_of(f"p{k}", 0.2, 0.3) for k in range(2000)]
    assert 0.26 < splits.count("test") / 2000 < 0.34
    assert 0.16 < splits.count("validation") / 2000 < 0.24
    assert [cohort.split_of("p1", 0.2, 0.3), cohort.split_of("", 0, 0)] == [splits[1], "train"]
