"""On a machine with CUDA: training learns, and a run that is cut off ends with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.test_loop import ARCH, POOL, SETTINGS, em_recipe, recipe, states_equal
from training import checkpoint, unet1, unet2
from training.loop import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


class Interrupted(Exception):
    pass


def test_resume_is_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:0")
    whole = unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "whole", recipe(), 3, cuda))
    saved = checkpoint.save

    def save_and_stop(folder: Path, state: dict[str, Any]) -> None:
        saved(folder, state)
        if len(state["rows"]) == 4:
            raise Interrupted

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(Interrupted):
        unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "cut", recipe(), 3, cuda))
    monkeypatch.undo()
    resumed = unet1.fit(POOL, ARCH, SETTINGS, Run(tmp_path / "cut", recipe(), 3, cuda))
    assert states_equal(whole, resumed)
    unet2.fit(resumed, POOL, SETTINGS, Run(tmp_path / "em", em_recipe(), 1, cuda))
