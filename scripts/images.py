"""Makes the pictures of the documents from phantoms: python scripts/images.py [FOLDER, default docs/images].

Those that show a viewer are made by `python -m scripts.viewer_images`, which needs a browser.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from pipeline import keyslices, phantom, picture, picture_series, priors, run
from pipeline.priors import Prior, Priors, Shares
from pipeline.types import Analysis, ObjectReference, PipelineSettings, Profile, Region, ResultContext


@dataclass(frozen=True)
class Case:
    """What is drawn, and what earlier results say: date → severity, consolidation."""

    spec: phantom.PhantomSpec
    earlier: Mapping[str, tuple[float, float]] | None = None


CASES = {
    "picture-phantom": Case(phantom.PhantomSpec(rows=512, columns=512)),
    "picture-healthy": Case(phantom.PhantomSpec(lesions=())),
    "picture-trend": Case(
        phantom.PhantomSpec(), {"2020-01-20": (0.21, 0.09), "2020-02-03": (0.31, 0.14), "2020-02-24": (0.15, 0.04)}
    ),
}
LARGE = "picture-phantom"  # of which a key slice is shown large
CREATED = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def main(folder: Path) -> None:
    """Analyse each phantom and keep its picture, with few colours so that the file stays small.

    They are chosen by coverage: by frequency the few orange pixels of a healthy chest would turn brown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            files = phantom.write_series(phantom.make(case.spec), Path(temporary) / "ct")
            analysis = run.analyse(files, PipelineSettings())
        context = ResultContext(CREATED, Profile(), priors=_priors(analysis, case.earlier or {}))
        page: Image.Image = picture.render(analysis, context)
        page.quantize(256, Image.Quantize.MAXCOVERAGE).save(folder / f"{name}.png", optimize=True)
        if name == LARGE:
            opaque = [analysis.lesions.infection[index].sum() for index in keyslices.shown_slices(analysis)[::-1]]
            fullest = picture_series.render(analysis)[opaque.index(max(opaque))]
            fullest.quantize(256, Image.Quantize.MAXCOVERAGE).save(folder / "slice-phantom.png", optimize=True)


def _priors(analysis: Analysis, earlier: Mapping[str, tuple[float, float]]) -> Priors | None:
    """Made up; the oldest is of a sharp kernel."""
    if not earlier:
        return None
    alike = priors.technique(analysis)
    results = tuple(
        Prior(
            patient_id=str(analysis.volume.headers[0].PatientID),
            patient_id_issuer="",
            acquired=acquired,
            study_uid=f"1.2.{number}",
            shares=dict.fromkeys(Region, Shares(*shares)),
            technique=alike if number else changed(alike, kernel="B70f"),
            reports={"default": ObjectReference(f"1.2.{number}", "1.3", "1.4", f"1.5.{number}")},
        )
        for number, (acquired, shares) in enumerate(earlier.items())
    )
    return Priors(results, f"{len(results)} earlier results of this patient; looked for in this node")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs" / "images")
