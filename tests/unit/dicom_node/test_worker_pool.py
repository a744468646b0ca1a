"""Real processes: what becomes of a task when its process answers, raises, hangs, dies, or loses its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dicom_node.worker_pool import DeadlineExceeded, WorkerDied, WorkerPool

WAIT_S = 30.0


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(1, deadline_s=WAIT_S)
    yield pool
    pool.shutdown(cancel_futures=True)


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail_unpicklably() -> None:
    raise Unpicklable(1, 2)


def kind_of_process() -> str:
    return type(multiprocessing.current_process()).__name__


def hang(started: str) -> None:
    Path(started).touch()
    threading.Event().wait()


def test_the_process_is_warm_and_the_same_for_every_task(pool: WorkerPool) -> None:
    first, second = pool.submit(os.getpid), pool.submit(os.getpid)
    assert first.result(WAIT_S) == second.result(WAIT_S) != os.getpid()


def test_errors_of_a_task_reach_the_caller_and_the_process_lives_on(pool: WorkerPool) -> None:
    before = pool.submit(os.getpid).result(WAIT_S)
    with pytest.raises(ValueError, match="invalid literal"):
        pool.submit(int, "x").result(WAIT_S)
    with pytest.raises(RuntimeError, match="Unpicklable: 1 and 2"):
        pool.submit(fail_unpicklably).result(WAIT_S)
    assert pool.submit(os.getpid).result(WAIT_S) == before


def test_a_process_that_dies_fails_its_task_alone_and_is_replaced(pool: WorkerPool) -> None:
    before = pool.submit(os.getpid).result(WAIT_S)
    doomed, next_one = pool.submit(os.kill, before, signal.SIGKILL), pool.submit(os.getpid)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        doomed.result(WAIT_S)
    assert next_one.result(WAIT_S) not in {before, os.getpid()}


def test_a_process_that_died_while_idle_fails_one_task_only(pool: WorkerPool) -> None:
    before = pool.submit(os.getpid).result(WAIT_S)
    process = psutil.Process(before)
    process.kill()
    process.wait(WAIT_S)
    with pytest.raises(WorkerDied):
        pool.submit(os.getpid).result(WAIT_S)
    assert pool.submit(os.getpid).result(WAIT_S) != before


def test_the_deadline_kills() -> None:
    pool = WorkerPool(1, deadline_s=0.5)
    try:
        before = pool.submit(os.getpid)
        with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
            pool.submit(time.sleep, 1000).result(WAIT_S)
        assert not psutil.pid_exists(before.result(0))
    finally:
        pool.shutdown(cancel_futures=True)


def test_shutdown_cancels_what_waits_and_kills_what_runs(tmp_path: Path) -> None:
    pool = WorkerPool(1, deadline_s=WAIT_S)
    pid = pool.submit(os.getpid).result(WAIT_S)
    running, waiting = pool.submit(hang, str(tmp_path / "started")), pool.submit(os.getpid)
    pause = threading.Event()
    while not (tmp_path / "started").exists():
        pause.wait(0.01)
    pool.shutdown(cancel_futures=True)
    assert isinstance(running.exception(0), WorkerDied)
    assert waiting.cancelled()
    assert not psutil.pid_exists(pid)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(os.getpid)


def test_workers_die_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(Path.cwd())!r})\n"
        "from dicom_node.worker_pool import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(1, deadline_s=1000)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 1000).result()\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    gone, alive = psutil.wait_procs([worker], timeout=WAIT_S)
    assert gone and not alive


def test_the_pool_uses_spawn() -> None:
    pool = WorkerPool(1, deadline_s=WAIT_S)
    try:
        assert pool.submit(kind_of_process).result(WAIT_S) == "SpawnProcess"
    finally:
        pool.shutdown()
