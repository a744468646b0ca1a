"""Which series of a study is analysed, and what is told about the others."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from dicom_node.selection import Candidate, candidate, choose
from dicom_node.states import SeriesState
from pipeline.kernel import Sharpness, sharpness
from tests.fixtures.records import series_record, stack

S = SeriesState


def _candidate(uid: str, **changes: Any) -> Candidate:
    preferred, state = changes.pop("preferred", False), changes.pop("state", S.COMPLETE)
    values: dict[str, Any] = {
        "series": series_record(uid, f"series {uid}", preferred=preferred, state=state, candidate=True),
        "names_chest": True,
        "extent_mm": 300.0,
        "in_expiration": False,
        "kernel": "B40f",
        "coarseness_mm": 5.0,
        "slices": 60,
    }
    return Candidate(**(values | changes))


BETTER: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a person asked": ({"preferred": True, "kernel": "B70f"}, {}, "a person asked for it"),
    "chest by tag": ({"kernel": "B70f"}, {"names_chest": False}, "its tags name the chest"),
    "whole lungs": ({"kernel": "B70f"}, {"extent_mm": 80.0}, "it covers 300 mm, this one 80 mm"),
    "expiration last": (
        {"kernel": "B70f"},
        {"in_expiration": True, "slices": 300},
        "this one was scanned in expiration",
    ),
    "soft before sharp": ({}, {"kernel": "B70f", "slices": 300}, "kernel B40f (soft) comes before B70f (sharp)"),
    "soft before unknown": ({}, {"kernel": ""}, "kernel B40f (soft) comes before not given (unknown)"),
    "unknown before sharp": ({"kernel": "X"}, {"kernel": "LUNG"}, "kernel X (unknown) comes before LUNG (sharp)"),
    "thin before thick": ({"coarseness_mm": 1.0}, {"slices": 900}, "its slices are 1.0 mm, these 5.0 mm"),
    "more slices": ({"slices": 61}, {}, "it has 61 slices, this one 60"),
}


@pytest.mark.parametrize(("better", "worse", "says"), BETTER.values(), ids=BETTER)
@pytest.mark.parametrize("uids", [("1.1", "1.2"), ("1.2", "1.1")])
def test_each_criterion_decides_and_is_told(
    better: dict[str, Any], worse: dict[str, Any], says: str, uids: tuple[str, str]
) -> None:
    winner, loser = _candidate(uids[0], **better), _candidate(uids[1], **worse)
    for order in ([winner, loser], [loser, winner]):
        choice = choose(order, [item.series for item in order])
        assert choice.chosen == winner.series
        expected = f'another series of this study was chosen ("series {uids[0]}"): {says}'
        assert choice.others == {uids[1]: expected}
        assert choice.why == "chosen of 2 series of the study"


def test_one_alone_is_chosen() -> None:
    only = _candidate("1.1")
    choice = choose([only], [only.series])
    assert (choice.chosen, choice.others) == (only.series, {})
    assert choice.why == "the only analysable series of its study"


def test_the_order_of_arrival_does_not_matter() -> None:
    items = [
        _candidate("1.1", kernel="B70f"),
        _candidate("1.2", slices=50),
        _candidate("1.3"),
        _candidate("1.4", extent_mm=90.0, coarseness_mm=1.0),
    ]
    chosen = {choose(order, []).chosen for order in itertools.permutations(items)}
    assert chosen == {items[2].series}


@pytest.mark.parametrize("state", [S.QUEUED, S.ANALYSED, S.DELIVERED])
def test_one_chosen_before_stays_unless_another_is_better(state: SeriesState) -> None:
    first = _candidate("1.9", state=state)
    assert choose([_candidate("1.1"), first], []).chosen == first.series
    assert choose([_candidate("1.1", slices=61), first], []).chosen != first.series


def test_what_exceeds_the_lungs_does_not_count_as_cover() -> None:
    """A series from neck to pelvis is no better than one of the chest alone."""
    body, chest = _candidate("1.1", extent_mm=900.0), _candidate("1.2", extent_mm=280.0, coarseness_mm=1.0)
    assert choose([body, chest], []).chosen == chest.series


def test_equals_are_told_so() -> None:
    choice = choose([_candidate("1.1"), _candidate("1.2")], [])
    assert choice.others["1.2"].endswith("both are equally good, and one had to be taken")


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ("B10s B20f B30f B31f B40f B45f I26f I31f I40f Br36 Br40d Bv38 Hr40 Qr36 Bf37f", Sharpness.SOFT),
        ("B46f B50f B60f B70f B80s I50f I70f Br54 Bl57d Br59 Hr68 Ur77", Sharpness.SHARP),
        ("SOFT STANDARD DETAIL CHST STND standard", Sharpness.SOFT),
        ("LUNG BONE BONEPLUS EDGE ULTRA Lung LUNG+", Sharpness.SHARP),
        ("A B C SA SB", Sharpness.SOFT),
        ("D E L YA YB YC", Sharpness.SHARP),
        ("FC01 FC08 FC08-H FC10 FC18 FC26 FL03", Sharpness.SOFT),
        ("FC30 FC35 FC50 FC51 FC52 FC56 FC81", Sharpness.SHARP),
        ("B_SOFT_B Body_Standard", Sharpness.SOFT),
        ("B_SHARP_C", Sharpness.SHARP),
        ("XYZ 17 R9", Sharpness.UNKNOWN),
    ],
)
def test_kernels_by_maker(kernels: str, expected: Sharpness) -> None:
    assert {name: sharpness(name) for name in kernels.split()} == dict.fromkeys(kernels.split(), expected)


@pytest.mark.parametrize("name", ["", "  ", "\x00", "ü", "B" * 300])
def test_odd_kernels_are_unknown(name: str) -> None:
    assert sharpness(name) is Sharpness.UNKNOWN


def test_facts_come_from_the_instances() -> None:
    found = candidate(series_record(), stack(20, ConvolutionKernel=["Br40d", "3"], SliceThickness=2))
    assert (found.kernel, found.slices, found.names_chest) == ("Br40d", 20, True)
    assert found.extent_mm == pytest.approx(95.0)
    assert found.coarseness_mm == pytest.approx(5.0), "2 mm slices every 5 mm sample no better than 5 mm"
    bare = candidate(series_record(), stack(20, ConvolutionKernel=None, SliceThickness=None, BodyPartExamined=None))
    assert (bare.kernel, bare.names_chest) == ("", False)


OF_A_STUDY_OF_CHEST_AND_MORE: dict[tuple[str, str], tuple[bool, bool]] = {  # names the chest, in expiration
    ("Thorax 3.0 Br40 S3", "CHEST"): (True, False),
    ("3.0 Br40", "CHEST"): (True, False),
    ("Mediastinum", ""): (True, False),
    ("Lung 1.25", "ABDOMEN"): (True, False),
    ("Thorax/Abdomen", "ABDOMEN"): (True, False),
    ("Abdomen ven. 3.0", "CHEST"): (False, False),
    ("ABD/PEL 2.5 STD", ""): (False, False),
    ("3.0 Br40", "ABDOMEN"): (False, False),
    ("Hals 2.0", "NECK"): (False, False),
    ("Schädel 1.0", "CHEST"): (False, False),
    ("Thoracic spine 1.0", "TSPINE"): (False, False),
    ("Brustwirbelsäule", ""): (False, False),
    ("Thorax_EXP_1.0", "CHEST"): (True, True),
    ("Lunge Exspiration", "CHEST"): (True, True),
    ("CHEST EXPANDED FOV", "CHEST"): (True, False),
    ("Insp/Exp", "CHEST"): (True, False),
    ("C/A/P 1mm", "ABDOMEN"): (True, False),
    ("Thx/Abd 1mm", "ABDOMEN"): (True, False),
    ("Torace espirio", "CHEST"): (True, True),
    ("TORAX ESPIRACION", "CHEST"): (True, True),
    ("Klatka wydech", "CHEST"): (True, True),
    ("CHEST EXSP 1.0", "CHEST"): (True, True),
    ("Chest respiratory gated", "CHEST"): (True, False),
}


@pytest.mark.parametrize(("tags", "found"), OF_A_STUDY_OF_CHEST_AND_MORE.items())
def test_the_abdomen_of_a_study_of_chest_and_abdomen_is_no_chest(
    tags: tuple[str, str], found: tuple[bool, bool]
) -> None:
    names = {"SeriesDescription": tags[0], "BodyPartExamined": tags[1], "StudyDescription": "CT Thorax + Abdomen"}
    item = candidate(series_record(), stack(20, **names))
    assert (item.names_chest, item.in_expiration) == found
    assert candidate(series_record(), stack(112, **names)).names_chest, "of 555 mm some must be chest"


def test_everything_seen_is_handed_on() -> None:
    seen = [series_record("1.1"), series_record("1.2", state=S.INCOMPLETE)]
    assert choose([_candidate("1.1")], seen).seen == tuple(seen)
