"""What a result says of itself where the source has numbers that no scanner should give."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydicom.dataset import Dataset

from pipeline import checks, provenance
from pipeline.header import SourceHeader
from pipeline.types import Analysis, Profile, ResultKind
from tests.fixtures.results import build_set, make_analysis, make_context


def description(series_number: int, revision: int, kind: ResultKind) -> str:
    ds = Dataset()
    ds.SeriesNumber = series_number
    return provenance.series_description(SourceHeader(ds, ()), make_context(revision=revision), kind)


@pytest.mark.parametrize("kind", ResultKind)
@pytest.mark.parametrize("revision", [1, 99, 100_000, 10**40])
@pytest.mark.parametrize("series_number", [0, 3, 999_999, 2**31 - 1])
def test_what_a_result_may_be_used_for_is_never_cut(kind: ResultKind, revision: int, series_number: int) -> None:
    text = description(series_number, revision, kind)
    assert text.endswith(" - RESEARCH USE ONLY")
    assert len(text) <= 64
    if revision < 1000:
        assert f", rev {revision} - " in text
        assert ("series" in text) == (0 < series_number < 1_000_000)


def test_description_of_an_ordinary_series() -> None:
    expected = "Lung opacity picture of series 3, rev 1 - RESEARCH USE ONLY"
    assert description(3, 1, ResultKind.PICTURE) == expected


@pytest.mark.parametrize(("number", "expected"), [("999999", "99999994"), ("7", "90074"), ("", "90004")])
def test_results_of_any_series_number_pass_the_checks(number: str, expected: str) -> None:
    analysis = make_analysis(attributes={"SeriesNumber": number})
    built = build_set(analysis, make_context(revision=99))
    for ds in built.values():
        assert list(checks.complaints(ds, analysis)) == []
    assert str(built[ResultKind.SR].SeriesNumber) == expected


def test_our_own_words_hold_no_control_characters() -> None:
    """PS3.5 6.1.3: UT allows some, LO none; a kernel's name from a header may hold any."""
    assert provenance.plain("B40f\a\tGr\u00f6\u00dfe\n5\\6\x7f") == "B40f  Gr??e 5/6 "


def test_each_algorithm_is_named_as_equipment_and_has_a_device_uid_that_changes_with_it() -> None:
    def devices(analysis: Analysis) -> dict[str, str]:
        built = build_set(analysis, make_context(profile=Profile(lungs_seg=True, slice_pictures=True, pdf=True)))
        found = [
            {
                str(item.ManufacturerModelName): str(item.DeviceUID)
                for item in ds.ContributingEquipmentSequence
                if "DeviceUID" in item
            }
            for ds in built.values()
        ]
        assert len(found) == 6
        assert all(each == found[0] for each in found)
        return found[0]

    analysis = make_analysis()
    as_it_is = devices(analysis)
    assert set(as_it_is) == {"dicomnode demo", "dicomnode lungs"}
    other_lungs = devices(replace(analysis, lungs=replace(analysis.lungs, method="lungmask R231 0123abcd")))
    assert other_lungs["dicomnode demo"] == as_it_is["dicomnode demo"]
    retrained = devices(replace(analysis, model=replace(analysis.model, digest="0f" * 32)))
    uids = [each[name] for each in (as_it_is, retrained) for name in each] + [other_lungs["dicomnode lungs"]]
    assert len(set(uids)) == 5
