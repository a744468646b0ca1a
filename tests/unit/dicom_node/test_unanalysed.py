"""Which clause a result has about each other series of its study, and that none of them can name a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydicom.uid import EnhancedCTImageStorage, MRImageStorage

from dicom_node import unanalysed
from dicom_node.config import CompletionSection
from dicom_node.ledger import InstanceRecord, SeriesRecord
from dicom_node.selection import candidate, choose
from dicom_node.states import InstanceState, SeriesState
from pipeline.others import OtherSeries
from tests.fixtures.records import instance, series_record, stack

S = SeriesState
BEST, OTHER = "1.1", "1.2"
NAME = "Doe^Jane 19500101"


def told(other: SeriesRecord, instances: Sequence[InstanceRecord], **changes: Any) -> tuple[OtherSeries, ...]:
    """About one series beside a chosen one of 60 slices of 5 mm."""
    best = series_record(BEST, state=S.COMPLETE, candidate=True)
    study: Mapping[str, Sequence[InstanceRecord]] = {BEST: stack(60), OTHER: instances}
    compared = [each for each in (best, other) if each.candidate]
    candidates = [candidate(each, study[each.series_uid]) for each in compared]
    choice = choose(candidates, [best, other])
    assert choice.chosen == best
    return unanalysed.told(choice, candidates, study, CompletionSection(**changes))


LOSERS: dict[str, tuple[Sequence[InstanceRecord], str]] = {
    "kernel": (stack(60, ConvolutionKernel="B60f"), "sharp kernel B60f"),
    "no kernel": (stack(60, ConvolutionKernel=None), "kernel of unknown sharpness"),
    "hostile kernel": (
        stack(60, ConvolutionKernel=f"<b>{NAME}</b>\n{'x' * 200}"),
        "kernel of unknown sharpness",
    ),
    "long kernel": (stack(60, ConvolutionKernel=f"LUNG {NAME}"), "sharp kernel"),
    "other part": (stack(60, BodyPartExamined="", SeriesDescription=""), "its own tags do not name the chest"),
    "part of the lungs": (stack(20), "covers 95 mm only"),
    "thick": (stack(60, SliceThickness=8), "thicker slices (8.0 mm)"),
    "fewer": (stack(58), "fewer slices (58)"),
    "equal": (stack(60), "as good as the chosen one"),
}


@pytest.mark.parametrize(("instances", "clause"), LOSERS.values(), ids=LOSERS)
def test_a_candidate_that_lost_is_told_by_what_decided(instances: Sequence[InstanceRecord], clause: str) -> None:
    other = series_record(OTHER, NAME, state=S.COMPLETE, candidate=True)
    assert told(other, instances) == (OtherSeries(None, f"{clause}, another was chosen"),)


UNFIT: dict[str, tuple[Sequence[InstanceRecord], str]] = {
    "localizer": (stack(2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    "secondary": (stack(2, ImageType=["DERIVED", "SECONDARY"]), "secondary capture"),
    "reformation": (stack(60, ImageType=["DERIVED", "PRIMARY", "MPR"]), "reformation"),
    "abdomen": (stack(60, BodyPartExamined="ABDOMEN", SeriesDescription=NAME), "another part of the body"),
    "few": (stack(2), "2 slices only"),
    "one": (stack(1), "1 slice only"),
    "enhanced": (stack(1, sop_class_uid=EnhancedCTImageStorage), "Enhanced CT"),
    "MR": (stack(60, sop_class_uid=MRImageStorage), "not CT"),
    "modality": (stack(60, Modality="PT"), "not CT"),
    "oblique": (stack(60, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "not axial"),
    "no position": (stack(60, ImagePositionPatient=None), "positions of slices do not fit together"),
    "conflict": ([*stack(60), instance(61, InstanceState.CONFLICTING)], "images contradict each other"),
    "gap": (stack(60)[:30] + stack(60)[35:], "slices are missing"),
    "pipeline": (stack(60), "could not be analysed"),
    "purged": ([replace(each, purged=True) for each in stack(60)], "its images are no longer here"),
}


@pytest.mark.parametrize(("instances", "clause"), UNFIT.values(), ids=UNFIT)
def test_what_was_no_candidate_is_told_by_what_it_is(instances: Sequence[InstanceRecord], clause: str) -> None:
    other = series_record(OTHER, NAME, state=S.NOT_ANALYSED, reason=f"{NAME}: 1.2.840.99")
    assert told(other, instances) == (OtherSeries(None, clause),)


@pytest.mark.parametrize(
    ("state", "clause"),
    [
        (S.RECEIVING, "not whole yet"),
        (S.INCOMPLETE, "incomplete"),
        (S.FAILED, "its analysis failed"),
        (S.CANCELLED, "cancelled by a person"),
    ],
)
def test_a_series_that_is_somewhere_else_is_told_by_its_state(state: SeriesState, clause: str) -> None:
    assert told(series_record(OTHER, NAME, state=state), stack(60)) == (OtherSeries(None, clause),)


def test_it_is_called_by_its_number_and_never_by_its_description() -> None:
    other = series_record(OTHER, NAME, state=S.NOT_ANALYSED)
    few = stack(2, SeriesNumber=4, SeriesDescription=NAME)
    assert told(other, few) == (OtherSeries(4, "2 slices only"),)
    assert told(other, stack(2, SeriesNumber=10**12)) == (OtherSeries(None, "2 slices only"),)


def test_neither_a_series_of_another_patient_nor_one_without_images_is_told() -> None:
    other = series_record(OTHER, state=S.NOT_ANALYSED)
    assert told(other, []) == ()
    for change in ({"patient_id": "P2"}, {"patient_id_issuer": "ELSE"}):
        assert told(replace(other, identity=replace(other.identity, **change)), stack(2)) == ()
