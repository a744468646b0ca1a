"""Batches made ahead of the step that uses them, by threads: making one is copies and kernels that hold no lock.

Everything random is in the plan, so the batches are the same however many threads make them.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from training import distributed
from training.batches import Batch, Plan
from training.errors import RunError

MOST_WORKERS = 8


def workers(device: torch.device) -> int:
    """Threads of one rank: one where the CPU itself trains (a step costs it far more than a batch)."""
    if device.type == "cpu":
        return 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // here))


def shared(plans: Iterable[Plan]) -> list[Plan]:
    """This rank's share of each plan; a last plan with fewer images than ranks joins the one before.

    Raises RunError where another plan has fewer images than ranks.
    """
    plans, ranks = list(plans), distributed.ranks()
    if len(plans) > 1 and len(plans[-1]) < ranks:
        plans[-2:] = [plans[-2].plus(plans[-1])]
    if any(len(plan) < ranks for plan in plans):
        raise RunError(f"{ranks} processes cannot share a batch of fewer images; start fewer")
    return [plan.share(distributed.rank(), ranks) for plan in plans]


class Loader:
    """The batches of an epoch in order. `waited_s`: how long the reader had to wait for them so far."""

    def __init__(self, plans: Sequence[Plan], device: torch.device, threads: int | None = None) -> None:
        self.plans = plans
        self.device = device
        self.threads = threads or workers(device)
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")
        ready: deque[Future[Batch]] = deque()
        try:
            for plan in self.plans:
                ready.append(pool.submit(plan.make, self.device))
                if len(ready) > self.threads:
                    yield self._next(ready)
            while ready:
                yield self._next(ready)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _next(self, ready: deque[Future[Batch]]) -> Batch:
        began = time.perf_counter()
        batch = ready.popleft().result()
        self.waited_s += time.perf_counter() - began
        return batch
