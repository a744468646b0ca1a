"""The trend panel: severity and consolidation of both lungs against earlier results, with dates and warnings.

Drawn only where there are priors. Two lines differ by colour, dash and marker; a hollow marker is a prior that may
not be comparable, and the words beside it say why. Time runs to scale as far as the dates stay legible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline import priors, trend
from pipeline.notation import NOT_MEASURED, percent, points
from pipeline.picture_canvas import AMBER, LINE, MUTED, PANEL, TEXT, Box, Canvas, Rgb, font, wrap
from pipeline.picture_figures import BAR_ENDS, CONSOLIDATION_RGB, INFECTION_RGB
from pipeline.priors import Priors, Shares
from pipeline.types import Analysis, Region

HEIGHT = 280
_CHART_SHARE = 0.6
_LABEL_PX = 112  # room for a date
_DASH_PX = 9
_SIDES = {Region.BOTH: "Both lungs", Region.RIGHT: "Right lung", Region.LEFT: "Left lung"}


@dataclass(frozen=True)
class _Point:
    """One examination in the chart."""

    acquired: str
    shares: Shares
    comparable: bool
    x: int


def draw_trend(canvas: Canvas, box: Box, analysis: Analysis, found: Priors) -> None:
    """The whole panel."""
    canvas.panel(box)
    middle = box.left + round(_CHART_SHARE * box.width)
    _draw_chart(canvas, Box(box.left, box.top, middle, box.bottom), analysis, found)
    _draw_words(canvas, Box(middle, box.top, box.right, box.bottom).inset(16), analysis, found)


def _draw_chart(canvas: Canvas, box: Box, analysis: Analysis, found: Priors) -> None:
    title = "Share of both lungs over time"
    canvas.text((box.left + 16, box.top + 24), title, 19, TEXT, anchor="lm", weight="bold")
    _draw_legend(canvas, box)
    plot = Box(box.left + 70, box.top + 66, box.right - 24, box.bottom - 62)
    examinations = _points(analysis, found, plot)
    end = _axis_end(examinations)
    for share in (0.0, end / 2, end):
        y = _y(plot, share, end)
        canvas.draw.line((plot.left - 6, y, plot.right, y), fill=LINE)
        canvas.text((plot.left - 12, y), f"{100 * share:g} %", 14, MUTED, anchor="rm")
    for point in examinations:
        _draw_date(canvas, plot, point, examinations[-1].acquired)
    for name, colour in (("consolidation", CONSOLIDATION_RGB), ("severity", INFECTION_RGB)):
        _draw_line(canvas, plot, examinations, name, colour, end)


def _draw_legend(canvas: Canvas, box: Box) -> None:
    left = box.left + 340
    for words, colour, square in (
        ("severity (opacity)", INFECTION_RGB, False),
        ("consolidation", CONSOLIDATION_RGB, True),
    ):
        _draw_marker(canvas, (left, box.top + 24), colour, square, filled=True)
        canvas.text((left + 14, box.top + 25), words, 15, MUTED, anchor="lm")
        left += 190
    _draw_marker(canvas, (left - 36, box.top + 24), MUTED, square=False, filled=False)
    canvas.text((left - 22, box.top + 25), "hollow: check before comparing", 15, MUTED, anchor="lm")


def _points(analysis: Analysis, found: Priors, plot: Box) -> list[_Point]:
    now = priors.first_acquired(analysis.volume.headers)
    shown = [
        (prior.acquired, prior.shares[Region.BOTH], not trend.warnings(analysis, prior)) for prior in found.results
    ]
    shown.append((now, priors.shares(analysis.scores.regions)[Region.BOTH], True))
    places = spread([priors.days_between(shown[0][0], moment) for moment, _, _ in shown], plot.width - _LABEL_PX)
    return [
        _Point(*examination, plot.left + _LABEL_PX // 2 + place)
        for examination, place in zip(shown, places, strict=True)
    ]


def spread(days: Sequence[int], width: int) -> list[int]:
    """Places from 0 to `width` in proportion to `days`, pushed apart where labels would overlap."""
    if len(days) < 2:
        return [width // 2] * len(days)
    gap = min(_LABEL_PX, width // (len(days) - 1))
    places = [round(width * day / max(1, days[-1])) for day in days]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    places[-1] = width
    for index in range(len(places) - 2, -1, -1):
        places[index] = max(index * gap, min(places[index], places[index + 1] - gap))
    return places


def _axis_end(examinations: Sequence[_Point]) -> float:
    highest = max((point.shares.severity or 0.0) for point in examinations)
    return next(end for end in BAR_ENDS if highest <= end)


def _y(plot: Box, share: float, end: float) -> int:
    return plot.bottom - round(share / end * plot.height)


def _draw_line(
    canvas: Canvas, plot: Box, examinations: Sequence[_Point], name: str, colour: Rgb, end: float
) -> None:
    """One series: what was not measured interrupts it."""
    square = name == "consolidation"
    places = [
        None if (share := getattr(point.shares, name)) is None else (point.x, _y(plot, share, end))
        for point in examinations
    ]
    for one, other in pairwise(places):
        if one is not None and other is not None:
            _draw_segment(canvas, one, other, colour, dashed=square)
    for point, place in zip(examinations, places, strict=True):
        if place is None:
            continue
        _draw_marker(canvas, place, colour, square, filled=point.comparable)
        below = 19 if square else -17
        _draw_label(canvas, (place[0], place[1] + below), percent(getattr(point.shares, name)), colour)


def _draw_segment(
    canvas: Canvas, one: tuple[int, int], other: tuple[int, int], colour: Rgb, *, dashed: bool
) -> None:
    if not dashed:
        canvas.draw.line((*one, *other), fill=colour, width=3)
        return
    pieces = max(1, round(abs(other[0] - one[0]) / _DASH_PX))
    for piece in range(0, pieces, 2):
        ends = [
            tuple(a + (b - a) * min(part, pieces) / pieces for a, b in zip(one, other, strict=True))
            for part in (piece, piece + 1)
        ]
        canvas.draw.line((*ends[0], *ends[1]), fill=colour, width=3)


def _draw_marker(canvas: Canvas, at: tuple[int, int], colour: Rgb, square: bool, filled: bool) -> None:
    shape = (at[0] - 6, at[1] - 6, at[0] + 6, at[1] + 6)
    draw = canvas.draw.rectangle if square else canvas.draw.ellipse
    draw(shape, fill=colour if filled else PANEL, outline=colour, width=3)


def _draw_label(canvas: Canvas, at: tuple[int, int], words: str, colour: Rgb) -> None:
    """On ground of its own, so that no line runs through it."""
    left, top, right, bottom = canvas.draw.textbbox(at, words, font=font(15), anchor="mm")
    canvas.draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=PANEL)
    canvas.text(at, words, 15, colour, anchor="mm")


def _draw_date(canvas: Canvas, plot: Box, point: _Point, now: str) -> None:
    canvas.draw.line((point.x, plot.bottom, point.x, plot.bottom + 5), fill=MUTED)
    is_now = point.acquired == now
    date_colour = TEXT if is_now else MUTED
    canvas.text((point.x, plot.bottom + 35), point.acquired[:10], 15, date_colour, anchor="mm")
    days = priors.days_between(point.acquired, now)
    words = "this CT" if is_now else f"{days} d before" if days else "same day"
    canvas.text((point.x, plot.bottom + 50), words, 13, date_colour, anchor="mm")


def _draw_words(canvas: Canvas, box: Box, analysis: Analysis, found: Priors) -> None:
    """Change since the latest prior for both lungs and each, then every warning."""
    if found.latest is None:
        return
    y = box.top + 8
    title = f"Change since {found.latest.acquired[:10]}, percentage points"
    canvas.text((box.left, y), title, 19, TEXT, anchor="lm", weight="bold", width=box.width)
    columns = {"severity": box.left + 330, "consolidation": box.left + 560}
    for name, right in columns.items():
        canvas.text((right, y + 28), name, 15, MUTED, anchor="rm")
    now, changes = priors.shares(analysis.scores.regions), trend.changes(analysis, found.latest)
    for row, (region, words) in enumerate(_SIDES.items()):
        at = y + 52 + 24 * row
        canvas.text((box.left, at), words, 16, TEXT, anchor="lm")
        for name, right in columns.items():
            told = _told(
                getattr(found.latest.shares[region], name),
                getattr(now[region], name),
                getattr(changes[region], name),
            )
            canvas.text((right, at), told, 16, TEXT, anchor="rm", width=220)
    _draw_warnings(canvas, Box(box.left, y + 130, box.right, box.bottom), analysis, found)


def _told(before: float | None, now: float | None, change: float | None) -> str:
    if change is None:
        return NOT_MEASURED
    return f"{percent(before)} to {percent(now)}   {points(change)}"


def _draw_warnings(canvas: Canvas, box: Box, analysis: Analysis, found: Priors) -> None:
    """Latest prior first; what does not fit is counted and left to the report."""
    told = [f"{prior.acquired[:10]}: {'; '.join(words)}" for prior, words in trend.all_warnings(analysis, found)]
    if not told:
        canvas.text((box.left, box.top), "Obtained alike: model, kernel class, thickness", 15, MUTED, anchor="lm")
        return
    canvas.text((box.left, box.top), "Check before comparing", 16, AMBER, anchor="lm", weight="bold")
    y = box.top + 22
    for number, words in enumerate(told):
        lines = wrap(words, 14, box.width)
        if y + 17 * (len(lines) - 1) > box.bottom - (17 if number < len(told) - 1 else 0):
            canvas.text((box.left, y), f"and {len(told) - number} more: see the report", 14, AMBER, anchor="lm")
            return
        for line in lines:
            canvas.text((box.left, y), line, 14, TEXT, anchor="lm")
            y += 17
