"""Random phantom studies with known lesions to train on beside real images: healthy, GGO only, and both kinds.

Image-level and pixel labels are exact. A network that has seen them keeps the drawn chest of the demonstration and
the self-test apart from disease; figures on real images come from real images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import Generator

from pipeline import phantom
from pipeline.phantom import Lesion, PhantomSpec
from pipeline.types import Lung
from training.cohort import Case
from training.dataset import Source

KINDS = ("healthy", "ggo", "ggo", "both", "both")  # equally likely
MAX_LESIONS = 5


def make(count: int, seed: int, masked: bool) -> list[Source]:
    """`count` studies of 40–64 slices; the seed gives the same voxels again.

    `masked` gives them their true lungs: a lung method would cut off lesions at the pleura, and the network would
    learn that what is dense is not there.
    """
    return [_study(f"phantom-{seed}-{k}", np.random.default_rng([seed, k]), masked) for k in range(count)]


def _study(name: str, rng: Generator, masked: bool) -> Source:
    kind = KINDS[int(rng.integers(len(KINDS)))]
    number = 0 if kind == "healthy" else int(rng.integers(1, MAX_LESIONS + 1))
    solid = 0.0 if kind == "ggo" else 0.5
    lesions = tuple(_lesion(rng, solid) for _ in range(number))
    spec = PhantomSpec(slices=int(rng.integers(40, 65)), lesions=lesions, noise_hu=float(rng.uniform(5, 30)))
    made = phantom.make(spec, int(rng.integers(0, 2**16)))
    label = made.lesions.infection.astype(np.uint8) + made.lesions.consolidation
    case = Case(
        name,
        name,
        Path(name),
        ggo=bool(made.lesions.ggo.any()),
        consolidation=bool(made.lesions.consolidation.any()),
    )
    return Source(case, made.hu, label, made.lungs.both if masked else None, made.spacing_mm)


def _lesion(rng: Generator, solid: float) -> Lesion:
    """Somewhere in a lung, 8–35 mm half axes, clipped at the pleura by the phantom."""
    centre = (float(rng.uniform(55, 110)), float(rng.uniform(-40, 65)), float(rng.uniform(40, 250)))
    size = rng.uniform(8, 35)
    radii = (float(size), float(size * rng.uniform(0.6, 1.4)), float(size * rng.uniform(0.6, 1.4)))
    return Lesion(
        "consolidation" if rng.random() < solid else "ggo",
        Lung.RIGHT if rng.random() < 0.5 else Lung.LEFT,
        centre,
        radii,
    )
