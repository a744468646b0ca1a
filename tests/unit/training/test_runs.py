"""From a small cohort to cross-validated figures and a package that loads."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from typer.testing import CliRunner

from pipeline import package
from pipeline.package import Licence
from pipeline.preprocess import Preprocessing
from pipeline.unet import Architecture
from training import checkpoint, choice, cli, cli_options, cohort, crossval, dataset, export, finished, loop, runs
from training.batches import Pool
from training.choice import Judgement
from training.crossval import Held
from training.data import Folders, Setting
from training.dataset import Example, Source, prepare
from training.errors import CohortError, RunError, TrainingError
from training.recipes import EmRecipe, Recipe
from training.runs import CrossValidation, Where
from training.score import Overlap, overlap, summary

SETTING = Setting(architecture=Architecture(features=4), preprocessing=Preprocessing(rows=64, columns=64))
ONE = Recipe(name="one", epochs=2, batch=4, rate=1e-3, loss="bce_dice")
TWO = EmRecipe(name="two", epochs=1, batch=4, rate=1e-3, schedule="constant", k2=0.75)
LICENCE = Licence(name="none", url="https://example.org", notice="random images")


def write_cohort(root: Path, letter: str) -> Path:
    """Eight single slices of 64 × 64 with a bright square, dense in half of them."""
    rows = ["case,patient,consolidation"]
    for k in range(8):
        hu = np.full((1, 64, 64), -900, np.int16)
        hu[0, 60:] = 40  # soft tissue: these are Hounsfield units of a chest
        label = np.zeros(hu.shape, np.uint8)
        hu[0, 10 + k : 30 + k, 20:40] = 20 if k % 2 else -500
        label[0, 10 + k : 30 + k, 20:40] = 2 if k % 2 else 1
        for sub, array in (("ct", hu), ("label", label)):
            (root / sub).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(root / sub / f"{letter}{k}.nii.gz"))
        rows.append(f"{letter}{k},p{k // 2 * 2 + k % 2},{k % 2}")
    (root / "cases.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cases c0 to c7."""
    return write_cohort(tmp_path / "cohort", "c")


