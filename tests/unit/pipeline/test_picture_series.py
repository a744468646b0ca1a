"""The key slices as frames of one object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom

from pipeline import keyslices, picture_series
from pipeline.priors import Priors
from pipeline.subjects import DESCRIPTIONS, Subject
from pipeline.types import Profile
from tests.fixtures import validators
from tests.fixtures.results import make_analysis, make_context, make_prior, through_bytes

BLUE = DESCRIPTIONS[Subject.INFECTION].rgb


def test_one_frame_for_each_slice_head_first(tool: Callable[[str], str], tmp_path: Path) -> None:
    analysis = make_analysis()
    priors = Priors((make_prior("2020-01-01", 0.2, 0.1),), "this node")
    built = picture_series.build(analysis, make_context(profile=Profile(slice_pictures=True), priors=priors))
    assert built is not None
    ds = through_bytes(built)
    shown = keyslices.shown_slices(analysis)
    assert ds.NumberOfFrames == len(shown) == len(ds.SourceImageSequence)
    assert ds.BurnedInAnnotation == "NO"  # dates stand on the page alone
    drawn = [np.asarray(frame) for frame in picture_series.render(analysis)]
    np.testing.assert_array_equal(ds.pixel_array, drawn)
    opaque = [int(analysis.lesions.infection[index].sum()) for index in shown[::-1]]
    outlined = [int((frame[:640] == BLUE).all(axis=-1).sum()) for frame in drawn]
    assert [count > 0 for count in opaque] == [count > 0 for count in outlined]
    length = np.sqrt(opaque)  # of an outline, but for its shape
    assert np.corrcoef(outlined, length)[0, 1] > max(0.7, np.corrcoef(outlined, length[::-1])[0, 1])
    pydicom.dcmwrite(tmp_path / "slices.dcm", ds, enforce_file_format=True)
    assert validators.dciodvfy(tool, tmp_path / "slices.dcm") == []


def test_only_where_the_profile_wants_it() -> None:
    assert picture_series.build(make_analysis(), make_context()) is None
