"""The synthetic chest, drawn slab by slab in Hounsfield units with the truth of every structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from pipeline import phantom_body, phantom_lesions, phantom_lungs, phantom_scan, phantom_trees
from pipeline.arrays import HuArray, LabelArray, MaskArray
from pipeline.phantom_grid import Canvas, Floats, Slab, Structure
from pipeline.phantom_lesions import Blob
from pipeline.phantom_lungs import Effusion
from pipeline.phantom_scan import Kernel
from pipeline.phantom_trees import Trees
from pipeline.types import Lung

BRONCHIAL_WALL_MM = 0.7
VISIBLE = 0.5  # vessels with a radius of less than this share of a voxel are not drawn
TEXTURE_HU, TEXTURE_MM = 42.0, 1.8
GRAVITY = 0.4  # HU per mm from front to back


@dataclass(frozen=True)
class Scene:
    """What is drawn besides the healthy chest, and how it is scanned."""

    trees: Trees
    blobs: Sequence[Blob]
    effusions: Sequence[Effusion]
    kernel: Kernel
    noise_hu: float


@dataclass(frozen=True)
class Drawn:
    """One slab: HU and truth; lesions lie inside the lungs, and consolidation covers the others."""

    hu: HuArray
    structure: LabelArray
    labels: LabelArray
    ggo: MaskArray
    crazy_paving: MaskArray
    consolidation: MaskArray


def draw(slab: Slab, scene: Scene, seed: int) -> Drawn:
    """Draw one slab. The same arguments give the same voxels."""
    rng = np.random.default_rng(seed)
    canvas = _anatomy(slab, scene.effusions)
    inside = phantom_lungs.lungs_of(canvas)
    labels = _sides(canvas, inside)
    if inside.any():
        _fill_lungs(canvas, inside, scene.trees, rng)
    masks = {kind: np.zeros(slab.shape, dtype=bool) for kind in phantom_lesions.DENSITY}
    for blob in sorted(scene.blobs, key=lambda blob: list(phantom_lesions.DENSITY).index(blob.kind)):
        covered = phantom_lesions.paint(canvas, blob, inside, rng)
        if covered is not None:
            masks[blob.kind] |= covered
    if inside.any():
        _paint_bronchi(canvas, scene.trees, inside)
    seen = phantom_scan.scan(canvas.hu, scene.kernel, slab.voxel_mm, scene.noise_hu, rng)
    solid = masks["consolidation"]
    paved = masks["crazy_paving"] & ~solid
    hu = np.clip(np.rint(seen, out=seen), -1024, 3071).astype(np.int16)
    return Drawn(hu, canvas.structure, labels, masks["ggo"] & ~solid & ~paved, paved, solid)


@lru_cache(maxsize=1)
def places() -> tuple[tuple[Structure, bytes], ...]:
    """Points in each lobe, about one for each ml, for the trees to grow to."""
    step = 10.0
    z, y, x = (np.arange(low, high, step, dtype=np.float32) for low, high in ((5, 300), (-140, 140), (-175, 175)))
    slab = Slab(z[:, None, None], y[None, :, None], x[None, None, :], step, step)
    structure = _anatomy(slab, ()).structure
    found = []
    for lobe in phantom_trees.LOBES:
        index = np.argwhere(structure == lobe)
        points = np.stack([x[index[:, 2]], y[index[:, 1]], z[index[:, 0]]], axis=1)
        found.append((lobe, points.astype(np.float64).tobytes()))
    return tuple(found)


def _anatomy(slab: Slab, effusions: Sequence[Effusion]) -> Canvas:
    """Everything that depends on no seed: the body, and lungs without anything in them."""
    canvas = Canvas.blank(slab)
    wall = phantom_lungs.shell(slab)
    phantom_body.paint_wall(canvas, wall)
    phantom_lungs.paint(canvas, wall)
    phantom_body.paint_mediastinum(canvas)
    phantom_body.paint_bones(canvas)
    phantom_body.paint_abdomen(canvas, wall)
    phantom_body.paint_airways(canvas)
    for effusion in effusions:
        phantom_lungs.paint_effusion(canvas, effusion, wall)
    return canvas


def _sides(canvas: Canvas, inside: MaskArray) -> LabelArray:
    labels = np.where(canvas.structure >= Structure.LEFT_UPPER_LOBE, np.uint8(Lung.LEFT), np.uint8(Lung.RIGHT))
    return labels * inside


def _fill_lungs(canvas: Canvas, inside: MaskArray, trees: Trees, rng: np.random.Generator) -> None:
    """Density of the lung, fissures and vessels."""
    slab = canvas.slab
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    part = slab.cut(box)
    texture = rng.standard_normal(part.shape, dtype=np.float32)
    sizes = (slab.slice_mm, slab.voxel_mm, slab.voxel_mm)
    texture = ndimage.gaussian_filter(texture, [TEXTURE_MM / size for size in sizes], truncate=2.5)
    seen_hu = TEXTURE_HU * phantom_scan.averaged(TEXTURE_MM, sizes)
    texture *= np.float32(seen_hu / max(float(texture.std()), 1e-6))
    texture += np.float32(GRAVITY) * (part.y + np.float32(90))
    canvas.hu[box] += texture * inside[box]
    _soften_dome(canvas, inside)
    phantom_lungs.paint_fissures(canvas, inside)
    smallest = VISIBLE * slab.voxel_mm
    for tubes, structure in ((trees.veins, Structure.VEINS), (trees.arteries, Structure.ARTERIES)):
        for tube in tubes:
            if tube.radii_mm[0] > smallest:
                canvas.tube(tube, structure, phantom_body.BLOOD, within=inside)


def _soften_dome(canvas: Canvas, inside: MaskArray) -> None:
    """Partial volume along z where lung and abdomen share a slice."""
    slab = canvas.slab
    share: Floats = np.clip((phantom_lungs.dome(slab) - slab.z) / np.float32(slab.slice_mm) + 0.5, 0, 1)
    if not share.any():
        return
    hu = canvas.hu
    hu += share * inside * (np.float32(phantom_body.MUSCLE) - hu)
    muscle = (canvas.structure == Structure.MUSCLE) & (share < 1) & (share >= 0.5)
    hu += (1 - share) * muscle * (np.float32(phantom_lungs.PARENCHYMA) - hu)


def _paint_bronchi(canvas: Canvas, trees: Trees, inside: MaskArray) -> None:
    """Walls, then lumens: through consolidation they show as an air bronchogram."""
    smallest = VISIBLE * canvas.slab.voxel_mm
    seen = [tube for tube in trees.bronchi if tube.radii_mm[0] > smallest]
    for tube in seen:
        wall = tube.wider(BRONCHIAL_WALL_MM)
        canvas.tube(wall, Structure.BRONCHIAL_WALL, 20.0, within=inside)
    for tube in seen:
        canvas.tube(tube, Structure.BRONCHI, phantom_body.AIR, within=inside)
