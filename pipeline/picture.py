"""One page for viewers that show neither SEG nor SR: key slices, burden, figures, warnings, as Secondary Capture.

The page carries neither the patient's name nor a date: a corrected identity reaches the header of a reissued result
but never pixels that are already somewhere, and a de-identified study stays so. BurnedInAnnotation is therefore NO.
Where there are earlier results the page is longer by a trend panel, which cannot do without dates: then it is YES.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sr import CodedConcept
from PIL import Image
from pydicom.dataset import Dataset

from pipeline import (
    RESEARCH_USE_ONLY,
    SOFTWARE_NAME,
    __version__,
    accuracy,
    codes,
    header,
    keyslices,
    others,
    provenance,
)
from pipeline.capture import capture
from pipeline.header import SourceHeader, series_number
from pipeline.picture_canvas import AMBER, BACKGROUND, MUTED, SMALLEST, TEXT, Box, Canvas, wrap
from pipeline.picture_figures import (
    draw_bars,
    draw_headline,
    draw_legend,
    draw_table,
    draw_warnings,
    warnings_height,
)
from pipeline.picture_panels import cut_to_lungs, draw_overview, draw_slice
from pipeline.picture_trend import HEIGHT as TREND_HEIGHT
from pipeline.picture_trend import draw_trend
from pipeline.priors import NOT_LOOKED_FOR
from pipeline.types import Analysis, ResultContext, ResultKind

WIDTH, HEIGHT = 1600, 1000
_SLICES = Box(24, 84, 1096, 690)
_WARNINGS = Box(24, 702, 676, 976)
_ORIGIN = Box(688, 702, 1096, 976)
_FIGURES = Box(1112, 84, 1576, 976)
_TREND = Box(24, 988, 1576, 988 + TREND_HEIGHT)
_READING = "Outlines are segmented by software. They show how much of the lung is opaque, not why."


def build(analysis: Analysis, context: ResultContext) -> Dataset | None:
    """The picture as Secondary Capture Image (PS3.3 A.8.1), or None where the profile does not want it."""
    if not context.profile.picture:
        return None
    source = header.of_series(analysis.volume.headers)
    built = capture(
        np.asarray(render(analysis, context)),
        source,
        provenance.arguments(analysis, context, source, ResultKind.PICTURE),
    )
    ds = provenance.finish(built, analysis, context, source)
    describe(ds, source, shown_headers(analysis))
    ds.BurnedInAnnotation = "YES" if shows_dates(context) else "NO"
    return ds


def shows_dates(context: ResultContext) -> bool:
    """Whether the page has a trend panel."""
    return context.priors is not None and context.priors.latest is not None


def shown_headers(analysis: Analysis) -> list[Dataset]:
    """The source headers of the slices on the page, caudal to cranial."""
    shown = keyslices.shown_slices(analysis)
    return [analysis.volume.headers[keyslices.source_index(analysis, index)] for index in shown]


def describe(ds: Dataset, source: SourceHeader, shown: Sequence[Dataset]) -> None:
    """General Image and SC Equipment attributes (PS3.3 C.7.6.1, C.8.6.1) that highdicom does not set so."""
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.ConversionType = "SYN"
    ds.BodyPartExamined = "CHEST"
    ds.RecognizableVisualFeatures = "NO"
    ds.DerivationDescription = provenance.plain(f"Made by software. {RESEARCH_USE_ONLY}", 1024)
    ds.LossyImageCompression = source.ds.get("LossyImageCompression", "00") or "00"
    if ds.LossyImageCompression == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if keyword in source.ds:
                ds.add(source.ds[keyword])
    if shown:
        ds.SourceImageSequence = [source_image(image) for image in shown]


def source_image(image: Dataset) -> Dataset:
    """An item that names a source slice, for SourceImageSequence and SourceInstanceSequence."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.SOURCE_IMAGE)]
    return item


def render(analysis: Analysis, context: ResultContext) -> Image.Image:
    """The page, RGB, 1600 × 1000, longer where there are priors."""
    return draw(analysis, context).image


def draw(analysis: Analysis, context: ResultContext) -> Canvas:
    """The page with its words. Slices are numbered from the head down, also in the view from the front."""
    height = _TREND.bottom + 24 if shows_dates(context) else HEIGHT
    canvas = Canvas(Image.new("RGB", (WIDTH, height), BACKGROUND))
    shown = keyslices.shown_slices(analysis)[::-1]
    numbers = {index: number for number, index in enumerate(shown, start=1)}
    cut = cut_to_lungs(analysis)
    for index, cell in zip(shown, _SLICES.grid(2, 3, gap=10), strict=False):
        draw_slice(canvas, cell, analysis, cut, index, numbers[index])
    draw_warnings(canvas, _draw_others(canvas, context, analysis), analysis)
    _draw_figures(canvas, analysis, numbers)
    _draw_origin(canvas, analysis, context)
    _draw_title(canvas, analysis, context)
    if context.priors is not None and shows_dates(context):
        draw_trend(canvas, _TREND, analysis, context.priors)
    return canvas


