"""The installed training command: killed at any moment and given again, and shared by processes of torchrun."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from safetensors.torch import load_file

BIN = Path(sys.executable).parent
EPOCHS = 30  # of the recipe plain-frozen
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight single slices of 64 × 64 with a bright square."""
    root = tmp_path_factory.mktemp("cohort")
    for k in range(8):
        hu = np.full((1, 64, 64), -900, np.int16)
        hu[0, 10 + k : 30 + k, 20:40] = -500
        label = (hu > -900).astype(np.uint8)
        hu[0, 60:] = 40  # soft tissue: these are Hounsfield units of a chest
        for sub, array in (("ct", hu), ("label", label)):
            (root / sub).mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(root / sub / f"c{k}.nii.gz"))
    return root


def command(cohort: Path, out: Path) -> list[str]:
    given = ["--cohort", str(cohort), "--out", str(out), "--recipe", "plain-frozen", "--features", "4"]
    return [str(BIN / "dicomnode-train"), "unet1", *given, "--lungs", "none", "--device", "cpu", "--threads", "1"]


def started(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(arguments, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)


def finished(arguments: list[str], log: Path) -> None:
    running = started(arguments, log)
    assert running.wait(500) == 0, log.read_text()


def epochs(folder: Path) -> list[int]:
    path = folder / "log.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "network.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finished(command(cohort, folder / "run"), folder / "log")
    return folder / "run"


def test_a_run_that_is_killed_ends_with_the_same_bytes(cohort: Path, whole: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    for stop in (1, 7, 20):
        running = started(command(cohort, run), log)
        while len(epochs(run)) < stop and running.poll() is None:
            time.sleep(0.005)
        running.kill()
        assert running.wait(60) == -9, log.read_text()
        assert len(epochs(run)) < EPOCHS
    finished(command(cohort, run), log)
    assert weights(run) == weights(whole)
    assert epochs(run) == list(range(1, EPOCHS + 1))


def test_two_processes_train_one_network(cohort: Path, whole: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    shared = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "--no-python"]
    alone = command(cohort, run)
    del alone[alone.index("--device") : alone.index("--device") + 2]
    finished([*shared, *alone], log)
    assert len(re.findall("UNet-1 is in", log.read_text())) == 1
    assert epochs(run) == list(range(1, EPOCHS + 1))
    one, two = (load_file(folder / "network.safetensors") for folder in (whole, run))
    assert one.keys() == two.keys()
    first, second = (np.array([row["loss"] for row in losses(folder)], float) for folder in (whole, run))
    np.testing.assert_allclose(second[0], first[0], rtol=0.01)
    assert second[-1] < second[0]


def losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))
