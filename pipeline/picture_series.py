"""The key slices large, one frame each: for viewers and conferences in which a reader scrolls.

A Multi-frame True Color Secondary Capture Image (PS3.3 A.8.5): one object, so that a set is never shown in part.
Head first, as the page numbers them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from pipeline import RESEARCH_USE_ONLY, header, keyslices, picture, provenance
from pipeline.capture import capture
from pipeline.picture_canvas import AMBER, BACKGROUND, Box, Canvas
from pipeline.picture_figures import draw_legend
from pipeline.picture_panels import cut_to_lungs, draw_slice
from pipeline.types import Analysis, ResultContext, ResultKind

WIDTH, HEIGHT = 768, 720
_SLICE = Box(0, 0, WIDTH, 654)
_FRAME_TIME_MS = 500.0  # for viewers that play what has frames
_FRAME_TIME = Tag(0x0018, 0x1063)


def build(analysis: Analysis, context: ResultContext) -> Dataset | None:
    """The object, or None where the profile does not want it."""
    if not context.profile.slice_pictures:
        return None
    source = header.of_series(analysis.volume.headers)
    frames = [np.asarray(frame) for frame in render(analysis)]
    built = capture(frames[0], source, provenance.arguments(analysis, context, source, ResultKind.SLICES))
    ds = provenance.finish(built, analysis, context, source)
    picture.describe(ds, source, picture.shown_headers(analysis))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    ds.BurnedInAnnotation = "NO"
    ds.NumberOfFrames = len(frames)
    ds.FrameIncrementPointer, ds.FrameTime = _FRAME_TIME, _FRAME_TIME_MS
    ds.PixelData = b"".join(frame.tobytes() for frame in frames)
    return ds


def render(analysis: Analysis) -> list[Image.Image]:
    """The frames, RGB."""
    cut = cut_to_lungs(analysis)
    frames = []
    for number, index in enumerate(keyslices.shown_slices(analysis)[::-1], start=1):
        canvas = Canvas(Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND))
        draw_slice(canvas, _SLICE, analysis, cut, index, number)
        draw_legend(canvas, Box(12, 662, WIDTH, 682), has_bars=False)
        canvas.text((12, 702), RESEARCH_USE_ONLY, 18, AMBER, anchor="lm", weight="bold")
        frames.append(canvas.image)
    return frames