def _draw_others(canvas: Canvas, context: ResultContext, analysis: Analysis) -> Box:
    """What else was in the study, below the warnings; the room that is left for these, which come first."""
    if not context.others:
        return _WARNINGS
    lines = wrap(f"Not analysed: {others.sentence(context.others)}", 15, _WARNINGS.width - 32)
    if _WARNINGS.bottom - _WARNINGS.top - 18 * len(lines) - 26 < warnings_height(analysis, _WARNINGS.width):
        lines = [f"Not analysed: {len(context.others)} other series of this study, see the report"]
    box = Box(_WARNINGS.left, _WARNINGS.bottom - 18 * len(lines) - 16, _WARNINGS.right, _WARNINGS.bottom)
    canvas.panel(box)
    for place, line in enumerate(lines):
        canvas.text((box.left + 16, box.top + 17 + 18 * place), line, 15, TEXT, anchor="lm")
    return Box(_WARNINGS.left, _WARNINGS.top, _WARNINGS.right, box.top - 10)


def _draw_figures(canvas: Canvas, analysis: Analysis, numbers: dict[int, int]) -> None:
    """The column on the right."""
    canvas.panel(_FIGURES)
    inner = _FIGURES.inset(12)
    draw_headline(canvas, Box(inner.left, inner.top, inner.right, inner.top + 110), analysis)
    draw_bars(canvas, Box(inner.left, inner.top + 124, inner.right, inner.top + 240), analysis)
    draw_legend(canvas, Box(inner.left, inner.top + 250, inner.right, inner.top + 270))
    draw_table(canvas, Box(inner.left, inner.top + 288, inner.right, inner.top + 490), analysis)
    draw_overview(canvas, Box(inner.left, inner.top + 506, inner.right, inner.bottom - 26), analysis, numbers)
    words = "From the front; colour strength: depth of opacity"
    canvas.text((inner.left, inner.bottom - 6), words, 15, MUTED, anchor="lm")


def _draw_title(canvas: Canvas, analysis: Analysis, context: ResultContext) -> None:
    """Title and banner."""
    source = header.of_series(analysis.volume.headers)
    number = series_number(source.ds)
    of_series = f"CT series {number}, " if number else ""
    canvas.text((24, 42), "Lung opacity on chest CT", 30, TEXT, anchor="lm", weight="bold")
    canvas.text((400, 45), f"{of_series}revision {context.revision}", 19, MUTED, anchor="lm")
    banner = Box(1112, 18, 1576, 68)
    canvas.panel(banner, AMBER)
    centre = ((banner.left + banner.right) // 2, (banner.top + banner.bottom) // 2)
    canvas.text(centre, RESEARCH_USE_ONLY, 19, BACKGROUND, anchor="mm", weight="bold")


def _draw_origin(canvas: Canvas, analysis: Analysis, context: ResultContext) -> None:
    """How to read the page, and what made it."""
    canvas.panel(_ORIGIN)
    model = analysis.model
    entries = {
        "": _READING,
        "Model": f"{model.name} {model.version}, digest {model.digest[:12]}",
        "Lungs": analysis.lungs.method,
        "Software": f"{SOFTWARE_NAME} {__version__}",
        "Accuracy": analysis.accuracy or accuracy.UNKNOWN,
        "Series complete": context.completeness,
        "Earlier results": context.priors.search if context.priors else NOT_LOOKED_FOR,
    }
    told = [provenance.plain(f"{name}: {words}" if name else words, 300) for name, words in entries.items()]
    size, paragraphs = _fitting(told, _ORIGIN.inset(14))
    y = _ORIGIN.top + 11 + size
    for lines in paragraphs:
        for line in lines:
            canvas.text((_ORIGIN.left + 16, y), line, size, MUTED, anchor="lm")
            y += size + 4
        y += 5


def _fitting(told: Sequence[str], box: Box) -> tuple[int, list[list[str]]]:
    """The largest size in which all of it has room, at most 15 pixels, and the lines of each paragraph."""
    for size in range(15, SMALLEST, -1):
        paragraphs = [wrap(words, size, box.width) for words in told]
        if sum((size + 4) * len(lines) + 5 for lines in paragraphs) <= box.height:
            return size, paragraphs
    return SMALLEST, [wrap(words, SMALLEST, box.width) for words in told]
