"""The figures of the page with their captions, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from pipeline.package import Manifest
from training import figures, overlays, tables
from training.captions import CAPTIONS, Caption
from training.judge import Cohort, Judged
from training.overlays import Shown


def gallery(
    cohort: Cohort, found: dict[str, Any], manifest: Manifest, chosen: Sequence[tuple[Judged, Shown]]
) -> list[tuple[Caption, Figure]]:
    """Figures 2 to 7 and the two of Bland and Altman, from metrics and cases."""
    prior, limits = manifest.prior, manifest.preprocessing
    tests = {"consolidation": found["mann_whitney"], "threshold": found["mann_whitney_threshold"]}
    gammas = [tables.with_interval(found["rates"][name], "gamma", ".2f") for name in tests]
    numbers = {
        "severity": {"r": tables.with_interval(found["severity"], "pearson_r")},
        "rates": {"unet2": gammas[0], "rival": gammas[1]},
        "dilation": {"columns": str(limits.columns)},
    }
    drawn = {
        "severity": figures.scatter(cohort.labelled, "infection", "severity"),
        "sweep": figures.sweep(found["sweep"], prior.b2 if prior.family == "phi2" else None, limits),
        "rates": figures.rates(cohort, found["rates"]),
        "overlays": overlays.overlays(chosen),
        "dilation": figures.dilation(found["dilation"]),
        "boxes": figures.boxes(cohort, tests),
        "bland_altman": figures.bland_altman(cohort.labelled, found["severity"], "infection", "severity"),
        "bland_altman_consolidation": figures.bland_altman(
            cohort.of("consolidation"), found["consolidation_score"], "consolidation", "consolidation score"
        ),
    }
    return [(CAPTIONS[key].filled(**numbers.get(key, {})), figure) for key, figure in drawn.items()]
