"""A department's networks are trained with the lungs that the node will find, whoever trained the lung network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline import package, phantom
from pipeline.package import Licence, LungFinder, ModelPackage, Thresholds
from pipeline.phantom import PhantomSpec
from pipeline.preprocess import Preprocessing
from pipeline.segment import Room
from pipeline.unet import Architecture, UNet
from tests.fixtures import small_training
from training import cli, export, finished, lung_origin, prepare, prepared
from training.cohort import read
from training.data import Setting
from training.errors import CohortError, RunError, TrainingError
from training.export import Label
from training.recipes import EmRecipe, Recipe
from training.runs import Where

LABEL = Label("tiny", "1", ("nothing",), Licence(name="none", url="https://example.org", notice="none"), {}, {})
SHIPPED = package.load(None)


def run(folder: Path, recipe: Recipe, lung_network: str) -> Path:
    """A finished run of an untrained network, trained (it says) with this lung network."""
    setting = Setting(
        architecture=Architecture(features=4),
        preprocessing=Preprocessing(rows=64, columns=64),
        lungs="network" if lung_network else "builtin",
        lung_network=lung_network,
        data_sha256="0" * 64,
    )
    kept = Where(folder, "cpu").run("", recipe, 1, setting, ())
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(kept.identity()))
    finished.keep(folder, UNet(setting.architecture))
    return folder


def exported(
    folder: Path, lung_network: str, lungs: Path | None = None, second: str | None = None, label: Label = LABEL
) -> ModelPackage:
    one = run(folder / "one", Recipe(name="r", epochs=1, rate=1e-3), lung_network)
    two = run(folder / "two", EmRecipe(name="e", epochs=1, rate=1e-3), lung_network if second is None else second)
    return export.export(one, two, label, folder / "package", lungs)


def test_the_shipped_package_lends_its_lung_network() -> None:
    made = phantom.make(PhantomSpec(slices=12, rows=128, columns=128, slice_spacing_mm=20.0))
    found = lung_origin.read(None).ready(Room(torch.device("cpu"), 8)).finds(made.hu)
    assert (found & made.lungs.both).sum() > 0.95 * made.lungs.both.sum()


def test_runs_trained_with_the_shipped_lungs_take_them_along(tmp_path: Path) -> None:
    entry = SHIPPED.manifest.lungs
    assert entry is not None
    made = exported(tmp_path, lung_origin.read(None).mark)
    assert made.manifest.lungs == entry  # the same weights to the bit, on the same grid
    told = made.manifest.training
    assert told.recipes["lungs"] == SHIPPED.manifest.training.recipes["lungs"]
    assert told.stories["lungs"] == SHIPPED.manifest.training.stories["lungs"]
    again = lung_origin.read(tmp_path / "package")
    assert again.sha256 == entry.sha256  # and lends them in its turn


def test_lungs_that_the_runs_have_never_seen_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="another lung network than the shipped package has: give the run"):
        exported(tmp_path, "f" * 64)
    assert not (tmp_path / "package").exists()


def test_two_runs_with_different_lungs_and_another_threshold_are_refused(tmp_path: Path) -> None:
    shipped = lung_origin.read(None).mark
    for name, second, label, complaint in (
        ("lungs", "", LABEL, "the two runs used different lungs"),
        ("threshold", None, replace(LABEL, thresholds=Thresholds(lungs=0.3)), "has thresholds of its own"),
        ("area", None, replace(LABEL, thresholds=Thresholds(consolidation_mm2=50)), r"consolidation_mm2: 0\.0"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(RunError, match=complaint):
            exported(tmp_path / name, shipped, None, second, label)


def test_thresholds_of_lungs_travel_with_their_network(tmp_path: Path) -> None:
    made = exported(tmp_path, lung_origin.read(None).mark)
    for name in lung_origin.THRESHOLDS:
        assert getattr(made.manifest.thresholds, name) == getattr(SHIPPED.manifest.thresholds, name)
    assert made.manifest.thresholds.consolidation_mm2 == 0  # that of UNet-2's own recipe, not of the lender's
    assert lung_origin.read(tmp_path / "package").mark == lung_origin.read(None).mark


def test_the_same_weights_with_other_thresholds_are_another_lung_network() -> None:
    shipped = lung_origin.read(None)
    usual = replace(shipped, mirrored=False)
    kinds = (Thresholds(), Thresholds(lungs=0.3), Thresholds(lungs_if_wide=0.05))
    plain, *others = (replace(usual, thresholds=one).mark for one in kinds)
    assert plain == shipped.sha256  # what runs of earlier versions have on record
    assert others == [f"{plain} lungs=0.3", f"{plain} lungs_if_wide=0.05"]
    assert replace(usual, thresholds=kinds[1], mirrored=True).mark == f"{plain} lungs=0.3 mirrored"


def test_what_a_package_does_without_is_left_out_of_its_manifest() -> None:
    entry = SHIPPED.manifest.lungs
    assert entry is not None
    for mirrored in (False, True):
        kept = entry.model_copy(update={"mirrored": mirrored}).model_dump(mode="json")
        assert kept.get("mirrored", False) is mirrored
        assert LungFinder.model_validate(kept).mirrored is mirrored
        assert ("mirrored" in kept) is mirrored  # earlier versions refuse a name that they do not know
    assert Thresholds(consolidation_mm2=100).model_dump()["consolidation_mm2"] == 100


def test_a_lower_threshold_that_is_none_is_left_out_and_one_that_is_not_lower_is_refused() -> None:
    assert set(Thresholds().model_dump()) == {"infection", "consolidation", "lungs"}  # earlier versions load it
    assert Thresholds(lungs_if_wide=0.1).model_dump()["lungs_if_wide"] == 0.1
    with pytest.raises(ValueError, match="is to be lower than lungs"):
        Thresholds(lungs=0.5, lungs_if_wide=0.5)


class TestPrepare:
    """Arrays with the lungs of the shipped package, made by worker processes."""

    SETTING = Preprocessing(rows=64, columns=64)

    @pytest.fixture
    def cohort(self, tmp_path: Path) -> Path:
        made = phantom.make(PhantomSpec(slices=12, rows=96, columns=96, slice_spacing_mm=20.0))
        (tmp_path / "cohort" / "ct").mkdir(parents=True)
        small_training.write(tmp_path / "cohort" / "ct" / "one.nii.gz", made.hu, made)
        return tmp_path / "cohort"

    def test_the_prepared_cohort_is_opened_with_the_same_network_only(self, cohort: Path, tmp_path: Path) -> None:
        with prepare.executor(1) as workers:
            done = prepare.prepare(cohort, tmp_path / "out", self.SETTING, prepare.Lungs("network"), workers)
        assert [entry.case.name for entry in done.entries] == ["one"]
        shipped = lung_origin.read(None).mark
        assert prepared.open_folder(tmp_path / "out", self.SETTING, "network", shipped).entries
        with pytest.raises(CohortError, match="prepared with another lung network: give the --lung-run"):
            prepared.open_folder(tmp_path / "out", self.SETTING, "network", "f" * 64)

    def test_a_worker_with_another_network_says_so(self, cohort: Path, tmp_path: Path) -> None:
        (case,) = read(cohort)
        lungs = prepare.Lungs("network", None, "f" * 64)
        done = prepare.prepare_case(prepare.Job(case, tmp_path / "out", self.SETTING, lungs, "mark"))
        assert done.rejected.startswith("another lung network lies in this worker's installation")


def test_runs_without_a_lung_network_get_none_unless_one_is_given(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    bare = exported(tmp_path / "bare", "")
    assert bare.manifest.lungs is None
    with pytest.raises(RunError, match="the package tiny 1 has no lung network"):
        lung_origin.read(tmp_path / "bare" / "package")
    (tmp_path / "given").mkdir()
    assert exported(tmp_path / "given", "", package.demo_folder()).manifest.lungs == SHIPPED.manifest.lungs


def test_weights_beyond_half_precision_are_kept_whole(tmp_path: Path) -> None:
    """The variances of batch norm have no upper limit: a wide network met 78,381 on synthetic chests."""
    first = run(tmp_path / "one", Recipe(name="r", epochs=1, rate=1e-3), "")
    second = run(tmp_path / "two", EmRecipe(name="e", epochs=1, rate=1e-3), "")
    net = finished.read(first, Recipe).net
    variance = net.get_buffer("up.0.first.norm.running_var")
    variance[0] = 78_381.0
    finished.keep(first, net)
    made = export.export(first, second, LABEL, tmp_path / "package")
    assert (made.manifest.unet1.precision, made.manifest.unet2.precision) == ("float32", "float16")
    assert package.load(tmp_path / "package").unet1.get_buffer("up.0.first.norm.running_var")[0] == 78_381.0


def test_a_folder_that_holds_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a finished run of .* nor a model package"):
        lung_origin.read(tmp_path)


@pytest.mark.parametrize("command", ["unet1", "prepare"])
def test_a_lung_network_that_would_not_be_used_is_refused(command: str, tmp_path: Path) -> None:
    arguments = [command, "--cohort", str(tmp_path), "--out", str(tmp_path / "out"), "--lung-run", str(tmp_path)]
    failed = CliRunner().invoke(cli.app, arguments)
    assert isinstance(failed.exception, TrainingError)
    assert str(failed.exception) == "--lung-run is for --lungs network, not for --lungs builtin"
