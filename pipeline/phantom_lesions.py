"""Opacities of the synthetic lungs: ground glass with soft edges, crazy paving, consolidation.

Their shape and what they cover depend on no random number; the seed moves texture only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from pipeline.arrays import MaskArray
from pipeline.phantom_grid import Box, Canvas, Floats, Point, Slab, point

LesionKind = Literal["ggo", "crazy_paving", "consolidation"]
DENSITY = {"ggo": -585.0, "crazy_paving": -600.0, "consolidation": 12.0}
SOFT_MM = {"ggo": 8.0, "crazy_paving": 6.0, "consolidation": 1.5}  # width of the edge, half of it outside
TEXTURE_HU = {"ggo": 35.0, "crazy_paving": 25.0, "consolidation": 10.0}
TEXTURE_MM = 2.5
SEPTA_HU, SEPTA_MM, LOBULE_MM = -230.0, 0.9, 11.0


@dataclass(frozen=True)
class Blob:
    """A lesion as an ellipsoid in nominal mm, with a border that is not quite even."""

    kind: LesionKind
    centre: Point
    radii_mm: Point


def paint(canvas: Canvas, blob: Blob, within: MaskArray, rng: np.random.Generator) -> MaskArray | None:
    """Blend a lesion into the lung; the voxels of which it fills half or more, or None where it misses the slab."""
    slab, soft_mm = canvas.slab, SOFT_MM[blob.kind]
    centre, radii = np.array(blob.centre), np.array(blob.radii_mm)
    reach = radii + 2 * soft_mm
    box = slab.box(point(centre - reach), point(centre + reach))
    if box is None:
        return None
    part = slab.cut(box)
    depth = (1 - np.sqrt(part.ball(blob.centre, blob.radii_mm))) * np.float32(radii.min())  # mm, roughly
    depth += np.float32(0.06 * radii.min()) * _waves(part)
    share = 1 / (1 + np.exp(np.clip(depth * np.float32(-4 / soft_mm), -30, 30)))
    share *= within[box]
    sigma = (TEXTURE_MM / slab.slice_mm, TEXTURE_MM / slab.voxel_mm, TEXTURE_MM / slab.voxel_mm)
    texture = ndimage.gaussian_filter(rng.standard_normal(share.shape, dtype=np.float32), sigma, truncate=2.5)
    texture *= np.float32(TEXTURE_HU[blob.kind] / max(float(texture.std()), 1e-6))
    target = texture + np.float32(DENSITY[blob.kind])
    if blob.kind == "crazy_paving":
        _add_septa(target, part)
    target = np.maximum(canvas.hu[box], target)  # vessels show through ground glass
    canvas.hu[box] += share * (target - canvas.hu[box])
    return _placed(share >= 0.5, box, slab.shape)


def _placed(part: MaskArray, box: Box, shape: tuple[int, int, int]) -> MaskArray:
    whole = np.zeros(shape, dtype=bool)
    whole[box] = part
    return whole


def _waves(part: Slab) -> Floats:
    """An uneven border, −1 to 1, the same wherever the lesion lies on the grid."""
    x, y, z = part.x / 6.1, part.y / 5.3, part.z / 8.7
    return np.asarray(np.sin(x + 0.5 * np.sin(z)) * np.cos(y) * np.cos(0.7 * z), dtype=np.float32)


def _add_septa(target: Floats, part: Slab) -> None:
    """Thickened septa between lobules: the borders of the cells around a jittered lattice."""
    low = [float(axis.min()) - LOBULE_MM for axis in (part.z, part.y, part.x)]
    high = [float(axis.max()) + LOBULE_MM for axis in (part.z, part.y, part.x)]
    ranges = [np.arange(np.floor(a / LOBULE_MM), np.ceil(b / LOBULE_MM)) for a, b in zip(low, high, strict=True)]
    cells = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    jitter = np.sin(cells @ np.array([[12.9, 39.3, 7.1], [78.2, 11.5, 53.7], [37.7, 83.1, 19.9]]) * 43.7)
    tree = cKDTree((cells + 0.35 * jitter) * LOBULE_MM)
    at = np.stack(np.broadcast_arrays(part.z, part.y, part.x), axis=-1).reshape(-1, 3)
    distances, _ = tree.query(at, k=2)
    width = max(SEPTA_MM, 0.5 * part.voxel_mm)
    between = (distances[:, 1] - distances[:, 0]) / 2
    share = np.clip(1.5 - between / width, 0, 1).reshape(target.shape) * (SEPTA_MM / width)
    target += (share * (SEPTA_HU - target)).astype(np.float32)
