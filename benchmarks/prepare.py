"""Memory and speed of `dicomnode-train prepare` over many small phantom studies.

    python benchmarks/prepare.py --studies 1000 --jobs 2

Prints, for each tenth of the studies, how many are done and the resident memory of the command and of its workers;
then how fast the prepared cohort opens for training, and what it costs in memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk  # noqa: N813 - the name its own manual uses

from pipeline import phantom
from pipeline.preprocess import Preprocessing
from training import data, prepare
from training.data import Setting

DISTINCT = 8  # drawn; each study adds noise of its own
SPEC = phantom.PhantomSpec(slices=16, rows=96, columns=96, slice_spacing_mm=8.0, noise_hu=5.0)


def make(folder: Path, studies: int) -> None:
    """So many studies, every other one with a pixel label."""
    drawn = [phantom.make(SPEC, seed) for seed in range(DISTINCT)]
    (folder / "ct").mkdir(parents=True)
    (folder / "label").mkdir()
    rows = ["case,patient,consolidation"]
    for number in range(studies):
        chest = drawn[number % DISTINCT]
        noise = np.random.default_rng(number).integers(-20, 21, chest.hu.shape)
        write(folder / "ct" / f"s{number:05d}.nii.gz", (chest.hu + noise).astype(np.int16))
        if number % 2:
            label = chest.lesions.infection.astype(np.uint8) + chest.lesions.consolidation
            write(folder / "label" / f"s{number:05d}.nii.gz", label)
        rows.append(f"s{number:05d},p{number},1")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")


def write(path: Path, array: np.ndarray) -> None:
    """As NIfTI on the phantom's grid."""
    image = sitk.GetImageFromArray(array)
    slice_mm, row_mm, column_mm = SPEC.spacing_mm
    image.SetSpacing((column_mm, row_mm, slice_mm))
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def resident_mb() -> tuple[float, float]:
    """Of this process, and of its workers together."""
    me = psutil.Process()
    workers = 0
    for child in me.children(recursive=True):
        try:
            workers += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return me.memory_info().rss / 2**20, workers / 2**20


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--grid", type=int, default=64, help="rows and columns of the network grid")
    arguments = parser.parse_args()
    grid = Preprocessing(rows=arguments.grid, columns=arguments.grid)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "cohort", Path(name) / "prepared"
        make(folder, arguments.studies)
        begun = time.monotonic()
        print(f"{'studies':>8} {'seconds':>8} {'command MB':>11} {'workers MB':>11}")

        def done(count: int, total: int) -> None:
            if count % max(1, total // 10) == 0:
                mine, workers = resident_mb()
                print(f"{count:8d} {time.monotonic() - begun:8.1f} {mine:11.0f} {workers:11.0f}", flush=True)

        with prepare.executor(arguments.jobs) as pool:
            outcome = prepare.prepare(folder, out, grid, prepare.Lungs("builtin"), pool, done)
        took = time.monotonic() - begun
        entries, rejected = len(outcome.entries), len(outcome.rejected)
        print(f"{entries} prepared, {rejected} rejected, {entries / took:.1f}/s")
        before, _ = resident_mb()
        begun = time.monotonic()
        read = data.read(out, Setting(preprocessing=grid, lungs="builtin"), ("train",))
        after, _ = resident_mb()
        arrays = sum(path.stat().st_size for path in (out / "arrays").iterdir()) / 2**20
        took = time.monotonic() - begun
        print(f"opened {len(read.examples)} in {took:.1f} s: {after - before:.0f} MB more, {arrays:.0f} MB on disk")


if __name__ == "__main__":
    main()
