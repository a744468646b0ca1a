"""The page of cohorts in which most figures have nothing to show: it says so and stands."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fixtures.judged import by_intensity, judged, label
from training import gallery, metrics, overlays, page, tables
from training.judge import Cohort, Judged
from training.overlays import Shown
from training.tables import Table

COHORTS: dict[str, list[Judged]] = {
    "one case": [judged("a", label(4, 2), 4, 2)],
    "no lungs at all": [judged("a", label(4, 2), fault="no lungs found"), judged("b", label(2), fault="none")],
    "no pixel labels": [judged("a", None, 4, 2, consolidation=True), judged("b", None, 4, consolidation=False)],
    "nothing labelled, nothing found": [judged(name, label(0)) for name in "abcd"],
    "nothing tells consolidation": [judged(name, label(4), 5, 1) for name in "abcd"],
    "names like formulas": [
        judged("a$\\frac{$", label(4, 1), 4, 1, site="$x"),
        judged("b", label(2), 1, site="$$"),
    ],
}


@pytest.mark.parametrize("cases", COHORTS.values(), ids=COHORTS)
def test_a_page_is_made_of_any_cohort(cases: list[Judged]) -> None:
    cohort = Cohort(cases)
    found = metrics.compute(cohort)
    plane = np.zeros((20, 30), np.int16)
    slice_ = Shown(plane, *(plane.astype(np.uint8) for _ in range(3)), aspect=1.0)
    chosen = [(one, slice_) for one in overlays.choose(cases)]
    text = page.page("any", [], found, gallery.gallery(cohort, found, by_intensity().manifest, chosen))
    assert text.count("<figure>") == 8
    assert "nan" not in text.split("<h2>Figures</h2>")[0].replace("nance", "")
    for one in cases:
        assert not one.fault or f"No lungs found in {one.case.name}" in text


def test_examples_run_from_the_worst_to_the_best() -> None:
    cases = [judged(str(k), label(10), k) for k in (10, 2, 5, 1, 7, 9, 3, 8, 4, 6)]
    chosen = [int(one.case.name) for one in overlays.choose(cases)]
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1], len(chosen)) == (1, 10, overlays.EXAMPLES)


def test_a_case_without_lungs_is_named_among_those_left_out() -> None:
    cases = COHORTS["no lungs at all"]
    found = metrics.compute(Cohort(cases))
    text = page.page("any", [], found, [])
    assert "No lungs and so no reference score, not in figure 2 (2): a, b." in text


def test_tables_escape_what_they_are_given() -> None:
    table = Table("of <all>", ("site", "n"), (("a|b<script>", "1"),))
    assert "<script>" not in table.html()
    assert "a\\|b&lt;script>" in table.markdown()
    assert tables.number(-0.25) == "−0.250"
    assert tables.number(None) == "–"
