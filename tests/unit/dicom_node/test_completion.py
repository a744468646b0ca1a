"""When a series is whole, what it waits for, and why it is not analysed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.uid import EnhancedCTImageStorage, MRImageStorage, SecondaryCaptureImageStorage

from dicom_node.completion import RELEASE_PAUSE, Ending, Wait, judge, quiet, slices
from dicom_node.config import CompletionSection
from dicom_node.ledger import InstanceRecord
from dicom_node.states import InstanceState, SeriesState
from tests.fixtures.records import instance, series_record, stack
from tests.fixtures.samples import START, at

RULES = CompletionSection(series_quiet_s=30, incomplete_after_s=3600)
S = SeriesState


def _judge(
    instances: Sequence[InstanceRecord], seconds: float = 30, rules: CompletionSection = RULES
) -> Wait | Ending:
    return judge(series_record(), instances, at(seconds), rules)


def _ending(instances: Sequence[InstanceRecord], seconds: float = 30) -> Ending:
    decision = _judge(instances, seconds)
    assert isinstance(decision, Ending)
    return decision


@pytest.mark.parametrize(
    ("seconds", "active", "expected"),
    [
        (0, False, Wait(at(30))),
        (29.9, True, Wait(at(30))),
        (30, True, Wait(at(30) + RELEASE_PAUSE)),
        (9999, True, Wait(at(9999) + RELEASE_PAUSE)),
        (30, False, None),
    ],
)
def test_nothing_is_judged_before_quiet_and_release(seconds: float, active: bool, expected: Wait | None) -> None:
    assert quiet(series_record(), active, at(seconds), RULES) == expected


def test_a_regular_chest_series_is_complete_and_says_how_that_was_shown() -> None:
    ending = _ending(stack(20))
    assert ending.state is S.COMPLETE
    assert ending.completeness == (
        "20 slices at regular distances of 5.00 mm without gap; no association was sending it and no further "
        "instance came for 30 s; InstanceNumber 1 to 20 without hole"
    )
    assert ending.completeness.isascii()


def _missing(*gone: int) -> list[InstanceRecord]:
    return [record for record in stack(20) if record.id not in gone]


def test_a_gap_is_waited_for_and_named() -> None:
    decision = _judge(_missing(7, 8))
    assert isinstance(decision, Wait)
    assert decision.until == at(3600)
    assert "2 slices are missing" in decision.reason
    assert "35" in decision.reason
    assert "40" in decision.reason


def test_a_gap_that_stays_ends_the_series_as_incomplete() -> None:
    assert isinstance(_judge(_missing(7), 3599.9), Wait)
    ending = _ending(_missing(7), 3600)
    assert ending.state is S.INCOMPLETE
    assert ending.reason.startswith("given up after 3600 s without a new instance: 1 slices are missing")


def test_the_missing_slice_makes_it_complete() -> None:
    assert isinstance(_judge(_missing(7)), Wait)
    assert _ending([*_missing(7), instance(7)]).state is S.COMPLETE


def _positions(place: Callable[[int], list[float]]) -> list[InstanceRecord]:
    return stack(20, lambda n: {"ImagePositionPatient": place(n)})


NOT_ANALYSED: dict[str, tuple[list[InstanceRecord], str]] = {
    "two slices": (stack(2), "2 slices, at least 10 are needed"),
    "enhanced CT": (stack(1, sop_class_uid=EnhancedCTImageStorage), "Enhanced CT Image Storage is kept but not"),
    "MR": (stack(sop_class_uid=MRImageStorage), "not CT: the SOP class is MR Image Storage"),
    "PT by Modality": (stack(Modality="PT"), "not CT: Modality is PT"),
    "one capture among slices": (
        [*stack(), instance(99, sop_class_uid=SecondaryCaptureImageStorage)],
        "the SOP class is Secondary Capture",
    ),
    "localizer": (stack(2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "ImageType says LOCALIZER"),
    "secondary": (stack(ImageType=["DERIVED", "SECONDARY", "AXIAL"]), "ImageType says SECONDARY"),
    "MPR": (stack(ImageType=["DERIVED", "PRIMARY", "MPR"]), "ImageType says MPR"),
    "Siemens MPR": (stack(ImageType=["DERIVED", "PRIMARY", "AXIAL", "CSA MPR"]), "ImageType says MPR"),
    "MIP": (stack(ImageType=["DERIVED", "PRIMARY", "MIP"]), "ImageType says MIP"),
    "MinIP": (stack(ImageType=["DERIVED", "PRIMARY", "AXIAL", "MIN_IP", "MINIP"]), "ImageType says MINIP"),
    "head": (stack(BodyPartExamined="HEAD"), "not the chest: BodyPartExamined is HEAD"),
    "abdomen and pelvis": (stack(BodyPartExamined="Abdomen/Pelvis"), "BodyPartExamined is Abdomen/Pelvis"),
    "coronal": (stack(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "not axial"),
    "mixed sizes": (stack(change=lambda n: {"Rows": 256} if n == 3 else {}), "different size"),
    "mixed orientation": (
        stack(change=lambda n: {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]} if n == 3 else {}),
        "another orientation",
    ),
    "duplicate position": (
        _positions(lambda n: [0.0, 0.0, 5.0 * max(n, 2)]),
        "lie where another one lies",
    ),
    "gantry tilt": (_positions(lambda n: [0.0, n * 2.0, n * 5.0]), "gantry was tilted"),
    "too far apart": (_positions(lambda n: [0.0, 0.0, 12.0 * n]), "the limit is 10 mm"),
    "no position": (stack(ImagePositionPatient=None), "ImagePositionPatient is absent in"),
    "position with two values": (stack(ImagePositionPatient=[1, 2]), "no usable position"),
    "position with NaN": (stack(ImagePositionPatient=[0, 0, None]), "no usable position"),
    "orientation as text": (stack(ImageOrientationPatient="axial"), "no usable position"),
    "rows missing": (stack(Rows=None), "Rows is absent in"),
    "no instance": ([], "no instance is left"),
}


@pytest.mark.parametrize(("instances", "says"), NOT_ANALYSED.values(), ids=NOT_ANALYSED)
def test_what_is_not_analysed_says_why(instances: list[InstanceRecord], says: str) -> None:
    ending = _ending(instances)
    assert ending.state is S.NOT_ANALYSED
    assert says in ending.reason
    assert ending.completeness == ""


ANALYSED: dict[str, list[InstanceRecord]] = {
    "derived alone": stack(ImageType=["DERIVED", "PRIMARY", "AXIAL"]),
    "no ImageType": stack(ImageType=None),
    "ImageType with low dose": stack(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "LOW_DOSE"]),
    "no Modality": stack(Modality=None),
    "no body part": stack(BodyPartExamined=None),
    "unknown body part": stack(BodyPartExamined="PARTIALBODY"),
    "abdomen by tag, chest by description": stack(
        BodyPartExamined="ABDOMEN", StudyDescription="CT Chest/Abd/Pelvis"
    ),
    "heart by tag, pulmonary by protocol": stack(BodyPartExamined="HEART", ProtocolName="CT Pulmonary Angio"),
    "whole body": stack(BodyPartExamined="WHOLEBODY"),
    "reversed": stack(change=lambda n: {"InstanceNumber": 99 - n}),
    "oblique within the limit": stack(
        change=lambda n: {
            "ImageOrientationPatient": [1, 0, 0, 0, math.cos(0.2), -math.sin(0.2)],
            "ImagePositionPatient": [0.0, 5.0 * n * math.sin(0.2), 5.0 * n * math.cos(0.2)],
        }
    ),
}


@pytest.mark.parametrize("instances", ANALYSED.values(), ids=ANALYSED)
def test_what_is_analysed(instances: list[InstanceRecord]) -> None:
    assert _ending(instances).state is S.COMPLETE


WORDS = (
    "TC TORACE ADDOME,TC Tórax/abdomen,TAC toracica,BT Toraks,TK klatki piersiowej,CT hrudníku,КТ органов грудной"
    ",CT C/A/P,CT C-A-P,CT_CAP_1.0,CT T/A/P,THX/ABD,CHST W CONTRAST"
)


@pytest.mark.parametrize("study", WORDS.split(","))
def test_the_chest_is_known_by_its_name(study: str) -> None:
    assert _ending(stack(BodyPartExamined="ABDOMEN", StudyDescription=study)).state is S.COMPLETE


def test_a_conflict_names_the_instance_and_the_way_out() -> None:
    ending = _ending([*stack(), instance(3, InstanceState.CONFLICTING, pixels="other")])
    assert ending.state is S.NOT_ANALYSED
    assert ending.reason.startswith("conflicting instance 1.2.3.1.3: it came twice with different pixels")
    assert "dicomnode retry" in ending.reason
    two = [*stack(), *(instance(n, InstanceState.CONFLICTING) for n in (3, 4))]
    assert "1.2.3.1.3 and 1 more" in _ending(two).reason


def test_localizers_among_slices_are_left_out() -> None:
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    instances = [*stack(), instance(50, **scout)]
    ending = _ending(instances)
    assert ending.state is S.COMPLETE
    assert ending.completeness.endswith("1 localizers, reformations or repeated slices left out")
    assert [record.id for record in slices(instances)] == list(range(1, 21))


def test_the_same_slice_under_two_uids_counts_once() -> None:
    twin = instance(3, uid="1.2.3.1.99")
    instances = [*stack(), twin]
    assert _ending(instances).state is S.COMPLETE
    assert len(slices(instances)) == 20
    other_pixels = instance(3, uid="1.2.3.1.99", pixels="other")
    assert "lie where another one lies" in _ending([*stack(), other_pixels]).reason


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"])
def test_a_half_corrected_series_is_waited_for_and_never_analysed(keyword: str) -> None:
    mixed = stack(change=lambda n: {keyword: "corrected"} if n % 2 else {})
    decision = _judge(mixed)
    assert isinstance(decision, Wait)
    assert f"the instances disagree in {keyword}" in decision.reason
    assert _ending(mixed, 3600).state is S.INCOMPLETE
    assert _ending(stack(**{keyword: "corrected"})).state is S.COMPLETE


def test_numbering_is_told_as_it_is() -> None:
    holes = stack(change=lambda n: {"InstanceNumber": n * 2})
    assert "InstanceNumber 2 to 40 with holes" in _ending(holes).completeness
    assert "InstanceNumber absent or repeated" in _ending(stack(InstanceNumber=None)).completeness


ODD = st.one_of(
    st.none(), st.text(max_size=5), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        keyword: st.one_of(ODD, st.lists(ODD, max_size=7))
        for keyword in (
            "ImageType",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "Rows",
            "Columns",
            "SliceThickness",
            "InstanceNumber",
            "Modality",
            "BodyPartExamined",
            "PatientID",
            "ConvolutionKernel",
        )
    },
)


@settings(max_examples=200, deadline=None)
@given(headers=st.lists(HEADERS, max_size=12), seconds=st.floats(0, 1e6))
def test_no_header_can_crash_the_rules(headers: list[dict[str, Any]], seconds: float) -> None:
    decision = _judge([instance(n, **values) for n, values in enumerate(headers)], seconds)
    assert isinstance(decision, Wait | Ending)
    if isinstance(decision, Ending) and decision.state is not S.COMPLETE:
        assert decision.reason, "no series ends silently"


@settings(max_examples=60, deadline=None)
@example(gone={2, 3, 6, 7, 10, 13, 15, 17}, seed=0)  # distances of 5 to 15 mm: InstanceNumber tells
@given(gone=st.sets(st.integers(2, 19), max_size=12), seed=st.integers(0, 1000))
def test_complete_exactly_when_no_inner_slice_is_missing(gone: set[int], seed: int) -> None:
    instances = _missing(*gone)
    random.Random(seed).shuffle(instances)
    rules = CompletionSection(min_slices=3, incomplete_after_s=3600)
    decision = _judge(instances, rules=rules)
    # Without its even slices a series is a regular one of twice the distance: no rule can tell.
    steps = {after - before for before, after in pairwise(n for n in range(1, 21) if n not in gone)}
    if len(steps) == 1:
        assert isinstance(decision, Ending)
        assert decision.state is S.COMPLETE
    else:
        assert not (isinstance(decision, Ending) and decision.state is S.COMPLETE)


def test_waiting_counts_from_the_last_instance() -> None:
    later = series_record(last_instance_at=START + timedelta(hours=5))
    decision = judge(later, _missing(7), START + timedelta(hours=5, seconds=30), RULES)
    assert isinstance(decision, Wait)
    assert decision.until == START + timedelta(hours=6)
