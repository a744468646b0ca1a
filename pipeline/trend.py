"""What changed since the latest prior, in figures: the one place that SR, picture and result.json take it from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import priors
from pipeline.priors import Prior, Priors, Shares
from pipeline.types import Analysis, Region


@dataclass(frozen=True)
class Change:
    """Of one region, now minus then, in fractions of 1; None where either was not measured."""

    severity: float | None
    consolidation: float | None


def changes(analysis: Analysis, prior: Prior) -> dict[Region, Change]:
    """Since one prior."""
    now = priors.shares(analysis.scores.regions)
    return {region: _change(prior.shares[region], now[region]) for region in Region}


def _change(before: Shares, now: Shares) -> Change:
    def difference(then: float | None, since: float | None) -> float | None:
        return None if then is None or since is None else since - then

    return Change(difference(before.severity, now.severity), difference(before.consolidation, now.consolidation))


def warnings(analysis: Analysis, prior: Prior) -> list[str]:
    """Why the figures of a prior may not be compared with those of now."""
    return [
        *_lungs_lacking(prior.shares, priors.shares(analysis.scores.regions)),
        *priors.differences(prior.technique, priors.technique(analysis)),
    ]


def _lungs_lacking(then: Mapping[Region, Shares], now: Mapping[Region, Shares]) -> Iterator[str]:
    """A lung that was measured in one of the two only: what is said of both lungs is then of one of them.

    A lung that has become all opaque is not found, and the score of both falls with it.
    """
    for side in (Region.RIGHT, Region.LEFT):
        measured_then, measured_now = (shares[side].severity is not None for shares in (then, now))
        if measured_then != measured_now:
            yield f"{side} lung not measured {'now' if measured_then else 'then'}"


def all_warnings(analysis: Analysis, found: Priors) -> Iterator[tuple[Prior, list[str]]]:
    """Of every prior that has any, latest first."""
    for prior in reversed(found.results):
        if told := warnings(analysis, prior):
            yield prior, told


def report(analysis: Analysis, found: Priors | None) -> dict[str, Any]:
    """The part of result.json: fractions of 1, percentage points as fractions too."""
    found = found or Priors()
    return {
        "technique": _technique(priors.technique(analysis)),
        "priors": [_prior(analysis, prior) for prior in found.results],
        "priors_search": found.search,
        "change": _changes(analysis, found.latest) if found.latest else None,
    }


def _prior(analysis: Analysis, prior: Prior) -> dict[str, Any]:
    """Without the patient's ID: result.json names nobody."""
    both = prior.shares[Region.BOTH]
    return {
        "acquired": prior.acquired,
        "study_uid": prior.study_uid,
        "sr_sop_instance_uid": [reference.sop_instance_uid for reference in prior.reports.values()],
        "origin": prior.origin,
        "severity_score": both.severity,
        "consolidation_score": both.consolidation,
        "left": _shares(prior.shares[Region.LEFT]),
        "right": _shares(prior.shares[Region.RIGHT]),
        "technique": _technique(prior.technique),
        "not_comparable": warnings(analysis, prior),
    }


def _shares(shares: Shares) -> Mapping[str, float | None]:
    return {"severity_score": shares.severity, "consolidation_score": shares.consolidation}


def _technique(technique: priors.Technique) -> dict[str, Any]:
    model = technique.model
    return {
        "model": {"name": model.name, "version": model.version, "digest": model.digest},
        "lungs": technique.lungs,
        "resampling": technique.resampling,
        "kernel": technique.kernel,
        "thickness_mm": technique.thickness_mm,
    }


def _changes(analysis: Analysis, prior: Prior) -> dict[str, Any]:
    of = changes(analysis, prior)
    return {
        "since": prior.acquired,
        "days": priors.days_between(prior.acquired, priors.first_acquired(analysis.volume.headers)),
        "severity_score": of[Region.BOTH].severity,
        "consolidation_score": of[Region.BOTH].consolidation,
        "left": {"severity_score": of[Region.LEFT].severity, "consolidation_score": of[Region.LEFT].consolidation},
        "right": {
            "severity_score": of[Region.RIGHT].severity,
            "consolidation_score": of[Region.RIGHT].consolidation,
        },
    }
