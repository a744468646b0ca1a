"""The synthetic chest in numbers, beside real series where there are some, and as a picture.

    python benchmarks/phantom.py [DICOM_FOLDER …] [--montage FILE.png]

For each series: percentiles of HU in the lungs (as the built-in method finds them, 8 mm inside their border, where
the wall plays no part), the share of voxels above −500 and −200 HU (vessels, airway walls, lesions), noise as the
robust standard deviation of what a blur of 2 mm takes away, in lung and in soft tissue. Real series are read only;
the picture shows the phantom alone: above the lung window, below that of soft tissue.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from pipeline import phantom, series_files, volume
from pipeline.lungs import builtin
from pipeline.phantom import Effusion, Lesion, PhantomSpec
from pipeline.types import Lung, PipelineSettings

HEALTHY = PhantomSpec(rows=512, columns=512, lesions=())
SPECS = {
    "phantom, 5 mm": HEALTHY,
    "phantom, 8 mm": replace(HEALTHY, slices=40, slice_spacing_mm=8.0),
    "phantom, 8 mm, sharp kernel": replace(HEALTHY, slices=40, slice_spacing_mm=8.0, kernel="sharp"),
}
ILL = PhantomSpec(
    slices=150,
    rows=512,
    columns=512,
    slice_spacing_mm=2.0,
    lesions=(
        Lesion("crazy_paving", Lung.RIGHT, (85, 20, 190), (32, 36, 40)),
        Lesion("ggo", Lung.LEFT, (85, -10, 190), (30, 36, 36)),
        Lesion("consolidation", Lung.LEFT, (80, 45, 120), (40, 36, 45)),
        Lesion("ggo", Lung.RIGHT, (75, 40, 110), (36, 34, 30)),
    ),
    effusions=(Effusion(Lung.RIGHT, 45, 150),),
)
WINDOWS = ((-1350, 150), (-160, 240))
HEIGHTS = (0.18, 0.33, 0.4, 0.5, 0.63, 0.85)  # of the slices that are shown
PERCENTILES = (5, 25, 50, 75, 95)
SIZES = ((16, 64), (24, 128), (64, 256), (64, 512))  # slices, rows
console = Console(width=140)


def robust_sd(values: NDArray[np.float32]) -> float:
    """From the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else float("nan")


def within(mask: NDArray[np.bool_], depth_mm: float, pixel_mm: float) -> NDArray[np.bool_]:
    """What lies so deep in a mask, in plane."""
    steps = max(1, int(depth_mm / pixel_mm))
    return np.asarray(ndimage.binary_erosion(mask, np.ones((1, 3, 3)), iterations=steps))


def figures(hu: NDArray[np.int16], spacing_mm: tuple[float, float, float]) -> list[str]:
    """The row of one series."""
    values, pixel_mm = hu.astype(np.float32), spacing_mm[1]
    lung = within(builtin(hu, spacing_mm) > 0, 8, pixel_mm)
    fine = values - ndimage.gaussian_filter(values, (0, 2 / pixel_mm, 2 / pixel_mm))
    soft = within((values > 0) & (values < 90), 6, pixel_mm)
    inside = values[lung]
    shares = [f"{(inside > level).mean():.1%}" for level in (-500, -200)]
    noise = [f"{robust_sd(fine[mask]):.0f}" if mask.any() else "–" for mask in (lung, soft)]
    return [*(f"{value:.0f}" for value in np.percentile(inside, PERCENTILES)), *shares, *noise]


def montage(file: Path) -> None:
    """Some slices of a chest with every kind of lesion."""
    drawn = phantom.make(ILL)
    rows = []
    for low, high in WINDOWS:
        slices = [drawn.hu[int(height * len(drawn.hu))] for height in HEIGHTS]
        grey = [np.clip((one.astype(np.float32) - low) * 255 / (high - low), 0, 255) for one in slices]
        cut = [one[60:460].astype(np.uint8) for one in grey]
        rows.append(
            np.hstack(
                [np.asarray(Image.fromarray(one).resize((384, 300), Image.Resampling.LANCZOS)) for one in cut]
            )
        )
    Image.fromarray(np.vstack(rows)).quantize(64).save(file, optimize=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path, nargs="*", help="folders of real CT series to compare with")
    parser.add_argument("--montage", type=Path, help="write a picture")
    asked = parser.parse_args()
    table = Table("series", *(f"{p} %" for p in PERCENTILES), "> −500", "> −200", "noise, lung", "noise, soft")
    for name, spec in SPECS.items():
        drawn = phantom.make(spec, seed=1)
        table.add_row(name, *figures(drawn.hu, drawn.spacing_mm))
    for folder in asked.series:
        for files in series_files.series_in(folder).values():
            ct = volume.load(files, PipelineSettings())
            table.add_row(folder.name, *figures(ct.hu, ct.spacing_mm))
    console.print(table)
    times = Table("slices", "rows", "seconds of processor time")
    for slices, rows in SIZES:
        began = time.process_time()
        phantom.make(PhantomSpec(slices=slices, rows=rows, columns=rows), seed=2)
        times.add_row(str(slices), str(rows), f"{time.process_time() - began:.2f}")
    console.print(times)
    if asked.montage:
        montage(asked.montage)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        main()
