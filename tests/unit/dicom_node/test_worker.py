"""What a worker does before its first task, and after one that went wrong."""

from __future__ import annotations

import pytest
import torch

from dicom_node.worker import device_of, spoilt_by_surprises
from dicom_node.worker_pool import WorkerSpoilt
from pipeline.errors import SeriesRejected


@pytest.mark.parametrize(
    ("number", "environ", "nodes", "expected"),
    [
        (0, {}, 0, None),
        (0, {}, 1, None),
        (0, {}, 2, "0"),
        (1, {}, 2, "1"),
        (2, {}, 2, "0"),
        (1, {"CUDA_VISIBLE_DEVICES": "3, 5"}, 2, "5"),
        (1, {"CUDA_VISIBLE_DEVICES": "3"}, 2, None),
        (1, {"CUDA_VISIBLE_DEVICES": ""}, 2, None),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}, 0, "GPU-bb"),
    ],
)
def test_workers_share_devices_in_turn(
    number: int, environ: dict[str, str], nodes: int, expected: str | None
) -> None:
    assert device_of(number, environ, nodes) == expected


def failed(error: Exception) -> Exception:
    with pytest.raises(Exception) as caught, spoilt_by_surprises():
        raise error
    return caught.value


def test_an_error_of_cuda_spoils_the_process_and_goes_on_as_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = torch.AcceleratorError("CUDA error: device-side assert triggered\nFor debugging consider …")
    assert failed(error) is error, "without CUDA the process is as good as before"
    assert "in failed" in caplog.text, "where it was is told by the log alone"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spoilt = failed(error)
    assert type(spoilt) is WorkerSpoilt
    assert str(spoilt).endswith("AcceleratorError: CUDA error: device-side assert triggered")
    rejected = SeriesRejected("no lungs")
    assert failed(rejected) is rejected
