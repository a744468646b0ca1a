"""Earlier results: their order in time, whose they are, and what keeps them from being compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydicom.dataset import Dataset

from pipeline import priors, run, trend
from pipeline.priors import Priors, Shares, Technique
from pipeline.types import ModelIdentity, Region
from tests.fixtures.results import MODEL, make_analysis, make_prior, without_left_lung

SAME = Technique(MODEL, "built-in", "", "B40f", 5.0)


@pytest.mark.parametrize(
    ("header", "moment"),
    [
        ({"AcquisitionDateTime": "20260203101500.123+0900", "StudyDate": "20200101"}, "2026-02-03T10:15:00"),
        ({"AcquisitionDate": "20260203", "AcquisitionTime": "1015"}, "2026-02-03T10:15:00"),
        ({"AcquisitionDate": "20260203"}, "2026-02-03"),
        ({"AcquisitionTime": "101500", "StudyDate": "20260203", "StudyTime": "090000.5"}, "2026-02-03T09:00:00"),
        ({"StudyDate": "20260203", "StudyTime": "99"}, "2026-02-03"),
        ({"StudyDate": "20260203", "StudyTime": "10:15:00"}, "2026-02-03"),  # of ACR-NEMA, not 10:00:00
        ({"StudyDate": "20260203", "StudyTime": "1015003"}, "2026-02-03"),
        ({"StudyDate": "20260203", "StudyTime": ""}, "2026-02-03"),
        ({"AcquisitionDate": "20260230", "StudyDate": "20260203"}, "2026-02-03"),
        ({"StudyDate": "2026.02.03"}, ""),
        ({"StudyDate": "00000000"}, ""),
        ({"StudyDate": None}, ""),
        ({}, ""),
    ],
)
def test_when_a_ct_was_acquired(header: dict[str, Any], moment: str) -> None:
    assert priors.acquired(header) == moment


def test_when_a_data_set_was_acquired() -> None:
    ds = Dataset()
    ds.StudyDate, ds.StudyTime = "20260203", "090000.5"
    assert priors.acquired(ds) == "2026-02-03T09:00:00"
    ds.AcquisitionDate, ds.AcquisitionTime = "20260204", "101500"
    later = Dataset()
    later.StudyDate = "20260203"
    assert priors.acquired(ds) == "2026-02-04T10:15:00"
    assert priors.first_acquired([ds, later, Dataset()]) == "2026-02-03"


@pytest.mark.parametrize(
    ("one", "other", "earlier"),
    [
        ("2026-01-01", "2026-01-02", True),
        ("2026-01-02", "2026-01-01T23:59:59", False),
        ("2026-01-01T08:00:00", "2026-01-01T08:00:01", True),
        ("2026-01-01T08:00:00", "2026-01-01T08:00:00", False),
        ("2026-01-01", "2026-01-01T08:00:00", False),
        ("2026-01-01T08:00:00", "2026-01-01", False),
        ("", "2026-01-01", False),
        ("2026-01-01", "", False),
    ],
)
def test_only_what_is_surely_earlier_is_earlier(one: str, other: str, earlier: bool) -> None:
    assert priors.is_earlier(one, other) is earlier


def test_values_survive_a_database() -> None:
    found = Priors((make_prior("2020-01-01T10:00:00", 0.25, 0.125),), "this node")
    assert priors.from_json(priors.to_json(found)) == found
    with pytest.raises(ValueError):
        priors.from_json({"results": [{"acquired": "2020-01-01"}]})


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_share_is_a_fraction(share: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        Shares(share, 0.0)


@pytest.mark.parametrize("acquired", ["", "20200101", "2020-13-01", "2020-01-01T25:00:00", "2020-01-01 10:00:00"])
def test_a_prior_has_a_date(acquired: str) -> None:
    with pytest.raises(ValueError):
        replace(make_prior("2020-01-01", 0.1, 0.1), acquired=acquired)


def test_the_last_gate_lets_only_the_patients_earlier_results_through() -> None:
    """The phantom is PHANTOM, acquired 2020-03-15 at 10:15."""
    analysis = make_analysis()
    own = [make_prior("2020-03-15T10:14:59", 0.1, 0.0), make_prior("2020-01-01", 0.2, 0.0)]
    others = [
        make_prior("2020-03-15T10:15:00", 0.1, 0.0),
        make_prior("2021-01-01", 0.1, 0.0),
        make_prior("2020-01-02", 0.1, 0.0, patient_id="PHANTOM2"),
        make_prior("2020-01-03", 0.1, 0.0, patient_id_issuer="HOSPITAL"),
    ]
    passed = priors.usable(Priors((*own, *others), "this node"), analysis.volume.headers)
    assert passed.results == (own[1], own[0])
    assert passed.search == "this node; 4 left out: of another patient, or not earlier than this CT"
    nameless = make_analysis(attributes={"PatientID": ""})
    empty = tuple(replace(prior, patient_id="") for prior in own)
    assert priors.usable(Priors(empty, "x"), nameless.volume.headers).results == ()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        (
            {"model": ModelIdentity("demo", "1.1.0", "cd" * 32)},
            ["other model (demo 1.1.0, cdcdcdcd, now demo 1.2.0, ab12ab12)"],
        ),
        ({"lungs": "lungmask R231"}, ["other lung segmentation (lungmask R231, now built-in)"]),
        ({"lungs": ""}, ["lung segmentation of then not known"]),
        ({"resampling": "to 3 mm"}, ["other resampling (to 3 mm, now not known)"]),
        ({"kernel": "B70f"}, ["other kernel (B70f (sharp), now B40f (soft))"]),
        ({"kernel": "B31f"}, []),
        ({"kernel": ""}, ["kernel of then not known"]),
        ({"thickness_mm": 5.05}, []),
        ({"thickness_mm": 1.25}, ["other slice thickness (1.25 mm, now 5 mm)"]),
        ({"thickness_mm": None}, ["slice thickness of then not known"]),
    ],
)
def test_what_was_not_obtained_alike_is_named(changed: dict[str, Any], told: list[str]) -> None:
    assert priors.differences(replace(SAME, **changed), SAME) == told


def test_kernels_whose_class_is_not_known_are_compared_by_name() -> None:
    one, other = replace(SAME, kernel="X1"), replace(SAME, kernel="X2")
    assert priors.differences(one, one) == []
    assert priors.differences(one, other) == ["other kernel (X1 (unknown), now X2 (unknown))"]


def test_the_report_says_which_priors_were_used_and_names_nobody() -> None:
    analysis = make_analysis()
    found = Priors((make_prior("2020-01-15", 0.01, 0.005), make_prior("2020-03-05", 0.02, 0.01)), "this node")
    report = run.report(analysis, found)
    assert [prior["acquired"] for prior in report["priors"]] == ["2020-01-15", "2020-03-05"]
    assert report["priors_search"] == "this node"
    assert report["change"]["since"] == "2020-03-05"
    assert report["change"]["days"] == 10
    now = analysis.scores.regions[Region.BOTH].severity_score
    assert now is not None
    assert report["change"]["severity_score"] == pytest.approx(now - 0.02)
    assert "PHANTOM" not in str(report)
    assert run.report(analysis)["priors_search"] == "not looked for"
    assert run.report(analysis)["change"] is None


def test_a_lung_that_was_not_measured_has_no_change() -> None:
    change = trend.changes(without_left_lung(make_analysis()), make_prior("2020-01-01", 0.1, 0.05))
    assert change[Region.LEFT] == trend.Change(None, None)
    assert change[Region.RIGHT].severity is not None
