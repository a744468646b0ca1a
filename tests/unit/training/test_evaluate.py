"""Evaluation goes through the node's own steps: lungs, stacks, masks; single slices and cases without lungs too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from torch import Tensor, nn

from pipeline import package, phantom
from pipeline.package import ModelPackage, Thresholds
from pipeline.phantom import PhantomSpec
from pipeline.preprocess import Preprocessing
from pipeline.types import ModelIdentity, PipelineSettings
from pipeline.unet import Architecture
from training import evaluate
from training.cohort import Case
from training.dataset import Source

SETTINGS = PipelineSettings(device="cpu")


class ByIntensity(nn.Module):
    """Opaque is what is denser than a limit in the centre slice; notes how far its neighbours differ from it."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.arch = Architecture(features=4)
        self.limit = limit
        self.neighbours: list[float] = []

    def probability(self, x: Tensor) -> Tensor:
        self.neighbours += (x - x[:, 3:4]).abs().amax(dim=(1, 2, 3)).tolist()
        return (x[:, 3] > self.limit).float()


def model() -> ModelPackage:
    manifest = SimpleNamespace(preprocessing=Preprocessing(rows=128, columns=128), thresholds=Thresholds())
    nets = (ByIntensity(3.4), ByIntensity(8.5))  # −650 and −89 HU
    return ModelPackage(Path("fake"), manifest, ModelIdentity("fake", "1", "0"), *nets)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def study() -> Source:
    made = phantom.make(PhantomSpec(slices=24, rows=128, columns=128, slice_spacing_mm=12.0, noise_hu=5.0), seed=1)
    label = made.lesions.infection.astype(np.uint8) + made.lesions.consolidation
    return Source(Case("study", "study", Path("study")), made.hu, label, None, made.spacing_mm)


def test_a_volume_is_judged_with_its_real_neighbours(study: Source) -> None:
    fake = model()
    found = evaluate.judge(study, fake, SETTINGS)
    assert found.infection_voxels == int((study.label >= 1).sum())  # type: ignore[operator]
    assert found.infection_inside > 0.8 * found.infection_voxels
    assert found.scores["infection"].dice > 0.4
    assert found.scores["consolidation"].both > 0
    assert min(fake.unet1.neighbours) > 0  # type: ignore[arg-type]


def test_repeated_shows_each_slice_to_itself(study: Source) -> None:
    fake = model()
    found = evaluate.judge(study, fake, SETTINGS, repeated=True)
    assert fake.unet1.neighbours[3::7] == [0.0] * len(study.hu)  # type: ignore[index]
    real = evaluate.judge(study, model(), SETTINGS)
    assert found.scores["infection"] == real.scores["infection"], "this rule looks at the centre slice only"


def test_a_single_slice_is_a_stack_of_itself(study: Source) -> None:
    k = 12
    single = replace(study, hu=study.hu[k : k + 1], label=study.label[k : k + 1])  # type: ignore[index]
    fake = model()
    found = evaluate.judge(single, fake, SETTINGS)
    assert found.infection_voxels == int((single.label >= 1).sum()) > 0  # type: ignore[operator]
    assert found.scores["infection"].dice > 0.3
    assert fake.unet1.neighbours[3::7] == [0.0]  # type: ignore[index]


def test_a_case_without_lungs_counts_as_nothing_found(study: Source) -> None:
    solid = replace(study, hu=np.full_like(study.hu, 40))
    found = evaluate.judge(solid, model(), SETTINGS)
    assert found.infection_inside == 0
    assert found.scores["infection"].dice == 0


def test_the_command_writes_metrics_and_tables(
    study: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, array in (("ct", study.hu), ("label", study.label)):
        (tmp_path / folder).mkdir()
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(study.spacing_mm[::-1])
        sitk.WriteImage(image, str(tmp_path / folder / "study.nii.gz"))
    monkeypatch.setattr(package, "load", lambda _: model())
    metrics = evaluate.evaluate(tmp_path, "label", None, SETTINGS, tmp_path / "out")
    assert set(metrics) == {"infection", "consolidation", "threshold", "lungs", "model"}
    assert metrics["infection"]["pooled"] == pytest.approx(
        evaluate.judge(study, model(), SETTINGS).scores["infection"].dice
    )
    assert 0 < metrics["lungs"]["consolidation_inside"] <= 1
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert (tmp_path / "out" / "infection.csv").read_text().count("\n") == 2
