"""Bronchi, arteries and veins of the synthetic chest: trees that fill their lobe.

A tree grows towards points strewn in its lobe: it goes part of the way to their middle, parts them in two along
their longest extent, and each half goes on by itself (as in Tawhai et al., J Appl Physiol 97, 2004). Radii follow
the number of points that a branch serves (Murray's law, with an exponent for lungs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.phantom_body import MAIN_AIRWAYS, PULMONARY_ARTERY
from pipeline.phantom_grid import Point, Structure, Tube, point

Points = npt.NDArray[np.float64]
ENDS_ML = 11.0  # of lung that one last branch serves
TIP_MM, EXPONENT = 0.95, 0.38
ON_THE_WAY = 0.42  # of the way to the middle of its points, where a branch parts
BRONCHIAL_GENERATIONS = 4
RIGHT, LEFT = MAIN_AIRWAYS[1].end, MAIN_AIRWAYS[2].end
INTERMEDIATE: Point = (-42.0, 20.0, 134.0)


@dataclass(frozen=True)
class Lobe:
    """Where the airway, the artery and the vein of a lobe come from, nominal mm."""

    airway: Point
    end: Point
    artery: Point
    vein: Point


LOBES: Mapping[Structure, Lobe] = {
    Structure.RIGHT_UPPER_LOBE: Lobe(RIGHT, (-52.0, 16.0, 174.0), PULMONARY_ARTERY[1].end, (-34.0, 2.0, 142.0)),
    Structure.RIGHT_MIDDLE_LOBE: Lobe(INTERMEDIATE, (-54.0, -2.0, 124.0), (-44.0, 8.0, 150.0), (-34.0, 6.0, 134.0)),
    Structure.RIGHT_LOWER_LOBE: Lobe(
        INTERMEDIATE, (-52.0, 32.0, 114.0), (-44.0, 10.0, 150.0), (-34.0, 18.0, 122.0)
    ),
    Structure.LEFT_UPPER_LOBE: Lobe(LEFT, (58.0, 6.0, 164.0), PULMONARY_ARTERY[2].end, (40.0, 4.0, 142.0)),
    Structure.LEFT_LOWER_LOBE: Lobe(LEFT, (58.0, 36.0, 122.0), PULMONARY_ARTERY[2].end, (40.0, 18.0, 122.0)),
}


@dataclass(frozen=True)
class Trees:
    """What is drawn in the lungs: bronchi are lumens, walls come around them."""

    arteries: list[Tube] = field(default_factory=list)
    veins: list[Tube] = field(default_factory=list)
    bronchi: list[Tube] = field(default_factory=list)


@lru_cache(maxsize=8)
def grow(seed: int, places: tuple[tuple[Structure, bytes], ...]) -> Trees:
    """Trees of both lungs.

    Args:
        seed: another one grows other trees in the same lobes.
        places: for each lobe, points that lie in it, one for each ml: float64 of (x, y, z) as bytes.
    """
    rng = np.random.default_rng(seed)
    trees = Trees()
    trees.bronchi.append(Tube(RIGHT, INTERMEDIATE, (5.5, 5.0)))
    trees.arteries.append(Tube(PULMONARY_ARTERY[1].end, (-44.0, 10.0, 150.0), (8.0, 6.5)))
    for structure, encoded in places:
        inside = np.frombuffer(encoded, np.float64).reshape(-1, 3)
        lobe = LOBES[structure]
        ends = max(4, int(len(inside) / ENDS_ML))
        served, drained = (_strewn(inside, ends, rng) for _ in range(2))
        _grow_veins(trees, lobe, drained)
        _grow_pairs(trees, lobe, served)
    return trees


def _strewn(inside: Points, count: int, rng: np.random.Generator) -> Points:
    """Points of a lobe, drawn without return and moved by up to some mm."""
    chosen = rng.choice(len(inside), size=min(count, len(inside)), replace=False)
    return inside[chosen] + rng.uniform(-4, 4, (len(chosen), 3))


def _grow_veins(trees: Trees, lobe: Lobe, served: Points) -> None:
    for tube, _ in _branches(np.array(lobe.vein), served, _radius(len(served))):
        trees.veins.append(tube)


def _grow_pairs(trees: Trees, lobe: Lobe, served: Points) -> None:
    """Bronchi with an artery beside each; the arteries go on where bronchi become too thin to be seen."""
    end, width = np.array(lobe.end), _radius(len(served))
    trees.bronchi.append(Tube(lobe.airway, lobe.end, (width + 0.6, width + 0.4)))
    beside = end + _aside(end - np.array(lobe.airway)) * (2 * width + 2)
    trees.arteries.append(Tube(lobe.artery, point(beside), (width + 1.2, width)))
    for tube, generation in _branches(end, served, width):
        start, far = np.array(tube.start), np.array(tube.end)
        aside = _aside(end - np.array(lobe.airway)) * (tube.radii_mm[0] + tube.radii_mm[1] + 2)
        if generation >= BRONCHIAL_GENERATIONS:
            aside *= 0.5 ** (generation - BRONCHIAL_GENERATIONS + 1)
        else:
            lumen = (0.85 * tube.radii_mm[0], 0.85 * tube.radii_mm[1])
            trees.bronchi.append(Tube(tube.start, tube.end, lumen))
        trees.arteries.append(Tube(point(start + aside), point(far + aside * 0.9), tube.radii_mm))


def _aside(axis: Points) -> Points:
    """A direction across an axis, unit length."""
    across = np.cross(axis, [0.0, 0.3, 1.0])
    return np.asarray(across / max(float(np.linalg.norm(across)), 1e-6))


def _radius(ends: int) -> float:
    return float(TIP_MM * ends**EXPONENT)


def _branches(start: Points, served: Points, radius_mm: float) -> list[tuple[Tube, int]]:
    """Tubes from a point to all points that it serves, with their generation, from the root outwards."""
    found = []
    waiting = [(start, served, radius_mm, 0)]
    while waiting:
        begin, points, width, generation = waiting.pop()
        last = len(points) == 1
        middle = points.mean(axis=0)
        end = middle if last else begin + ON_THE_WAY * (middle - begin)
        own = _radius(len(points))
        found.append((Tube(point(begin), point(end), (min(width, own * 1.15), own)), generation))
        if not last:
            longest = int(np.argmax(np.ptp(points, axis=0)))
            order = np.argsort(points[:, longest])
            half = len(points) // 2
            for part in (order[:half], order[half:]):
                waiting.append((end, points[part], own, generation + 1))
    return found
