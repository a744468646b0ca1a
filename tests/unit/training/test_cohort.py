"""Cohorts: what is read, what is refused, and folds that keep patients together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from training import cohort, dataset
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
    ],
)
def test_every_complaint_is_told(tmp_path: Path, rows: str, words: list[str]) -> None:
    with pytest.raises(CohortError) as told:
        cohort.read(make_cohort(tmp_path, rows))
    assert all(word in str(told.value) for word in words)


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


def one_case(folder: Path, label: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 5.0)) -> Case:
    write_image(folder / "ct" / "a.nii.gz", np.zeros((2, 16, 16), np.int16))
    write_image(folder / "label" / "a.nii.gz", label, spacing)
    return Case("a", "a", folder / "ct" / "a.nii.gz", folder / "label" / "a.nii.gz")


@pytest.mark.parametrize(
    ("shape", "value", "spacing"),
    [((2, 16, 15), 1, (1, 1, 5)), ((2, 16, 16), 3, (1, 1, 5)), ((2, 16, 16), 1, (2, 1, 5))],
)
def test_a_label_that_does_not_fit_is_refused(
    tmp_path: Path, shape: tuple[int, int, int], value: int, spacing: tuple[float, float, float]
) -> None:
    case = one_case(tmp_path, np.full(shape, value, np.uint8), spacing)
    with pytest.raises(CohortError, match="the label must have the image's grid"):
        dataset.load(case, None)


def test_images_are_turned_to_the_canonical_order(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
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
