"""The loop: it learns, resumes bit for bit, and refuses another run's folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.random import Generator
from torch.optim import swa_utils

from pipeline.preprocess import Preprocessing
from pipeline.unet import Architecture, UNet
from training import batches, checkpoint, loop, unet1, unet2
from training.augment import Augmentation
from training.batches import Batch, Plan, Pool
from training.dataset import Example
from training.errors import CohortError, RunError
from training.loop import Run
from training.recipes import EmRecipe, Recipe
from training.steps import Objective

ARCH = Architecture(features=4)
SETTINGS = Preprocessing(rows=32, columns=32)
STILL = Augmentation(rotation_deg=0, shift=0.05, zoom=0, flip_rows=0.5, flip_columns=0)
CPU = torch.device("cpu")


def square(row: int, bright: float, positive: bool | None = None) -> Example:
    """A bright square on a dim ground; the square is the lesion."""
    values = torch.full((1, 32, 32), 2.0)
    values[0, row : row + 12, 8:24] = bright
    return Example(
        f"s{row}", values, (values > 4).to(torch.uint8), torch.ones(1, 32, 32, dtype=torch.bool), positive
    )


POOL = Pool([square(row, 8.0, positive=row < 6) for row in (2, 4, 6, 8, 10, 12)])


def recipe(**changes: object) -> Recipe:
    wanted = {"name": "t", "epochs": 6, "batch": 3, "rate": 1e-2, "augmentation": STILL, "average_last": 2}
    return Recipe.model_validate({**wanted, **changes})


def states_equal(a: UNet, b: UNet) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def plans(rng: Generator) -> Iterator[Plan]:
    return batches.unet1_epoch(POOL, recipe(), rng, 7, 110.0)


class Interrupted(Exception):
    pass


def test_resume_is_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "whole", recipe(), 3, CPU))
    saved = checkpoint.save

    def save_and_stop(folder: Path, state: dict[str, Any]) -> None:
        saved(folder, state)
        if len(state["rows"]) == 4:
            raise Interrupted

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(Interrupted):
        unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "cut", recipe(), 3, CPU))
    monkeypatch.undo()
    resumed = unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "cut", recipe(), 3, CPU))
    assert states_equal(whole, resumed)
    other = unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "other", recipe(), 4, CPU))
    assert not states_equal(whole, other)


def test_it_learns_and_logs(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", recipe(epochs=40, rate=2e-2, loss="bce_dice"), 1, CPU)
    net = unet1.fit(POOL, ARCH, SETTINGS, run)
    with (run.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 41))
    assert float(rows[-1]["loss"]) < 0.75 * float(rows[0]["loss"])
    case = POOL.cohort[0]
    with torch.inference_mode():
        found = net.probability(case.values.expand(7, -1, -1)[None])[0] > 0.5
    truth = case.label[0] > 0
    assert 2 * int((found & truth).sum()) / int(found.sum() + truth.sum()) > 0.8


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path, recipe(epochs=1), 1, CPU))
    with pytest.raises(RunError, match="holds another run"):
        unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path, recipe(epochs=1), 2, CPU))


def test_a_run_begun_before_a_field_of_its_recipe_existed_goes_on(tmp_path: Path) -> None:
    unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path, recipe(epochs=1), 1, CPU))
    path = tmp_path / "run.json"
    kept = json.loads(path.read_text())
    del kept["recipe"]["masked"], kept["recipe"]["augmentation"]["sharp"]
    path.write_text(json.dumps(kept))
    unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path, recipe(epochs=1), 1, CPU))
    with pytest.raises(RunError, match="holds another run"):
        unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path, recipe(epochs=1, masked=0.5), 1, CPU))
    sharp = recipe(epochs=1, augmentation=STILL.model_copy(update={"sharp": True}))
    with pytest.raises(RunError, match="holds another run"):
        unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path, sharp, 1, CPU))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    broken = Objective(lambda logits, _: logits.mean() * torch.nan)
    with pytest.raises(RunError, match="lower the learning rate"):
        loop.train(UNet(ARCH), Run(tmp_path, recipe(), 1, CPU), plans, broken)


def em_recipe(**changes: object) -> EmRecipe:
    base = recipe(epochs=12, average_last=4, schedule="constant", rate=3e-3).model_dump()
    return EmRecipe.model_validate({**base, "name": "em", **changes})


def test_em_tells_positive_from_negative_images_by_their_labels_alone(tmp_path: Path) -> None:
    """Positive images hold a dense square in a faint region, negative ones the faint region only."""

    def image(row: int, dense: bool) -> Example:
        case = square(row, 5.0, positive=dense)
        if dense:
            case.values[0, row + 3 : row + 9, 12:20] = 10.0
        return case

    examples = [image(row, dense) for row in (2, 5, 8, 11) for dense in (True, False)]
    first = unet1.fit(Pool(examples), ARCH, SETTINGS, Run(tmp_path / "one", recipe(epochs=15), 1, CPU))
    second = unet2.fit(first, Pool(examples), SETTINGS, Run(tmp_path / "two", em_recipe(epochs=25), 1, CPU))
    shares = []
    for dense in (True, False):
        case = image(6, dense)
        with torch.inference_mode():
            found = second.probability(case.values.expand(7, -1, -1)[None])[0] > 0.5
        core = torch.zeros(32, 32, dtype=torch.bool)
        core[9:15, 12:20] = True
        shares.append(float(found[core].float().mean()))
    assert shares[0] > 0.9
    assert shares[1] < 0.1


def test_em_needs_both_kinds(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="one kind only"):
        unet2.fit(UNet(ARCH), Pool([square(2, 8.0, True)]), SETTINGS, Run(tmp_path, em_recipe(), 1, CPU))


def test_em_refuses_a_recipe_of_unet1(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not one of UNet-2"):
        unet2.fit(UNet(ARCH), POOL, SETTINGS, Run(tmp_path, recipe(), 1, CPU))


def test_the_e_step_leaves_the_statistics_alone() -> None:
    net = UNet(ARCH).train()
    before = net.bottom.norm.running_mean.clone()
    batch = Batch(
        torch.rand(2, 7, 32, 32) * 10, torch.ones(2, 32, 32), torch.ones(2, 32, 32), torch.tensor([True, False])
    )
    labels = unet2.expectation(net, batch, em_recipe())
    assert net.training
    assert torch.equal(before, net.bottom.norm.running_mean)
    assert labels.dtype == torch.bool
    assert not labels[1].any()


def test_frozen_norm_keeps_the_statistics_and_still_learns(tmp_path: Path) -> None:
    start = unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "start", recipe(epochs=2), 1, CPU))
    run = Run(tmp_path / "frozen", recipe(epochs=2, frozen_norm=True), 1, CPU)
    tuned = unet1.fit(POOL, ARCH, SETTINGS, run, start)
    before, after = start.state_dict(), tuned.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert any(not torch.equal(before[name], after[name]) for name in before if "weight" in name)


def test_weights_are_averaged_where_torch_would_do_it_as_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its function for GPUs divides batch norm's counter, which is an integer; here the CPU is taken for one."""
    monkeypatch.setattr(swa_utils, "_get_foreach_kernels_supported_devices", lambda: ["cpu"])
    net = unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path, recipe(epochs=3), 1, CPU))
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_the_ranks_get_the_state_as_bytes_and_begin_with_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor that is pickled on a GPU is unpickled onto the GPU of that number, by every rank."""
    kept = loop.fresh(UNet(ARCH), 1e-2)
    kept.part = 4  # of a process by itself; shares of 5 and 4 images would be two parts and one
    sent = checkpoint.encoded(kept.kept())
    offered: list[object] = []
    monkeypatch.setattr(loop.distributed, "ranks", lambda: 2)
    monkeypatch.setattr(loop.distributed, "rank", lambda: 1)
    monkeypatch.setattr(loop.distributed, "agree", lambda *_: None)
    monkeypatch.setattr(loop.distributed, "from_first", lambda value: offered.append(value) or sent)
    state = loop.fresh(UNet(ARCH), 1e-2)
    loop.resume(Run(tmp_path, recipe(), 1, CPU), state)
    assert isinstance(offered[0], bytes)
    assert states_equal(state.model, kept.model)
    assert state.part == 0


def test_float32_is_float32_while_it_trains(tmp_path: Path) -> None:
    """The local means of the E-step are convolutions, for which cuDNN takes shorter numbers unless it is told."""
    seen = []

    def measure(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return logits.mean()

    before = torch.backends.cudnn.allow_tf32
    loop.train(UNet(ARCH), Run(tmp_path, recipe(epochs=1), 1, CPU), plans, Objective(measure))
    assert seen and not any(seen)
    assert torch.backends.cudnn.allow_tf32 == before
