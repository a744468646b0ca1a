"""Phantom studies to train on: their labels are exact, and the seed gives them again."""

from __future__ import annotations

import numpy as np

from training import phantoms


def test_studies_are_labelled_exactly_and_come_again() -> None:
    made = phantoms.make(4, 7, masked=True)
    again = phantoms.make(1, 7, masked=False)[0]
    np.testing.assert_array_equal(made[0].hu, again.hu)
    assert again.lung is None
    for study in made:
        assert study.label is not None
        assert study.lung is not None
        assert study.case.consolidation is bool((study.label == 2).any())
        assert study.case.ggo is bool((study.label == 1).any())
        assert not (study.label > 0)[~study.lung].any()
    kinds = {(study.case.ggo, study.case.consolidation) for study in phantoms.make(8, 7, masked=False)}
    assert (False, False) in kinds
    assert any(solid for _, solid in kinds)
    assert (True, False) in kinds
