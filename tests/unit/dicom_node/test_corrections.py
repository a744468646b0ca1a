"""Slices that came more than once: which of them counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from dicom_node.completion import slices
from dicom_node.ledger import InstanceRecord
from tests.fixtures.records import instance, stack
from tests.fixtures.samples import START


def later(number: int, seconds: float, name: str = "new", **changes: Any) -> InstanceRecord:
    """Another SOP instance with other pixels at the place of a slice, so long after it."""
    record = instance(number, uid=f"9.9.{number}.{len(name)}", pixels=f"{name} pixels of {number}", **changes)
    return replace(record, received_at=START + timedelta(seconds=seconds))


def uids(records: list[InstanceRecord]) -> set[str]:
    return {record.sop_instance_uid for record in records}


def test_a_correction_takes_the_place_of_the_slice() -> None:
    new = later(3, 60)
    chosen = slices([*stack(20), new])
    assert len(chosen) == 20
    assert uids(chosen) == uids(stack(20)) - {instance(3).sop_instance_uid} | {new.sop_instance_uid}


def test_the_order_of_the_records_means_nothing_that_of_arrival_everything() -> None:
    versions = [instance(3), later(3, 60, "a"), later(3, 120, "bb"), later(5, 30, "a")]
    expected = {"9.9.3.2", "9.9.5.1"}
    for order in permutations(versions):
        rest = [record for record in stack(20) if record.id != 3]
        assert uids(slices([*order, *rest])) - uids(stack(20)) == expected


def test_taken_back_under_a_third_uid() -> None:
    again = replace(instance(3, uid="9.9.9"), received_at=START + timedelta(seconds=99))
    assert "9.9.9" in uids(slices([*stack(20), later(3, 60), again]))


@pytest.mark.parametrize(
    "other",
    [
        later(3, 0),
        later(3, 60, InstanceNumber=33),
        later(3, 60, AcquisitionNumber=2),
        later(3, 60, ImagePositionPatient=[0.0, 0.0, 15.0]),
    ],
    ids=["at the same moment", "another number", "another acquisition", "another place"],
)
def test_what_is_no_correction_stays_a_fault_for_the_geometry(other: InstanceRecord) -> None:
    assert len(slices([*stack(20), other])) == 21


def test_without_numbers_nothing_is_corrected() -> None:
    bare = [*stack(20, InstanceNumber=None), later(3, 60, InstanceNumber=None)]
    assert len(slices(bare)) == 21


def test_a_whole_series_again_replaces_the_first_one() -> None:
    again = [later(number, 60 + number) for number in range(1, 21)]
    assert uids(slices([*stack(20), *again])) == uids(again)


def test_two_series_in_one_that_came_mixed_are_not_put_together_by_guess() -> None:
    first = [replace(record, received_at=START + timedelta(seconds=10 * record.id)) for record in stack(20)]
    second = [later(number, 10 * number + 5) for number in range(1, 21)]
    assert len(slices([*first, *second])) == 40
