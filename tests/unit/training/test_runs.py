"""From a small cohort to a package that loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline import package
from pipeline.package import Licence
from tests.fixtures.squares import ONE, SETTING, TWO, write_cohort
from training import checkpoint, cli, cli_options, cohort, dataset, export, finished, runs
from training.batches import Pool
from training.data import Folders
from training.dataset import prepare
from training.errors import RunError, TrainingError
from training.recipes import EmRecipe, Recipe
from training.runs import Where

LICENCE = Licence(name="none", url="https://example.org", notice="random images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cases c0 to c7."""
    return write_cohort(tmp_path / "cohort", "c")


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
