"""The CT in the picture: key slices with outlined findings, and a view from the front with the burden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import keyslices
from pipeline.arrays import MaskArray
from pipeline.notation import percent
from pipeline.picture_canvas import MUTED, PANEL, TEXT, Box, Canvas
from pipeline.picture_outlines import DASHED, draw_outline
from pipeline.subjects import DESCRIPTIONS, Subject
from pipeline.types import Analysis

WINDOW_CENTRE_HU, WINDOW_WIDTH_HU = -600.0, 1500.0
MARGIN_MM = 14.0
LABEL_PX = 15  # height of a number
FULL_BURDEN_MM = 60.0  # depth of opacity along the view that is drawn at full strength

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Cut:
    """The part of every axial slice that is shown, the same for all; first place, place behind the last."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    size_mm: tuple[float, float]  # (height, width)

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of an array whose last axes are (row, column)."""
        return array[..., self.rows[0] : self.rows[1], self.columns[0] : self.columns[1]]


def cut_to_lungs(analysis: Analysis) -> Cut:
    """The rectangle around both lungs in all slices; the whole slice where there is no lung."""
    _, row_mm, column_mm = analysis.volume.spacing_mm
    with_lung = np.any(analysis.lungs.labels, axis=0)
    rows = _extent(np.any(with_lung, axis=1), MARGIN_MM / row_mm)
    columns = _extent(np.any(with_lung, axis=0), MARGIN_MM / column_mm)
    return Cut(rows, columns, ((rows[1] - rows[0]) * row_mm, (columns[1] - columns[0]) * column_mm))


def _extent(occupied: npt.ArrayLike, margin: float) -> tuple[int, int]:
    """From the first true place to behind the last, with a margin; everything where none is true."""
    flags = np.asarray(occupied, bool)
    places = np.flatnonzero(flags)
    if not places.size:
        return 0, flags.size
    return max(0, int(places[0] - margin)), min(flags.size, int(places[-1] + margin) + 1)


def draw_slice(canvas: Canvas, box: Box, analysis: Analysis, cut: Cut, index: int, number: int) -> None:
    """One canonical slice, seen from the feet: the patient's right on the left, front on top."""
    canvas.panel(box)
    picture_box = fit(Box(box.left, box.top, box.right, box.bottom - 30).inset(4), cut.size_mm)
    size = (picture_box.width, picture_box.height)
    hu = cut.of(analysis.volume.hu[index]).astype(np.float32)
    grey = np.clip((hu - WINDOW_CENTRE_HU) / WINDOW_WIDTH_HU + 0.5, 0, 1) * 255
    picture = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    lesions = analysis.lesions
    for subject, mask in (
        (Subject.INFECTION, lesions.infection),
        (Subject.CONSOLIDATION, lesions.consolidation),
    ):
        draw_outline(picture, cut.of(mask[index]), DESCRIPTIONS[subject].rgb, dashed=subject in DASHED)
    canvas.image.paste(picture, (picture_box.left, picture_box.top))
    _sides(canvas, picture_box)
    canvas.text((box.left + 12, box.bottom - 10), f"{number}", 17, TEXT, weight="bold")
    canvas.text((box.left + 32, box.bottom - 10), keyslices.slice_name(analysis, index), 16, MUTED)
    canvas.text((box.right - 12, box.bottom - 10), _slice_burden(analysis, index), 16, MUTED, anchor="rs")


def _sides(canvas: Canvas, box: Box) -> None:
    canvas.mark((box.left + 8, box.top + 8), "R", anchor="lt")
    canvas.mark((box.right - 8, box.top + 8), "L", anchor="rt")


def _slice_burden(analysis: Analysis, index: int) -> str:
    """Share of the lung of this slice that is opaque."""
    lung = analysis.lungs.labels[index] > 0
    pixels, opaque = (int(np.count_nonzero(mask)) for mask in (lung, analysis.lesions.infection[index] & lung))
    return f"opacity {percent(opaque / pixels, decimals=0)} of lung" if pixels else "no lung found"


def draw_overview(canvas: Canvas, box: Box, analysis: Analysis, numbers: dict[int, int]) -> None:
    """The lungs from the front: how deep opacity and consolidation are along the view; levels of the key slices.

    Args:
        numbers: the number of each shown slice, by canonical index.
    """
    slice_mm, row_mm, column_mm = analysis.volume.spacing_mm
    cut = cut_to_lungs(analysis)
    low, high = _extent(np.any(analysis.lungs.labels, axis=(1, 2)), MARGIN_MM / slice_mm)
    size_mm = ((high - low) * slice_mm, cut.size_mm[1])
    picture_box = fit(Box(box.left + 34, box.top, box.right - 34, box.bottom), size_mm)
    depths = [
        _depth_mm(cut.of(mask[low:high]), row_mm, picture_box)
        for mask in (analysis.lungs.labels > 0, analysis.lesions.infection, analysis.lesions.consolidation)
    ]
    canvas.image.paste(Image.fromarray(_blend(*depths)), (picture_box.left, picture_box.top))
    _sides(canvas, picture_box)
    above = picture_box.top - LABEL_PX
    for index, number in numbers.items():  # from the head down
        if not low <= index < high:
            continue
        share = (high - index - 0.5) / (high - low)
        y = picture_box.top + round(share * picture_box.height)
        canvas.draw.line((picture_box.left - 12, y, picture_box.left - 2, y), fill=MUTED)
        canvas.draw.line((picture_box.right + 1, y, picture_box.right + 11, y), fill=MUTED)
        above = max(y, above + LABEL_PX)  # slices that lie close: no number is written over another
        canvas.text((picture_box.left - 16, above), str(number), 15, TEXT, anchor="rm")


def _depth_mm(mask: MaskArray, row_mm: float, box: Box) -> npt.NDArray[np.float32]:
    """Depth of a mask along the view from the front, head on top, at the size of `box`."""
    depth = (mask.sum(axis=1)[::-1] * row_mm).astype(np.float32)
    return np.asarray(Image.fromarray(depth).resize((box.width, box.height), Image.Resampling.BILINEAR))


def _blend(
    lung: npt.NDArray[np.float32], infection: npt.NDArray[np.float32], consolidation: npt.NDArray[np.float32]
) -> Picture:
    """Grey lungs, over them the colours of opacity and of consolidation by their depth."""
    shade = np.sqrt(np.clip(lung / max(1.0, float(lung.max())), 0, 1))[..., None]
    picture = np.array(PANEL) + 75 * shade
    for subject, depth in ((Subject.INFECTION, infection), (Subject.CONSOLIDATION, consolidation)):
        strength = np.sqrt(np.clip(depth / FULL_BURDEN_MM, 0, 1))[..., None]
        picture = (1 - strength) * picture + strength * np.array(DESCRIPTIONS[subject].rgb)
    return np.asarray(picture.round(), np.uint8)


def fit(box: Box, size_mm: tuple[float, float]) -> Box:
    """The largest box of the shape (height, width) in the middle of `box`."""
    scale = min(box.height / size_mm[0], box.width / size_mm[1])
    height, width = max(1, round(size_mm[0] * scale)), max(1, round(size_mm[1] * scale))
    left, top = box.left + (box.width - width) // 2, box.top + (box.height - height) // 2
    return Box(left, top, left + width, top + height)
