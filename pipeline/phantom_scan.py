"""What a scanner does to the synthetic chest: the kernel's sharpness, and noise with the kernel's texture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from pipeline.phantom_grid import Floats

KernelName = Literal["soft", "sharp"]


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel.

    Attributes:
        name: as in the DICOM header (0018,1210).
        blur_mm: sigma of the point spread in plane; never less than two fifths of a pixel.
        overshoot: edge enhancement, 0 for none.
        grain: two sigmas in pixels; the noise is the difference of two blurs, low frequencies are missing in it.
        noise: standard deviation against that of a soft kernel at the same dose.
    """

    name: str
    blur_mm: float
    overshoot: float
    grain: tuple[float, float]
    noise: float


KERNELS: Mapping[KernelName, Kernel] = {
    "soft": Kernel("B40f", 0.75, 0.0, (0.7, 2.5), 1.0),
    "sharp": Kernel("B70f", 0.35, 0.7, (0.35, 1.0), 3.0),
}
WIDE_MM = 1.6  # of the blur that edge enhancement takes off
LEAST_PIXELS = 0.4


def averaged(length_mm: float, voxels_mm: tuple[float, float, float]) -> float:
    """What voxels of a size leave of the standard deviation of a texture with a correlation length."""
    kept = [length_mm / np.hypot(length_mm, size / np.sqrt(12)) for size in voxels_mm]
    return float(np.sqrt(np.prod(kept)))


def scan(hu: Floats, kernel: Kernel, voxel_mm: float, noise_hu: float, rng: np.random.Generator) -> Floats:
    """Blur, sharpen and add noise, slice by slice.

    Args:
        hu: as drawn, with hard edges.
        kernel: how.
        voxel_mm: size of a pixel.
        noise_hu: standard deviation with the soft kernel.
        rng: of the noise.
    """
    sigma = max(kernel.blur_mm / voxel_mm, LEAST_PIXELS)
    seen = _blur(hu, sigma)
    if kernel.overshoot:
        seen += np.float32(kernel.overshoot) * (seen - _blur(seen, WIDE_MM / voxel_mm))
    if noise_hu:
        grain = rng.standard_normal(hu.shape, dtype=np.float32)
        noise = _blur(grain, kernel.grain[0])
        noise -= _blur(noise, kernel.grain[1])
        noise *= np.float32(noise_hu * kernel.noise / max(float(noise.std()), 1e-6))
        seen += noise
    return seen


def _blur(image: Floats, sigma: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter(image, (0, sigma, sigma), truncate=3.0), dtype=np.float32)
