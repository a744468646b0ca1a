"""Synthetic opacities pasted into lungs whose border is known, for the lung network to learn from.

A threshold finds aerated lung and loses what is dense: consolidation has the density of the chest wall. So the
network learns from slices in which the lungs are aerated enough for their border to be seen, with opacities drawn
into them afterwards: whole lobes, pleural and basal ones, whole lungs, mottled ones; the border stays what it was.

Axes (row, column), values normalised as the networks see them (0 is −1024 HU). Draw apart from application.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage

from pipeline.arrays import MaskArray
from pipeline.preprocess import Preprocessing

Plane = npt.NDArray[np.float32]
Kind = Literal["lobe", "pleural", "whole", "mottled"]

KINDS: Mapping[Kind, float] = {"lobe": 0.35, "pleural": 0.35, "whole": 0.12, "mottled": 0.18}  # chances
BACK = 0.7  # chance that a lobe is the one at the back, where dense lung is found most
BOTH = 0.3  # chance that it is in both lungs
DENSE = 0.7  # chance of consolidation, else ground glass
DENSE_HU, GLASS_HU = (-60.0, 60.0), (-750.0, -150.0)
BRONCHI_HU = (-950.0, -500.0)
BRONCHOGRAM = 0.5  # chance, of a dense one
MOST = 3


@dataclass(frozen=True)
class Opacity:
    """One opacity. Lengths are fractions of the field of view's width, angles in radians.

    Attributes:
        both: it lies in all of the slice's lungs, else in one connected part of them.
        place: fraction 0 … 1 along the lung's pixels (its edge's, where pleural): where it sits.
        angle: of a lobe's border or an ellipse's axis.
        radius, elongation: of an ellipse.
        wobble, wobble_scale: how far its border strays, and over which length.
        level: of the noise above which it is mottled, in its standard deviations.
        hu, noise_hu, grain: its mean, its texture's standard deviation, and the texture's scale.
        soft: σ of its border.
        bronchi_hu, bronchi_level: air bronchograms and how rare they are; None: none.
        seed: of its noise.
    """

    kind: Kind
    both: bool
    place: float
    angle: float
    radius: float
    elongation: float
    wobble: float
    wobble_scale: float
    level: float
    hu: float
    noise_hu: float
    grain: float
    soft: float
    bronchi_hu: float | None
    bronchi_level: float
    seed: int


def draw(rng: Generator) -> tuple[Opacity, ...]:
    """One to three opacities."""
    return tuple(_one(rng) for _ in range(int(rng.integers(1, MOST + 1))))


def _one(rng: Generator) -> Opacity:
    dense = rng.random() < DENSE
    bronchi = dense and rng.random() < BRONCHOGRAM
    return Opacity(
        kind=list(KINDS)[int(rng.choice(len(KINDS), p=list(KINDS.values())))],
        both=rng.random() < BOTH,
        place=rng.random(),
        angle=np.pi / 2 + rng.uniform(-0.5, 0.5) if rng.random() < BACK else rng.uniform(0, 2 * np.pi),
        radius=rng.uniform(0.023, 0.25),
        elongation=rng.uniform(0.5, 2),
        wobble=rng.uniform(0.004, 0.027),
        wobble_scale=rng.uniform(0.03, 0.1),
        level=rng.uniform(0, 1.2),
        hu=rng.uniform(*(DENSE_HU if dense else GLASS_HU)),
        noise_hu=rng.uniform(10, 60) if dense else rng.uniform(30, 160),
        grain=rng.uniform(0.0025, 0.012),
        soft=rng.uniform(0.0025, 0.01),
        bronchi_hu=rng.uniform(*BRONCHI_HU) if bronchi else None,
        bronchi_level=rng.uniform(1.5, 2.5),
        seed=int(rng.integers(2**31)),
    )


def apply(plane: Plane, lungs: MaskArray, opacities: tuple[Opacity, ...], settings: Preprocessing) -> Plane:
    """The slice with opacities inside its lungs."""
    made = plane
    for weight, texture in _layers(lungs, opacities, settings):
        made = made + weight * (texture - made)
    if made is plane:
        return plane
    highest = (settings.hu_max - settings.hu_min) / settings.hu_per_unit
    return np.asarray(made.clip(0, highest), dtype=np.float32)


def _layers(
    lungs: MaskArray, opacities: tuple[Opacity, ...], settings: Preprocessing
) -> Iterator[tuple[Plane, Plane]]:
    """How much of each pixel each opacity takes, 0 to 1, and its values."""
    parts, count = ndimage.label(lungs)
    if count == 0:
        return
    areas = np.bincount(parts.ravel())[1:]
    for opacity in opacities:
        noise = np.random.default_rng(opacity.seed)
        lung = lungs if opacity.both else parts == 1 + noise.choice(count, p=areas / areas.sum())
        shape = _shape(opacity, lung, noise)
        texture = _texture(opacity, lungs.shape, noise, settings)
        soft = ndimage.gaussian_filter(shape.astype(np.float32), opacity.soft * lungs.shape[1])
        yield np.asarray(soft * lung, dtype=np.float32), texture


def _noise(noise: Generator, shape: tuple[int, ...], scale: float) -> Plane:
    """Smooth noise of standard deviation 1; `scale` as a fraction of the width."""
    smooth = ndimage.gaussian_filter(noise.standard_normal(shape, np.float32), scale * shape[1])
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), dtype=np.float32)


def _shape(opacity: Opacity, lung: MaskArray, noise: Generator) -> MaskArray:
    strays = _noise(noise, lung.shape, opacity.wobble_scale)
    return _SHAPES[opacity.kind](opacity, lung, strays) & lung


def _offsets(opacity: Opacity, among: MaskArray) -> tuple[Plane, Plane]:
    """Distances of every pixel from one of `among`, along and across the opacity's angle, in widths."""
    places = np.argwhere(among)
    row, column = places[min(int(opacity.place * len(places)), len(places) - 1)]
    down, right = np.indices(among.shape, dtype=np.float32)
    down, right = (down - row) / among.shape[1], (right - column) / among.shape[1]
    cos, sin = np.cos(opacity.angle), np.sin(opacity.angle)
    return down * sin + right * cos, down * cos - right * sin


