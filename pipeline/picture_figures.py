"""The numbers and words in the picture: severity, bars and table per lung, legend, warnings."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.notation import NOT_MEASURED, hounsfield, millilitres, percent
from pipeline.picture_canvas import AMBER, LINE, MUTED, PANEL, TEXT, Box, Canvas, Rgb, wrap
from pipeline.subjects import DESCRIPTIONS, Subject
from pipeline.types import Analysis, Region, RegionScores

BAR_ENDS = (0.1, 0.25, 0.5, 1.0)  # the bars end at the first that is long enough
CONSOLIDATION_RGB = DESCRIPTIONS[Subject.CONSOLIDATION].rgb
INFECTION_RGB = DESCRIPTIONS[Subject.INFECTION].rgb
WARNING_PX = (17, 16, 15, 14, 13)  # letters of the warnings: the largest in which all have room
LEADING_PX = 7  # from line to line, beside the letters
_SCORE_WIDTH = 184
_COLUMNS = {Region.BOTH: 244, Region.RIGHT: 342, Region.LEFT: 440}  # right ends of the columns of the table
_SIDES = {Region.RIGHT: "Right lung", Region.LEFT: "Left lung"}


def draw_headline(canvas: Canvas, box: Box, analysis: Analysis) -> None:
    """The severity score of both lungs and its class; the title says which lung it lacks."""
    regions = analysis.scores.regions
    both = regions[Region.BOTH]
    lacking = [side for side in _SIDES if regions[side].severity_score is None]
    without = f", {' and '.join(lacking)} not found" if lacking else ""
    title = f"Severity score, both lungs{without}"
    canvas.text((box.left, box.top + 16), title, 18, AMBER if lacking else MUTED, anchor="lm")
    score = percent(both.severity_score)
    canvas.text((box.left, box.top + 62), score, 52, TEXT, anchor="lm", weight="bold", width=_SCORE_WIDTH - 14)
    lines = (
        ["No opacity was segmented"]
        if not both.infection_volume_ml
        else [
            f"severity class {analysis.scores.severity_class}",
            f"{millilitres(both.infection_volume_ml)} of {millilitres(both.lung_volume_ml)} ml lung opaque",
            f"{millilitres(both.consolidation_volume_ml)} ml consolidated",
        ]
    )
    for number, line in enumerate(lines):
        canvas.text((box.left + _SCORE_WIDTH, box.top + 40 + 24 * number), line, 18, TEXT, anchor="lm")


def draw_bars(canvas: Canvas, box: Box, analysis: Analysis) -> None:
    """A bar per lung: ground glass, then consolidation, as parts of its volume; without scores no bar."""
    regions = {region: analysis.scores.regions[region] for region in _SIDES}
    end = next(end for end in BAR_ENDS if all((scores.severity_score or 0.0) <= end for scores in regions.values()))
    for row, (region, scores) in enumerate(regions.items()):
        top = box.top + row * 52
        canvas.text((box.left, top + 10), _SIDES[region], 17, TEXT, anchor="lm")
        if scores.ggo_score is None or scores.consolidation_score is None:
            canvas.text((box.right, top + 10), NOT_MEASURED, 17, AMBER, anchor="rm")
            continue
        words = f"{percent(scores.severity_score)}   {millilitres(scores.infection_volume_ml)} ml"
        canvas.text((box.right, top + 10), words, 17, TEXT, anchor="rm")
        bar = Box(box.left, top + 22, box.right, top + 40)
        _bar(canvas, bar, {INFECTION_RGB: scores.ggo_score, CONSOLIDATION_RGB: scores.consolidation_score}, end)
    y = box.top + 2 * 52 - 2
    canvas.text((box.left, y), "0 %", 14, MUTED, anchor="lm")
    canvas.text((box.right, y), f"{100 * end:.0f} % of the lung", 14, MUTED, anchor="rm")


def _bar(canvas: Canvas, box: Box, parts: Mapping[Rgb, float], end: float) -> None:
    canvas.draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=LINE)
    left = float(box.left)
    for colour, fraction in parts.items():
        right = left + fraction / end * box.width
        if round(right) > round(left):  # else it is thinner than a pixel
            canvas.draw.rectangle((round(left), box.top, round(right) - 1, box.bottom - 1), fill=colour)
        left = right


def draw_legend(canvas: Canvas, box: Box, has_bars: bool = True) -> None:
    """What the colours mean, on the outlines and, where there are any, in the bars."""
    entries: tuple[tuple[Rgb, str], ...] = (
        (INFECTION_RGB, f"opacity: solid{' (bars: ground glass)' if has_bars else ''}"),
        (CONSOLIDATION_RGB, "consolidation: dashed"),
    )
    left = box.left
    for colour, words in entries:
        canvas.draw.rectangle((left, box.top + 2, left + 16, box.top + 14), fill=colour)
        canvas.text((left + 24, box.top + 9), words, 15, MUTED, anchor="lm")
        left += 264


def draw_table(canvas: Canvas, box: Box, analysis: Analysis) -> None:
    """Figures of both lungs, right and left."""
    for region, right in _COLUMNS.items():
        canvas.text((box.left + right, box.top + 10), region.value, 15, MUTED, anchor="rm")
    for number, (name, cells) in enumerate(_rows(analysis).items(), start=1):
        y = box.top + 10 + 25 * number
        canvas.text((box.left, y), name, 16, TEXT, anchor="lm")
        for region, right in _COLUMNS.items():
            canvas.text((box.left + right, y), cells[region], 16, TEXT, anchor="rm", width=90)
        canvas.draw.line((box.left, y + 12, box.left + 440, y + 12), fill=LINE)


def _rows(analysis: Analysis) -> dict[str, dict[Region, str]]:
    columns = {region: _column(scores) for region, scores in analysis.scores.regions.items()}
    return {name: {region: cells[name] for region, cells in columns.items()} for name in columns[Region.BOTH]}


def _column(scores: RegionScores) -> dict[str, str]:
    """The cells of one region, by the name of their row; lesions in the remnant of a lung are no figure of it."""
    is_measured = scores.severity_score is not None
    return {
        "Lung, ml": millilitres(scores.lung_volume_ml),
        "Opacity, ml": millilitres(scores.infection_volume_ml) if is_measured else NOT_MEASURED,
        "Ground glass": percent(scores.ggo_score),
        "Consolidation, ml": millilitres(scores.consolidation_volume_ml) if is_measured else NOT_MEASURED,
        "Consolidation": percent(scores.consolidation_score),
        "Mean HU of lung": hounsfield(scores.lung_mean_hu),
        "Mean HU of opacity": hounsfield(scores.infection_mean_hu),
    }


def warnings_height(analysis: Analysis, width: int, size: int = WARNING_PX[0]) -> int:
    """Pixels that a box of this width needs for every flag, in letters of `size`."""
    lines = sum(len(wrapped) for wrapped in _wrapped_flags(analysis, width, size))
    return 70 + (size + LEADING_PX) * (lines - 1)


def _wrapped_flags(analysis: Analysis, width: int, size: int) -> list[list[str]]:
    return [wrap(flag.text, size, width - 52) for flag in analysis.flags]


def draw_warnings(canvas: Canvas, box: Box, analysis: Analysis) -> None:
    """Every flag in words, smaller where they are many; what still does not fit is counted: the report has it."""
    canvas.panel(box, PANEL)
    title, colour = ("Check before use", AMBER) if analysis.flags else ("No quality warnings", MUTED)
    canvas.text((box.left + 16, box.top + 26), title, 19, colour, anchor="lm", weight="bold")
    fitting = (size for size in WARNING_PX if warnings_height(analysis, box.width, size) <= box.height)
    size = next(fitting, WARNING_PX[-1])
    step, y, last = size + LEADING_PX, box.top + 56, box.bottom - 14
    flags = _wrapped_flags(analysis, box.width, size)
    for number, lines in enumerate(flags):
        is_last = number == len(flags) - 1
        if y + step * (len(lines) - (1 if is_last else 0)) > last:
            rest = len(flags) - number
            canvas.text((box.left + 36, y), f"and {rest} more: see the report", size, AMBER, anchor="lm")
            return
        canvas.draw.ellipse((box.left + 18, y - 3, box.left + 24, y + 3), fill=AMBER)
        for line in lines:
            canvas.text((box.left + 36, y), line, size, TEXT, anchor="lm")
            y += step
