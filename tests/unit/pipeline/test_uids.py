"""UIDs follow from causes: the same causes, the same UID; any other cause, another."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from pipeline import uids
from pipeline.priors import Priors
from pipeline.types import Analysis, Flag, ModelIdentity, ObjectReference, Profile, ResultContext, ResultKind
from tests.fixtures.results import CREATED, MODEL, make_analysis, make_context, make_prior


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis()


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_other_parts_give_another_valid_uid(first: list[str], second: list[str]) -> None:
    assert UID(uids.derive(*first)).is_valid
    assert uids.derive(*first).startswith("2.25.")
    assert (uids.derive(*first) == uids.derive(*second)) == (first == second)


def test_the_value_never_changes() -> None:
    """A release that derived other UIDs would send known results again under new names."""
    assert uids.derive("a", "b") == "2.25.70889510646818029623684566370032734534"


def test_the_same_causes_give_the_same_uid(analysis: Analysis) -> None:
    again = make_analysis()
    for kind in ResultKind:
        assert uids.instance(analysis, make_context(), kind) == uids.instance(again, make_context(), kind)


def test_kinds_and_uses_differ(analysis: Analysis) -> None:
    context = make_context()
    derived = [of(analysis, context, kind) for of in (uids.instance, uids.series) for kind in ResultKind]
    derived += [uids.tracking(analysis, context, name) for name in ("Opacity", "Consolidation")]
    assert len(set(derived)) == len(derived) == 2 * len(ResultKind) + 2


PREDECESSOR = ObjectReference("1.2", "1.3", "1.4", "1.5")


@pytest.mark.parametrize(
    "other",
    [
        make_context(revision=2),
        make_context(superseded=(PREDECESSOR,)),
        make_context(settings_digest="00"),
        make_context(profile=Profile(name="other")),
        make_context(profile=Profile(empty_frames=True)),
        make_context(predecessor=PREDECESSOR),
        make_context(completeness="64 of 64"),
        make_context(created=CREATED + timedelta(seconds=1)),
        make_context(priors=Priors()),
        make_context(priors=Priors((make_prior("2020-01-01", 0.1, 0.0),))),
    ],
    ids=[
        *(
            "revision",
            "superseded",
            "settings",
            "profile name",
            "profile content",
            "predecessor",
            "completeness",
            "created",
        ),
        *("no priors found", "a prior"),
    ],
)
def test_every_cause_in_the_context_counts(analysis: Analysis, other: ResultContext) -> None:
    assert uids.instance(analysis, other, ResultKind.SR) != uids.instance(analysis, make_context(), ResultKind.SR)


def test_every_cause_in_the_analysis_counts(analysis: Analysis) -> None:
    others = [
        replace(analysis, source_digest="00"),
        replace(analysis, model=ModelIdentity(MODEL.name, MODEL.version, "00")),
        replace(analysis, flags=(Flag("a", "b"),)),
        replace(analysis, lungs=replace(analysis.lungs, method="other")),
        replace(analysis, scores=replace(analysis.scores, regions=dict.fromkeys(analysis.scores.regions, None))),
    ]
    derived = {uids.instance(other, make_context(), ResultKind.SR) for other in (analysis, *others)}
    assert len(derived) == 6


def test_the_software_version_counts(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    before = uids.instance(analysis, make_context(), ResultKind.SR), uids.device(MODEL)
    monkeypatch.setattr(uids, "__version__", "99.0")
    assert uids.instance(analysis, make_context(), ResultKind.SR) != before[0]
    assert uids.device(MODEL) != before[1]


def test_the_device_changes_with_each_trained_model() -> None:
    assert uids.device(MODEL) == uids.device(replace(MODEL))
    assert uids.device(replace(MODEL, digest="00")) != uids.device(MODEL)


def test_other_figures_or_dates_of_a_prior_give_other_uids(analysis: Analysis) -> None:
    changed = [
        make_prior("2020-01-01", 0.1, 0.0),
        make_prior("2020-01-01", 0.2, 0.0),
        make_prior("2020-01-02", 0.1, 0.0),
        make_prior("2020-01-01", 0.1, 0.0, patient_id_issuer="X"),
    ]
    contexts = [make_context(priors=Priors((prior,))) for prior in changed]
    derived = {uids.instance(analysis, context, ResultKind.SR) for context in contexts}
    assert len(derived) == len(changed)
