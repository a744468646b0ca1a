"""Slices that came more than once: the same one again, or a correction under a new SOP Instance UID. Pure rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dicom_node.ledger_records import InstanceRecord


def distinct(records: Iterable[InstanceRecord]) -> list[InstanceRecord]:
    """One of those that show the same at the same place: the one received last."""
    found: dict[tuple[str, str], InstanceRecord] = {}
    for record in records:
        key = (_place(record), record.pixel_sha256)
        if key not in found or record.received_at > found[key].received_at:
            found[key] = record
    return list(found.values())


def without_replaced(records: Sequence[InstanceRecord]) -> list[InstanceRecord]:
    """Without slices of which a correction came later: same place and number, another SOP instance, other pixels.

    Where most of a series is there twice it is one reconstruction after another: the later one counts as a whole,
    or, where they came mixed, nothing can tell which slice belongs to which, and all stay.
    """
    groups: dict[tuple[str, ...], list[InstanceRecord]] = {}
    for record in records:
        groups.setdefault(_same_slice(record), []).append(record)
    several = [sorted(group, key=lambda record: record.received_at) for group in groups.values() if len(group) > 1]
    replaced = {
        record.sop_instance_uid: record
        for group in several
        if group[-2].received_at < group[-1].received_at
        for record in group[:-1]
    }
    if replaced and 2 * len(several) > len(groups):
        first_of_later = min(group[-1].received_at for group in several)
        if max(record.received_at for record in replaced.values()) >= first_of_later:
            return list(records)
    return [record for record in records if record.sop_instance_uid not in replaced]


def numbers(header: Mapping[str, Any], keyword: str, count: int, absent: float = math.nan) -> tuple[float, ...]:
    """So many numbers, or as many times `absent` where there are others than so many."""
    value = header.get(keyword)
    values = value if isinstance(value, list) else [value]
    found = tuple(float(item) for item in values if isinstance(item, int | float))
    return found if len(found) == len(values) == count else (absent,) * count


def _same_slice(record: InstanceRecord) -> tuple[str, ...]:
    """What a slice and its correction have in common; a slice without a number has nothing to be corrected by."""
    number = record.header.get("InstanceNumber")
    if not isinstance(number, int):
        return (record.sop_instance_uid,)
    return _place(record), str(number), str(record.header.get("AcquisitionNumber"))


def _place(record: InstanceRecord) -> str:
    place = numbers(record.header, "ImagePositionPatient", 3)
    return str((place, record.header.get("ImageOrientationPatient")))
