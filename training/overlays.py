"""Figure 5: slices with the expert's label and what the pipeline found over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.arrays import HuArray, LabelArray
from pipeline.subjects import Subject
from training.dataset import Source
from training.figures import colour
from training.judge import Found, Judged

WINDOW_HU = (-1200.0, 400.0)  # a lung window: level −400, width 1600
STRENGTH = 0.55  # of the colours over the grey
MARGIN = 12  # pixels around lungs and labels
GGO, SOLID, MISSED_LUNG = 1, 2, 3
COLOURS = {
    GGO: colour(Subject.GGO),
    SOLID: colour(Subject.CONSOLIDATION),
    MISSED_LUNG: (0.84, 0.15, 0.16),
}
COLUMNS = ("CT", "expert label", "pipeline: UNet-1, UNet-2", "rival: HU > −200")
EXAMPLES = 6


@dataclass(frozen=True)
class Shown:
    """One slice of a case, cropped; the marks hold 0, GGO, SOLID, and MISSED_LUNG in the expert's."""

    hu: HuArray
    expert: LabelArray
    pipeline: LabelArray
    rival: LabelArray
    aspect: float

    def save(self, path: Path) -> None:
        """Keep it on disk, so that memory does not grow with the number of cases."""
        marks = np.stack((self.expert, self.pipeline, self.rival))
        np.savez_compressed(path, hu=self.hu, marks=marks, aspect=self.aspect)

    @staticmethod
    def load(path: Path) -> Shown:
        """What `save` wrote."""
        with np.load(path) as held:
            expert, pipeline, rival = held["marks"]
            return Shown(held["hu"], expert, pipeline, rival, float(held["aspect"]))


def shown(source: Source, found: Found) -> Shown:
    """The slice with most labelled infection, or with most of what was found where there is no label."""
    seen = found.lesions.infection if source.label is None else source.label > 0
    k = int(np.argmax(seen.sum(axis=(1, 2))))
    infection, solid = found.lesions.infection[k], found.lesions.consolidation[k]
    expert = np.zeros(infection.shape, np.uint8) if source.label is None else source.label[k].copy()
    window = _window((expert > 0) | found.lungs[k])
    expert[(expert > 0) & ~found.lungs[k]] = MISSED_LUNG
    rival = infection.astype(np.uint8) + found.threshold(source.hu)[k]
    return Shown(
        source.hu[k][window],
        expert[window],
        (infection.astype(np.uint8) + solid)[window],
        rival.astype(np.uint8)[window],
        source.spacing_mm[1] / source.spacing_mm[2],
    )


def _window(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a mask with a margin; everything where it is empty."""
    if not mask.any():
        return slice(None), slice(None)
    ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    rows, columns = (slice(max(0, int(low) - MARGIN), int(high) + MARGIN + 1) for low, high in ends)
    return rows, columns


def choose(judged: Sequence[Judged]) -> list[Judged]:
    """Cases at even steps of infection Dice from worst to best: chosen by rule, not by looks."""
    labelled = [one for one in judged if one.pixels is not None and one.pixels.labelled["infection"]]
    ranked = sorted(labelled, key=infection_dice)
    places = np.linspace(0, len(ranked) - 1, min(EXAMPLES, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def infection_dice(one: Judged) -> float:
    """Of a case; NaN without label."""
    return one.pixels.scores["infection"].dice if one.pixels is not None else float("nan")


def overlays(chosen: Sequence[tuple[Judged, Shown]]) -> Figure:
    """One row per case."""
    figure = Figure(figsize=(11.6, 2.75 * max(len(chosen), 1) + 0.5), layout="constrained")
    grid = figure.subplots(max(len(chosen), 1), len(COLUMNS), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (one, slice_) in zip(grid, chosen, strict=False):
        grey = np.clip((slice_.hu - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]), 0, 1)
        none = np.zeros(slice_.hu.shape, np.uint8)
        for axes, marks in zip(row, (none, slice_.expert, slice_.pipeline, slice_.rival), strict=True):
            axes.imshow(_blend(grey, marks), aspect=slice_.aspect, interpolation="nearest")
        row[0].set_title(_words(one), fontsize=9, loc="left", parse_math=False)
    for axes, words in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(f"{words}\n{axes.get_title(loc='left') or ' '}", fontsize=9, loc="left", parse_math=False)
    figure.legend(
        handles=[
            Patch(color=COLOURS[GGO], label="infection that is not consolidation (GGO)"),
            Patch(color=COLOURS[SOLID], label="consolidation"),
            Patch(color=COLOURS[MISSED_LUNG], label="labelled, but outside the lungs that were found"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


def _words(one: Judged) -> str:
    words = f"{one.case.name}: infection Dice {infection_dice(one):.2f}"
    return f"{words}\n{one.fault}" if one.fault else words


def _blend(grey: npt.NDArray[np.floating], marks: LabelArray) -> npt.NDArray[np.float64]:
    picture = np.repeat(grey[..., None], 3, axis=2)
    for mark, rgb in COLOURS.items():
        at = marks == mark
        picture[at] = (1 - STRENGTH) * picture[at] + STRENGTH * np.array(rgb)
    return picture
