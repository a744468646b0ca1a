"""The lung network: opacities stay in the lungs, borders are believed where they may be, a package finds lung."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import lung_network, package, phantom
from pipeline.lungs import NETWORK_METHOD, segment
from pipeline.package import Licence
from pipeline.phantom import PhantomSpec, as_volume
from pipeline.preprocess import Preprocessing
from pipeline.types import PipelineSettings
from pipeline.unet import Architecture
from training import export, finished, lung_origin, lungs, opacities, runs
from training.cohort import Case
from training.data import Setting
from training.dataset import Source
from training.errors import CohortError, RunError
from training.export import Label
from training.losses import image_dice_loss
from training.recipes import LUNGS, EmRecipe, LungRecipe, Recipe
from training.runs import LungData, Where

LICENCE = Licence(name="none", url="https://example.org", notice="phantoms")
GRID = Preprocessing(rows=64, columns=64)
SETTING = Setting(architecture=Architecture(features=4, slices=1), preprocessing=GRID, lungs="builtin", phantoms=1)
FEW = LungRecipe(name="few", epochs=2, batch=4, rate=1e-3, slices=16, threshold=0.6, threshold_if_wide=0.45)


def discs(size: int = 64) -> np.ndarray:
    """Two lungs."""
    rows, columns = np.indices((size, size))
    return np.logical_or(*(np.hypot(rows - 32, (columns - middle) * 1.5) < 20 for middle in (16, 48)))


def source(hu: np.ndarray, lung: np.ndarray | None, label: np.ndarray | None = None) -> Source:
    return Source(Case("one", "one", Path("one")), hu.astype(np.int16), label, lung, (5.0, 5.0, 5.0))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_opacity_changes_lung_only_and_keeps_the_range(seed: int) -> None:
    drawn = opacities.draw(np.random.default_rng(seed))
    plane = np.where(discs(), 1.5, 9.0).astype(np.float32)
    made = opacities.apply(plane, discs(), drawn, GRID)
    assert np.array_equal(made[~discs()], plane[~discs()])
    assert made.min() >= 0
    assert made.max() <= (GRID.hu_max - GRID.hu_min) / GRID.hu_per_unit
    assert made.dtype == np.float32
    assert np.array_equal(made, opacities.apply(plane, discs(), drawn, GRID))


def test_a_whole_dense_opacity_makes_a_lung_as_dense_as_it_says() -> None:
    one = opacities.draw(np.random.default_rng(1))[0]
    dense = replace(one, kind="whole", both=True, hu=30.0, noise_hu=0.0, soft=0.001, bronchi_hu=None)
    made = opacities.apply(np.where(discs(), 1.5, 9.0).astype(np.float32), discs(), (dense,), GRID)
    assert made[discs()] == pytest.approx((30 + 1024) / 110, abs=1e-3)


def test_without_lungs_nothing_is_pasted() -> None:
    plane = np.full((64, 64), 9.0, np.float32)
    drawn = opacities.draw(np.random.default_rng(2))
    assert opacities.apply(plane, np.zeros((64, 64), np.bool_), drawn, GRID) is plane


def test_the_border_holds_labelled_infection_that_the_mask_left_out() -> None:
    lung, label = discs()[None], np.zeros((1, 64, 64), np.uint8)
    label[0, 30:34, 14:18] = 2
    hole = lung.copy()
    hole[0, 30:34, 14:18] = False
    made = lungs.example(source(np.where(lung, -850, 40), hole, label), GRID)
    assert made is not None
    assert bool(made.label[0][label[0] > 0].all())


@pytest.mark.parametrize("rows", [slice(12, 40), slice(30, 52)])
def test_slices_with_much_or_lost_infection_are_left_out(rows: slice) -> None:
    lung, label = discs()[None], np.zeros((1, 64, 64), np.uint8)
    label[0, rows] = discs()[rows] * 2
    mask = lung if rows.start == 12 else lung & (label == 0)
    shown = source(np.where(lung, -850, 40), mask, label)
    assert lungs.example(shown, GRID) is None
    by_experts = lungs.example(shown, GRID, experts=True)
    assert by_experts is not None
    assert bool(by_experts.label[0][torch.from_numpy(label[0] > 0)].all())


def test_without_a_mask_there_is_nothing_to_learn() -> None:
    with pytest.raises(CohortError, match="no lungs"):
        lungs.example(source(np.zeros((1, 64, 64)), None), GRID)


def test_another_recipe_and_absent_data_are_refused(tmp_path: Path) -> None:
    where = Where(tmp_path, "cpu")
    with pytest.raises(RunError, match="not one of the lung network"):
        lungs.fit([], SETTING.architecture, GRID, where.run("", Recipe(name="r", epochs=1, rate=1), 1, SETTING, ()))
    with pytest.raises(CohortError, match="a kind of data has none"):
        lungs.fit([], SETTING.architecture, GRID, where.run("", LUNGS["lungs"], 1, SETTING, ()))


def test_it_learns_from_no_case_of_a_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "ct" / name).mkdir(parents=True)
    (tmp_path / "cases.csv").write_text("case,split\na,train\nb,validation\nc,test\n")
    asked: list[list[str]] = []

    def sources(cases: Sequence[Case], lungs: str) -> list[Source]:
        asked.append([case.name for case in cases])
        return []

    monkeypatch.setattr(runs.data, "sources", sources)
    with pytest.raises(CohortError, match="a kind of data has none"):
        of = LungData([tmp_path], tmp_path, "label")
        runs.all_data_lungs(of, SETTING.model_copy(update={"phantoms": 0}), FEW, 1, Where(tmp_path / "run", "cpu"))
    assert asked == [["a"], ["a", "b"]], "as the other networks do with a cohort and with volumes"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lungs")
    runs.all_data_lungs(LungData((), None, "label"), SETTING, FEW, 1, Where(folder, "cpu"))
    return folder


class TestFromPhantomsToPackage:
    """A network of 4 channels after a few steps: what it finds is poor, how it is used is whole."""

    def test_the_run_is_not_taken_for_another_network(self, run: Path) -> None:
        assert finished.read(run, LungRecipe).recipe == FEW
        for kind, name in ((Recipe, "UNet-1"), (EmRecipe, "UNet-2")):
            with pytest.raises(RunError, match=f"a run of the lung network, not of {name}"):
                finished.read(run, kind)

    def test_a_package_finds_lungs_by_it(self, run: Path, tmp_path: Path) -> None:
        made = phantom.make(PhantomSpec(slices=12, rows=96, columns=96, slice_spacing_mm=20.0))
        first, second = (tmp_path / name for name in ("one", "two"))
        recipes = {first: Recipe(name="r", epochs=1, rate=1e-3), second: EmRecipe(name="e", epochs=1, rate=1e-3)}
        for folder, recipe in recipes.items():
            net = finished.read(run, LungRecipe).net
            setting = SETTING.model_copy(update={"data_sha256": "0" * 64})
            kept = Where(folder, "cpu").run("", recipe, 1, setting, ())
            folder.mkdir()
            (folder / "run.json").write_text(json.dumps(kept.identity()))
            finished.keep(folder, net)
        label = Label("tiny", "1", ("phantoms",), LICENCE, {}, {})
        shipped = export.export(first, second, label, tmp_path / "package", run)
        assert shipped.manifest.lungs is not None
        network = lung_network.of(package.load(tmp_path / "package"), PipelineSettings(device="cpu"))
        assert network is not None
        volume = as_volume(made)
        found = segment(volume, None, "cpu", network)
        assert found.method == NETWORK_METHOD
        assert (found.both & made.lungs.both).sum() > 0.9 * made.lungs.both.sum()
        both = (found.labels > 0) & made.lungs.both
        assert (found.labels == made.lungs.labels)[both].mean() > 0.99  # so few steps leave the border rough

    def test_the_thresholds_of_its_recipe_reach_the_package(self, run: Path) -> None:
        told = lung_origin.read(run).thresholds
        assert (told.lungs, told.lungs_if_wide) == (FEW.threshold, FEW.threshold_if_wide) == (0.6, 0.45)

    def test_a_package_whose_lung_network_sees_several_slices_is_refused(self) -> None:
        entry = {"architecture": {"slices": 7}, "file": "lungs.safetensors", "sha256": "0" * 64}
        with pytest.raises(ValueError, match="one slice at a time"):
            package.LungFinder.model_validate({**entry, "preprocessing": {}})


def test_losses_of_small_and_large_lesions_weigh_the_same_per_image() -> None:
    target = torch.zeros(3, 16, 16)
    target[0, :2, :2] = 1
    target[1, :12, :12] = 1
    missed = torch.full_like(target, -20.0)
    assert image_dice_loss(missed, target).item() == pytest.approx(1 - (1 / 5 + 1 / 145) / 2, abs=1e-4)
    assert image_dice_loss(missed, torch.zeros_like(target)).item() == 0
