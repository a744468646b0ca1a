"""On a machine with CUDA: a worker whose device has failed is replaced, and the next task finds one that works."""

from __future__ import annotations

import pytest
import torch

from dicom_node import worker
from dicom_node.worker_pool import WorkerPool, WorkerSpoilt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
WAIT_S = 300.0


def fail() -> None:
    """An index out of range: after that every call into CUDA fails in this process."""
    with worker.spoilt_by_surprises():
        torch.zeros(1, device="cuda:0")[torch.tensor([7], device="cuda:0")].cpu()


def add() -> float:
    return float(torch.ones(2, device="cuda:0").sum())


def test_a_failed_assertion_on_the_device_costs_one_task() -> None:
    pool = WorkerPool(1, deadline_s=WAIT_S)
    try:
        assert pool.submit(add).result(WAIT_S) == 2
        with pytest.raises(WorkerSpoilt):
            pool.submit(fail).result(WAIT_S)
        assert pool.submit(add).result(WAIT_S) == 2
    finally:
        pool.shutdown(cancel_futures=True)