def _lobe(opacity: Opacity, lung: MaskArray, strays: Plane) -> MaskArray:
    along, _ = _offsets(opacity, lung)
    return np.asarray(along + opacity.wobble * strays > 0)


def _pleural(opacity: Opacity, lung: MaskArray, strays: Plane) -> MaskArray:
    along, across = _offsets(opacity, lung & ~ndimage.binary_erosion(lung, iterations=2))
    distance = np.hypot(along * opacity.elongation, across / opacity.elongation)
    return np.asarray(distance + opacity.wobble * strays < opacity.radius)


def _whole(opacity: Opacity, lung: MaskArray, strays: Plane) -> MaskArray:
    return lung


def _mottled(opacity: Opacity, lung: MaskArray, strays: Plane) -> MaskArray:
    return np.asarray(strays > opacity.level)


_SHAPES: Mapping[Kind, Callable[[Opacity, MaskArray, Plane], MaskArray]] = {
    "lobe": _lobe,
    "pleural": _pleural,
    "whole": _whole,
    "mottled": _mottled,
}


def _texture(opacity: Opacity, shape: tuple[int, ...], noise: Generator, settings: Preprocessing) -> Plane:
    hu = opacity.hu + opacity.noise_hu * _noise(noise, shape, opacity.grain)
    if opacity.bronchi_hu is not None:
        hu = np.where(_noise(noise, shape, 2 * opacity.grain) > opacity.bronchi_level, opacity.bronchi_hu, hu)
    return np.asarray((hu - settings.hu_min) / settings.hu_per_unit, dtype=np.float32)
