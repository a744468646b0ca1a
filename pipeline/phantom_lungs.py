"""Shape of the lungs of the synthetic chest: cavity, mediastinum, diaphragm, fissures and lobes.

All functions take a slab in nominal mm and use no random numbers: lungs and lobes are the same for every seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import MaskArray
from pipeline.phantom_grid import Canvas, Floats, Slab, Structure
from pipeline.types import Lung

PARENCHYMA, FISSURE = -868.0, -640.0
MIDDLE_MM = 3.0  # where right and left meet
CLOSED = 0.004  # share of the chest's area at which it ends
FISSURE_MM = 0.8  # half the thickness of a fissure with the fluid in it


@dataclass(frozen=True)
class Effusion:
    """Fluid in one pleural space, lying behind: not lung and no opacity of it.

    Attributes:
        lung: the side.
        depth_mm: of the fluid at its deepest.
        top_mm: nominal height where it ends, 0 to 300.
    """

    lung: Lung
    depth_mm: float = 30.0
    top_mm: float = 160.0


def shell(slab: Slab) -> Floats:
    """Square of the distance from the middle of the chest in its radii; 1 on the pleura, more in the wall."""
    u = np.abs(slab.x)
    across, deep = (u / 130) ** 2, ((slab.y - 4) / 93) ** 2
    chest = across + deep - np.float32(0.15) * across * deep
    apex = (((u - 50) / 84) ** 2 + ((slab.y - 14) / 98) ** 2 + CLOSED) / narrowing(slab)
    return np.asarray(np.maximum(chest, apex), dtype=np.float32)


def narrowing(slab: Slab) -> Floats:
    """Area of the chest at each height against that at its widest: it closes at 282 mm."""
    return np.asarray(np.maximum(1 - (np.maximum(slab.z - 70, 0) / 212) ** 3, CLOSED / 2), dtype=np.float32)


def dome(slab: Slab) -> Floats:
    """Height of the diaphragm, nominal mm; the right dome is the higher one, the recess behind the deepest."""
    x, y = slab.x, slab.y
    right = 60 * np.exp(-(((x + 52) / 62) ** 2) - ((y / 74) ** 2))
    left = 46 * np.exp(-(((x - 60) / 60) ** 2) - ((y / 74) ** 2))
    return np.asarray(26 - 0.08 * y + right + left, dtype=np.float32)


def paint(canvas: Canvas, wall: Floats) -> None:
    """Paint the five lobes with air-filled lung from pleura to midline; mediastinum and abdomen cover it later."""
    slab = canvas.slab
    cavity = wall < 1
    left = np.broadcast_to(slab.x >= MIDDLE_MM, slab.shape)
    oblique, horizontal = _fissures(slab)
    lower, middle = oblique < 0, horizontal < 0
    canvas.fill(cavity, Structure.RIGHT_UPPER_LOBE, PARENCHYMA)
    for where, structure in (
        (middle, Structure.RIGHT_MIDDLE_LOBE),
        (lower, Structure.RIGHT_LOWER_LOBE),
        (left, Structure.LEFT_UPPER_LOBE),
        (left & lower, Structure.LEFT_LOWER_LOBE),
    ):
        np.copyto(canvas.structure, np.uint8(structure), where=where & cavity)


def paint_fissures(canvas: Canvas, inside: MaskArray) -> None:
    """Two pleural leaves between the lobes: thin and steep enough to be seen as faint lines."""
    slab = canvas.slab
    oblique, horizontal = _fissures(slab)
    steep = max(FISSURE_MM, 0.5 * slab.voxel_mm, 0.36 * slab.slice_mm)
    level = max(FISSURE_MM, 0.5 * slab.slice_mm)
    right = (slab.x < MIDDLE_MM) & (oblique > 0)
    for where, half in ((np.abs(oblique) < steep, steep), ((np.abs(horizontal) < level) & right, level)):
        leaf = where & inside
        np.copyto(canvas.structure, np.uint8(Structure.FISSURES), where=leaf)
        canvas.hu[leaf] += np.float32((FISSURE - PARENCHYMA) * FISSURE_MM / half)


def _fissures(slab: Slab) -> tuple[Floats, Floats]:
    """Distance above the oblique and above the horizontal fissure, nominal mm along their normals, roughly."""
    u = np.abs(slab.x)
    bend = 10 * ((u - 65) / 60) ** 2
    oblique = 0.72 * (slab.z - 132 - 1.0 * slab.y - bend)
    horizontal = slab.z - 158 + 14 * ((u - 62) / 45) ** 2 + 12 * ((slab.y + 25) / 50) ** 2
    return oblique.astype(np.float32), horizontal.astype(np.float32)


def lungs_of(canvas: Canvas) -> MaskArray:
    """What is lung, as painted so far."""
    return np.asarray(canvas.structure >= Structure.RIGHT_UPPER_LOBE)


def paint_effusion(canvas: Canvas, effusion: Effusion, wall: Floats) -> None:
    """A crescent behind that thins towards its top and sides."""
    slab = canvas.slab
    side = slab.x < MIDDLE_MM if effusion.lung == Lung.RIGHT else slab.x >= MIDDLE_MM
    height = np.clip(1 - slab.z / effusion.top_mm, 0, 1) ** 0.5
    level = 92 - effusion.depth_mm * height + 0.004 * (np.abs(slab.x) - 60) ** 2
    where = (slab.y > level) & side & (slab.z < effusion.top_mm) & (wall < 1) & lungs_of(canvas)
    canvas.fill(where, Structure.EFFUSION, 8.0)
