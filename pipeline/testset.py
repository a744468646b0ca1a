"""Marked test objects: the result set of a synthetic chest with known lesions, for a patient who says TEST.

For a site to see what its archive takes and what its viewers show, before the first patient comes. The masks are
the truth of the phantom: no model is needed, and nothing is segmented.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline import __version__, phantom, run, scores
from pipeline.arrays import LungMask
from pipeline.types import Analysis, Flag, ModelIdentity, Profile, ResultContext, ResultObject

PATIENT_NAME, PATIENT_ID = "TEST^DICOMNODE", "DICOMNODE-TEST"
SPEC = phantom.PhantomSpec(slices=32, rows=256, columns=256, slice_spacing_mm=10.0)
_WARNING = Flag("TEST", "TEST OBJECT: a synthetic chest with drawn lesions, not a patient.")
_METHOD = "TEST: drawn, not segmented"


@dataclass(frozen=True)
class TestSet:
    """The objects, and the CT that they refer to where it was asked for."""

    objects: tuple[ResultObject, ...]
    ct: tuple[Path, ...]


def write(folder: Path, profile: Profile, created: datetime, with_ct: bool = False) -> TestSet:
    """A result set for a profile, built and checked like any other; another `created` gives other UIDs.

    Args:
        folder: where the files go.
        profile: of the destination.
        created: time zone aware; also the time of the study.
        with_ct: write the slices too, so that a viewer can draw the outlines on them.
    """
    drawn = phantom.make(SPEC)
    options = phantom.SeriesOptions(uid_seed=f"test objects {created.isoformat()}", attributes=_marks(created))
    lungs = LungMask(drawn.lungs.labels, _METHOD)
    ct = phantom.as_volume(drawn, options)
    digest = hashlib.sha256(options.uid_seed.encode()).hexdigest()
    analysis = Analysis(
        volume=ct,
        lungs=lungs,
        lesions=drawn.lesions,
        scores=scores.measure(ct, lungs, drawn.lesions),
        flags=(_WARNING,),
        model=ModelIdentity("TEST", __version__, digest),
        source_digest=digest,
    )
    context = ResultContext(created=created, profile=profile, completeness="TEST: the series was drawn")
    objects = run.write_results(analysis, context, folder / "results")
    files = phantom.write_series(drawn, folder / "ct", options) if with_ct else []
    return TestSet(tuple(objects), tuple(files))


def _marks(created: datetime) -> dict[str, str]:
    """What tells everybody who meets the objects that they are no patient's."""
    date, time = f"{created:%Y%m%d}", f"{created:%H%M%S}"
    return {
        "PatientName": PATIENT_NAME,
        "PatientID": PATIENT_ID,
        "AccessionNumber": "DICOMNODE-TEST",
        "StudyID": "TEST",
        "StudyDescription": "TEST OBJECTS - NOT A PATIENT",
        "SeriesDescription": "TEST - synthetic chest, not a patient",
        "StudyDate": date,
        "SeriesDate": date,
        "AcquisitionDate": date,
        "ContentDate": date,
        "StudyTime": time,
        "SeriesTime": time,
    }