def test_cross_validation_scores_every_case_once_and_resumes(folder: Path, tmp_path: Path) -> None:
    what = CrossValidation(Folders(folder), SETTING, [ONE], [TWO], folds=2, seed=1)
    where = Where(tmp_path / "cv", "cpu")
    metrics = runs.cross_validate(what, where)
    assert set(metrics) == {"infection", "threshold", "two"}
    with (where.out / "infection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["case"] for row in rows) == [f"c{k}" for k in range(8)]
    assert {row["fold"] for row in rows} == {"0", "1"}
    log = where.out / "one-fold0" / "log.csv"
    before = log.read_bytes()
    assert runs.cross_validate(what, where) == metrics
    assert log.read_bytes() == before
    assert json.loads((where.out / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize("stages", [("other", "second"), ("first", "other")])
def test_a_fold_takes_up_only_what_went_on_from_the_same_weights(
    folder: Path, tmp_path: Path, stages: tuple[str, str]
) -> None:
    recipe = {name: ONE.model_copy(update={"name": name}) for name in ("first", "second")}
    recipe["other"] = ONE.model_copy(update={"name": "other", "rate": 2e-3})
    first, second = (recipe[name] for name in ("first", "second"))
    what = CrossValidation(Folders(folder), SETTING, [first, second], [TWO], folds=2, seed=1)
    where = Where(tmp_path / "cv", "cpu")
    runs.cross_validate(what, where)
    kept = {path: path.read_bytes() for path in where.out.glob("*/checkpoint.pt")}
    going_on = "second-fold0" if stages[0] == "other" else "two-fold0"
    with pytest.raises(RunError, match=f"{going_on} holds another run"):
        runs.cross_validate(replace(what, stages=[recipe[name] for name in stages]), where)
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_a_fold_resumes_where_statistics_are_measured_a_little_differently(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with another number of threads."""
    averaged = ONE.model_copy(update={"average_last": 2})
    second = ONE.model_copy(update={"name": "second", "frozen_norm": True})
    what = CrossValidation(Folders(folder), SETTING, [averaged, second], [TWO], folds=2, seed=1)
    where = Where(tmp_path / "cv", "cpu")
    runs.cross_validate(what, where)
    logs = {path: path.read_bytes() for path in where.out.glob("*/log.csv")}
    real = torch.optim.swa_utils.update_bn

    def update_bn(loader: Iterable[torch.Tensor], model: torch.nn.Module) -> None:
        real(loader, model)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_var is not None:
                module.running_var *= 1 + 1e-6

    monkeypatch.setattr(loop, "update_bn", update_bn)
    runs.cross_validate(what, where)
    assert len(logs) == 6
    assert all(path.read_bytes() == content for path, content in logs.items())


def test_a_fold_tells_the_stages_that_it_goes_on_from(folder: Path, tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", "d")
    runs.all_data_unet1(Folders(other), SETTING, ONE, 1, Where(tmp_path / "start", "cpu"))
    stages = [ONE.model_copy(update={"name": name}) for name in ("first", "second")]
    what = CrossValidation(Folders(folder), SETTING, stages, [TWO], folds=2, seed=1, start=tmp_path / "start")
    runs.cross_validate(what, Where(tmp_path / "cv", "cpu"))
    story = checkpoint.story(tmp_path / "cv" / "two-fold1")
    assert [one["recipe"]["name"] for one in story] == ["one", "first", "second", "two"]
    assert not {"c0", "d0"} & set(json.dumps(story).split('"')), "names of cases stay where they are"


def test_specks_of_held_out_cases_are_left_out_as_the_node_does_of_the_rival_too(
    folder: Path, tmp_path: Path
) -> None:
    empty = ONE.model_copy(update={"rate": 1e-9})  # says neither yes nor no, everywhere
    found = {}
    for name, least_mm2 in (("all", 0.0), ("wide", 10_000.0)):  # an image has 4096 mm²
        recipe = TWO.model_copy(update={"consolidation_mm2": least_mm2})
        what = CrossValidation(Folders(folder), SETTING, [empty], [recipe], folds=2, seed=1)
        where = Where(tmp_path / name, "cpu")
        runs.cross_validate(what, where)
        for path in where.out.glob("t*.csv"):
            with path.open() as file:
                counts = [(int(row["both"]), int(row["predicted_only"])) for row in csv.DictReader(file)]
            found[name, path.stem] = sum(one + other for one, other in counts)
    assert set(found) - {("all", "two"), ("all", "threshold"), ("wide", "two"), ("wide", "threshold")} == {
        ("wide", "threshold-from-10000mm2")
    }
    assert found["wide", "two"] == found["wide", "threshold-from-10000mm2"] == 0
    assert found["wide", "threshold"] == found["all", "threshold"] > 0
    assert found["all", "two"] > 0


def test_each_fold_chooses_its_prior_without_its_held_out_cases(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = TWO.model_copy(update={"name": "two-b7", "b2": 7.0})
    asked = []

    def judge(recipe: EmRecipe, cases: Sequence[Example], settings: Preprocessing) -> list[Judgement]:
        asked.append(sorted(case.name for case in cases))
        return [Judgement(recipe, 0.2, 0.9), Judgement(other, 0.3, 0.8)]

    monkeypatch.setattr(choice, "judge", judge)
    what = CrossValidation(Folders(folder), SETTING, [ONE], [TWO], folds=2, seed=1, choose=True)
    where = Where(tmp_path / "cv", "cpu")
    metrics = runs.cross_validate(what, where)
    assert set(metrics) == {"infection", "threshold", "two", "two-by-pixel-labels", "two-by-image-labels"}
    assert (where.out / "choices.csv").read_text().splitlines()[1:] == [
        f"{fold},two-by-{way}"
        for fold in "01"
        for way in ("pixel-labels,two-b7,0.3000,0.8000", "image-labels,two,0.2000,0.9000")
    ]
    with (where.out / "infection.csv").open() as file:
        held_out = {row["case"] for row in csv.DictReader(file) if row["fold"] == "0"}
    assert sorted({f"c{k}" for k in range(8)} - held_out) == asked[0]
    run = json.loads((where.out / "two-b7-fold0" / "run.json").read_text())
    assert (run["recipe"]["b2"], run["train"]) == (7.0, asked[0])


def test_a_choice_that_cannot_be_made_is_refused_before_the_first_training(folder: Path, tmp_path: Path) -> None:
    (folder / "cases.csv").write_text("case,patient,consolidation\n" + "".join(f"c{k},p{k},1\n" for k in range(8)))
    what = CrossValidation(Folders(folder), SETTING, [ONE], [TWO], folds=2, seed=1, choose=True)
    with pytest.raises(CohortError, match="by image-labels: the training part has cases of one kind only"):
        runs.cross_validate(what, Where(tmp_path / "cv", "cpu"))
    assert not (tmp_path / "cv" / "one-fold0").exists()
    with pytest.raises(RunError, match="name its recipe with --em"):
        runs.cross_validate(replace(what, em=[]), Where(tmp_path / "cv", "cpu"))


def test_unet2_wants_the_lungs_of_its_unet1(folder: Path, tmp_path: Path) -> None:
    one, _ = trained(folder, tmp_path)
    other = SETTING.model_copy(update={"lungs": "builtin" if SETTING.lungs == "none" else "none"})
    with pytest.raises(RunError, match="was trained with other lungs"):
        runs.all_data_unet2(Folders(folder), other, TWO, one, 1, Where(tmp_path / "new", "cpu"))


def trained(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    runs.all_data_unet1(Folders(folder), SETTING, ONE, 1, Where(one, "cpu"))
    runs.all_data_unet2(Folders(folder), SETTING, TWO, one, 1, Where(two, "cpu"))
    return one, two


def test_two_runs_make_a_package(folder: Path, tmp_path: Path) -> None:
    one, two = trained(folder, tmp_path)
    label = export.Label("tiny", "0.1", ("eight squares",), LICENCE, {"dice": 0.1}, {"MODEL_CARD.md": "card"})
    made = export.export(one, two, label, tmp_path / "tiny")
    loaded = package.load(tmp_path / "tiny")
    assert loaded.identity == made.identity
    assert (loaded.manifest.prior.b2, loaded.manifest.prior.k2) == (9.0, 0.75)
    assert loaded.manifest.preprocessing == SETTING.preprocessing
    assert loaded.manifest.training.seeds == {"unet1": 1, "unet2": 1}
    stories = loaded.manifest.training.stories
    assert [run["recipe"]["name"] for run in stories["unet2"]] == ["one", "two"]  # type: ignore[index, call-overload]
    assert stories["unet1"] == stories["unet2"][:1]
    for run in stories["unet2"]:
        assert isinstance(run, dict)
        assert run["setting"]["data_sha256"] == loaded.manifest.training.data_sha256  # type: ignore[index, call-overload]
        assert run["software"] == loaded.manifest.software == checkpoint.code_version()
        assert "train" not in run  # names of cases may be those of patients
    kept = finished.read(two, EmRecipe)
    x = torch.rand(1, 7, 64, 64)
    torch.testing.assert_close(loaded.unet2.probability(x), kept.net.probability(x), atol=0.01, rtol=0)


def test_an_unfinished_run_and_a_swapped_one_are_refused(folder: Path, tmp_path: Path) -> None:
    one, two = trained(folder, tmp_path)
    label = export.Label("tiny", "0.1", (), LICENCE, {}, {})
    with pytest.raises(RunError, match="a run of UNet-2, not of UNet-1"):
        export.export(two, one, label, tmp_path / "out")
    run = (one / "run.json").read_text()
    (one / "run.json").write_text(run.replace('"epochs"', '"epochs_of_old"'))
    with pytest.raises(RunError, match="another version of this program"):
        export.export(one, two, label, tmp_path / "out")
    (one / "run.json").write_text(run)
    (two / finished.NETWORK).unlink()
    with pytest.raises(RunError, match="no finished run"):
        export.export(one, two, label, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dice_policy_for_empty_cases() -> None:
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert overlap("a", empty, empty).dice == 1
    assert overlap("a", full, empty).dice == 0
    assert overlap("a", empty, full).dice == 0
    found = summary([Overlap("a", 0, 0, 0), Overlap("b", 1, 1, 1), Overlap("c", 0, 0, 2)])
    assert found.mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.mean_of_labelled == pytest.approx(0.25)
    assert found.pooled == pytest.approx(2 / 6)


def held(slices: int, repeated: bool = False) -> Held:
    values = torch.zeros(slices, 4, 4)
    example = Example("x", values, values.to(torch.uint8), values == 0)
    return Held(Source(None, None, None, None, (5, 1, 1)), example, repeated)  # type: ignore[arg-type]


def test_a_single_slice_is_repeated_and_a_volume_has_neighbours() -> None:
    assert held(1).stacks(3).tolist() == [[0, 0, 0]]
    assert held(2).stacks(3).tolist() == [[-1, 0, 1], [0, 1, -1]]
    assert held(2, repeated=True).stacks(3).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_labels_are_scored_unclipped(folder: Path) -> None:
    """A lung mask that misses half of the lesion costs Dice even if the network is right inside it."""

    def left_half(hu: np.ndarray, _: tuple[float, float, float]) -> np.ndarray:
        return np.broadcast_to((np.arange(64) < 30).astype(np.uint8), hu.shape)

    source = dataset.load(cohort.read(folder)[1], left_half)
    case = Held(source, prepare(source, SETTING.preprocessing))
    right = torch.ones(1, 64, 64) * (case.example.label > 0)
    found = crossval.on_source(right, case, SETTING.preprocessing)
    assert overlap("c", found, case.labelled(1)).dice == pytest.approx(2 / 3)


def test_commands_name_what_exists() -> None:
    runner = CliRunner()
    shown = runner.invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in ("unet1", "unet2", "crossval", "export", "evaluate"))
    with pytest.raises(TrainingError, match="the recipes are paper"):
        cli_options.named({"paper": ONE}, "secret")


def test_the_program_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["crossval", "--cohort", str(tmp_path), "--out", str(tmp_path / "out"), "--lungs", "none"]
    monkeypatch.setattr("sys.argv", ["dicomnode-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "no cases in" in " ".join(capsys.readouterr().err.split())


def test_a_grid_that_the_network_cannot_halve_is_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(
        cli.app, ["lungs", "--phantoms", "2", "--grid", "100", "--out", str(tmp_path / "run")]
    )
    assert isinstance(ended.exception, RunError)
    assert "--grid 100 is no multiple of 16" in str(ended.exception)
    assert not (tmp_path / "run").exists()


def test_the_label_of_a_package_is_read_or_refused(tmp_path: Path) -> None:
    shipped = export.read_label(Path(cli.__file__).parents[1] / "docs" / "demo-package.json", {})
    assert shipped.licence.name == "CC BY-NC-SA 4.0"
    wrong = tmp_path / "label.json"
    for text in ("{", "[]", '{"name": "x"}'):
        wrong.write_text(text)
        with pytest.raises(RunError, match="does not name a package"):
            export.read_label(wrong, {})


@pytest.mark.parametrize(
    ("recipe", "given", "says"),
    [
        (ONE, {"volumes": 1}, "does not train on volumes"),
        (ONE, {"phantoms": 1}, "does not train on phantoms"),
        (ONE.model_copy(update={"phantom_slices": 5}), {}, "give --phantoms"),
        (ONE.model_copy(update={"volume_slices": 5}), {}, "give --volumes"),
    ],
)
def test_data_that_a_recipe_does_not_draw_are_refused(
    folder: Path, recipe: Recipe, given: dict[str, int], says: str
) -> None:
    case = cohort.read(folder)[0]
    example = prepare(dataset.load(case, None), SETTING.preprocessing)
    pool = Pool([example], **{name: [example] * count for name, count in given.items()})
    with pytest.raises(RunError, match=says):
        runs.refuse_unused(pool, recipe)


def test_a_start_that_has_seen_the_cohort_is_refused_also_a_stage_later(folder: Path, tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", "d")
    short = ONE.model_copy(update={"epochs": 1})
    runs.all_data_unet1(Folders(folder), SETTING, short, 1, Where(tmp_path / "one", "cpu"))
    runs.all_data_unet1(Folders(other), SETTING, short, 1, Where(tmp_path / "two", "cpu"), tmp_path / "one")
    for start in ("one", "two"):
        what = CrossValidation(Folders(folder), SETTING, [ONE], [], folds=2, seed=1, start=tmp_path / start)
        with pytest.raises(RunError, match="trained on 8 cases of the cohort"):
            runs.cross_validate(what, Where(tmp_path / "cv", "cpu"))


def test_a_run_remembers_the_weights_it_goes_on_from(folder: Path, tmp_path: Path) -> None:
    runs.all_data_unet1(Folders(folder), SETTING, ONE, 1, Where(tmp_path / "one", "cpu"))
    runs.all_data_unet2(Folders(folder), SETTING, TWO, tmp_path / "one", 1, Where(tmp_path / "two", "cpu"))
    assert finished.weights_digest(tmp_path / "one") in (tmp_path / "two" / "run.json").read_text()


def test_a_rank_takes_its_gpu_before_its_first_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nccl sends Python objects from the current device: without one chosen, every rank would use the first GPU."""
    done: list[str] = []
    monkeypatch.setattr(runs.distributed, "choose", lambda _: done.append("choose") or torch.device("cpu"))
    monkeypatch.setattr(runs.distributed, "from_first", lambda value: done.append("send") or value)
    monkeypatch.setattr(runs.distributed, "rank", lambda: 1)
    Where(tmp_path).run("", ONE, 1, SETTING, [], start=tmp_path)
    assert done == ["choose", "send"]
