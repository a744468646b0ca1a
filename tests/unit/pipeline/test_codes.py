"""The vocabulary: valid, unique, complete, and the same codes as the standard's where they claim to be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from pipeline import codes
from pipeline.types import Profile
from tests.fixtures.results import build_set, make_analysis, make_context

TABLE = list(codes.table())


def code_items(ds: Dataset) -> Iterator[Dataset]:
    for elem in ds:
        if elem.VR == "SQ":
            for item in elem.value:
                if "CodeValue" in item:
                    yield item
                yield from code_items(item)


def test_codes_are_unique_and_fit_their_attributes() -> None:
    pairs = [(value, scheme) for _, value, scheme, _ in TABLE]
    assert len(set(pairs)) == len(pairs)
    for _, value, scheme, meaning in TABLE:
        assert len(value) <= 16  # SH
        assert len(scheme) <= 16
        assert len(meaning) <= 64  # LO
        assert (value + meaning).isascii()


@pytest.mark.parametrize(
    ("value", "scheme", "meaning"),
    [row[1:] for row in TABLE if row[2] in ("DCM", "SCT") and row[1] not in ("9656002", "169069000")],
)
def test_standard_codes_mean_what_the_dictionary_says(value: str, scheme: str, meaning: str) -> None:
    known = [entries[value][0] for entries in concepts[scheme].values() if value in entries]
    assert any(meaning.lower() == each.lower() for each in known), known


def test_every_private_code_that_is_written_is_in_the_table_and_declared() -> None:
    table = {(value, scheme): meaning for _, value, scheme, meaning in TABLE}
    built = build_set(make_analysis(), make_context(profile=Profile(lungs_seg=True, key_slices=True)))
    used = set()
    for ds in built.values():
        private = [item for item in code_items(ds) if item.CodingSchemeDesignator == codes.PRIVATE_SCHEME]
        for item in private:
            assert table[item.CodeValue, codes.PRIVATE_SCHEME] == item.CodeMeaning
            used.add(item.CodeValue)
        if private:
            declared = {item.CodingSchemeDesignator for item in ds.CodingSchemeIdentificationSequence}
            assert declared == {codes.PRIVATE_SCHEME}
    assert {"SEVERITY", "CONSOLIDATION", "GGO", "LUNG_VOLUME", "INTENDED_USE"} <= used
