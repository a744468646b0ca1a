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
from functools import partial
from pathlib import Path

import psutil
import pytest

from dicom_node import worker_pool
from dicom_node.worker_pool import DeadlineExceeded, WorkerDied, WorkerPool, WorkerSpoilt

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


def spoil() -> None:
    raise WorkerSpoilt("the device is lost")


def kind_of_process() -> str:
    return type(multiprocessing.current_process()).__name__


def write(path: str, text: str) -> None:
    """Whole or not there."""
    partial_file = Path(f"{path}.part")
    partial_file.write_text(text)
    partial_file.rename(path)


def hang(started: str) -> None:
    write(started, str(os.getpid()))
    threading.Event().wait()


def hang_until(started: str, go: str) -> str:
    write(started, "")
    await_file(Path(go))
    return "done"


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def slow_start(seconds: float, _number: int) -> None:
    time.sleep(seconds)


def fail_to_start(cured: str, _number: int) -> None:
    if not Path(cured).exists():
        raise ImportError("a library is missing")


def fail_but_the_first(number: int) -> None:
    if number:
        raise ImportError("a library is missing")


def sign(folder: str, number: int) -> None:
    write(str(Path(folder) / str(number)), str(os.getpid()))


def await_fault(pool: WorkerPool) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if pool.fault:
            return
        pause.wait(0.01)
    raise AssertionError("no fault")


def await_file(path: Path) -> None:
    pause = threading.Event()
    while not path.exists():
        pause.wait(0.01)


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


@pytest.mark.parametrize("a_task_comes_first", [True, False])
def test_a_process_that_died_while_idle_is_replaced_at_no_tasks_cost(
    monkeypatch: pytest.MonkeyPatch, a_task_comes_first: bool
) -> None:
    monkeypatch.setattr(worker_pool, "LOOK_S", WAIT_S if a_task_comes_first else 0.01)
    pool, pause = WorkerPool(1, deadline_s=1e10), threading.Event()  # as somebody writes who wants none
    try:
        before = pool.submit(os.getpid).result(WAIT_S)
        process = psutil.Process(before)
        process.kill()
        process.wait(WAIT_S)
        while not a_task_comes_first and pool.pids in ([], [before]):
            pause.wait(0.01)
        assert pool.submit(os.getpid).result(WAIT_S) not in {before, os.getpid()}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("dies", [True, False])
def test_one_slot_does_not_suffer_from_the_other(tmp_path: Path, dies: bool) -> None:
    pool = WorkerPool(2, deadline_s=WAIT_S)
    try:
        long_task = pool.submit(hang_until, str(tmp_path / "started"), str(tmp_path / "go"))
        await_file(tmp_path / "started")
        if dies:
            with pytest.raises(WorkerDied):
                pool.submit(kill_myself).result(WAIT_S)
        assert pool.submit(os.getpid).result(WAIT_S) != os.getpid()
        (tmp_path / "go").touch()
        assert long_task.result(WAIT_S) == "done"
        assert len(pool.pids) == 2
    finally:
        pool.shutdown(cancel_futures=True)


def test_cancel_kills_a_task_that_runs_and_no_other(pool: WorkerPool, tmp_path: Path) -> None:
    running = pool.submit(hang, str(tmp_path / "started"))
    await_file(tmp_path / "started")
    waiting, next_one = pool.submit(os.getpid), pool.submit(os.getpid)
    assert waiting.cancel() is True
    assert running.cancel() is False
    with pytest.raises(WorkerDied, match="SIGKILL"):
        running.result(WAIT_S)
    after = next_one.result(WAIT_S)
    assert running.cancel() is False
    assert next_one.cancel() is False
    assert pool.submit(os.getpid).result(WAIT_S) == after, "a task that is over kills nobody"


def test_the_deadline_counts_from_the_moment_the_process_is_warm(tmp_path: Path) -> None:
    """Starting takes longer than this deadline, on any machine."""
    pool = WorkerPool(1, deadline_s=0.05, warm_up=partial(slow_start, 0.5))
    try:
        assert pool.submit(int, "7").result(WAIT_S) == 7
    finally:
        pool.shutdown(cancel_futures=True)


def test_the_deadline_kills(tmp_path: Path) -> None:
    pool = WorkerPool(1, deadline_s=0.5)
    try:
        with pytest.raises(DeadlineExceeded, match=r"it took longer than 0\.5 s"):
            pool.submit(hang, str(tmp_path / "pid")).result(WAIT_S)
        assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
        assert pool.submit(int, "7").result(WAIT_S) == 7
    finally:
        pool.shutdown(cancel_futures=True)


def test_a_process_that_does_not_get_ready_fails_its_task(tmp_path: Path) -> None:
    pool = WorkerPool(1, deadline_s=WAIT_S, warm_up=partial(fail_to_start, str(tmp_path / "cured")))
    try:
        for _ in range(2):
            with pytest.raises(WorkerDied, match="before it was ready.*exit status 1"):
                pool.submit(int, "7").result(WAIT_S)
        (tmp_path / "cured").touch()
        assert pool.submit(int, "7").result(WAIT_S) == 7
    finally:
        pool.shutdown(cancel_futures=True)


def test_a_pool_that_insists_has_its_tasks_wait_for_a_process_that_gets_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While none does no task is at fault: a night's series would each fail for the same reason."""
    monkeypatch.setattr(worker_pool, "PAUSE_S", 0.01)
    pool = WorkerPool(1, WAIT_S, partial(fail_to_start, str(tmp_path / "cured")), insists=True)
    try:
        task = pool.submit(int, "7")
        await_fault(pool)
        assert pool.fault == "the worker process died before it was ready (exit status 1)"
        assert pool.pids == []
        assert not task.done()
        (tmp_path / "cured").touch()
        assert task.result(WAIT_S) == 7
        assert not pool.fault
        assert len(pool.pids) == 1
    finally:
        pool.shutdown(cancel_futures=True)


def test_a_task_that_waits_for_a_process_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "PAUSE_S", 0.01)
    pool = WorkerPool(1, WAIT_S, partial(fail_to_start, str(tmp_path / "cured")), insists=True)
    try:
        task = pool.submit(int, "7")
        await_fault(pool)
        assert task.cancel()
        other = pool.submit(int, "8")
        (tmp_path / "cured").touch()
        assert other.result(WAIT_S) == 8
        assert task.cancelled()
    finally:
        pool.shutdown(cancel_futures=True)


def test_shutdown_cancels_what_waits_for_a_process(tmp_path: Path) -> None:
    pool = WorkerPool(1, WAIT_S, partial(fail_to_start, str(tmp_path / "never")), insists=True)
    tasks = [pool.submit(int, "7") for _ in range(2)]
    await_fault(pool)
    pool.shutdown()
    assert all(task.cancelled() for task in tasks)


def test_a_slot_that_gets_no_process_ready_holds_no_task_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two GPUs fails: the other one's process does all there is."""
    monkeypatch.setattr(worker_pool, "PAUSE_S", 0.2)
    pool = WorkerPool(2, WAIT_S, fail_but_the_first, insists=True)
    try:
        tasks = [pool.submit(int, str(number)) for number in range(20)]
        assert [task.result(WAIT_S) for task in tasks] == list(range(20))
        assert len(pool.pids) == 1
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("before", [0, 1], ids=["none was ever there", "the one that was has died"])
def test_shutdown_settles_what_waits_for_a_process_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    tried = threading.Event()

    def no_room(*_: object) -> None:
        tried.set()
        raise OSError(11, "Resource temporarily unavailable")

    pool = WorkerPool(before, deadline_s=WAIT_S)
    pids = [pool.submit(os.getpid).result(WAIT_S) for _ in range(before)]
    monkeypatch.setattr(worker_pool, "_Worker", no_room)
    if not before:
        pool = WorkerPool(1, deadline_s=WAIT_S)
    for pid in pids:
        psutil.Process(pid).kill()
    waiting = [pool.submit(os.getpid) for _ in range(2)]
    assert tried.wait(WAIT_S)
    pool.shutdown()
    assert all(future.done() for future in waiting)


def test_each_process_knows_its_number(tmp_path: Path) -> None:
    pool = WorkerPool(2, deadline_s=WAIT_S, warm_up=partial(sign, str(tmp_path)))
    try:
        await_file(tmp_path / "0")
        await_file(tmp_path / "1")
        pids = {int((tmp_path / name).read_text() or 0) for name in "01"}
        assert len(pids) == 2
    finally:
        pool.shutdown()


def test_shutdown_cancels_what_waits_and_kills_what_runs(tmp_path: Path) -> None:
    pool = WorkerPool(1, deadline_s=WAIT_S)
    pid = pool.submit(os.getpid).result(WAIT_S)
    running, waiting = pool.submit(hang, str(tmp_path / "started")), pool.submit(os.getpid)
    await_file(tmp_path / "started")
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


def test_a_process_that_its_task_has_spoilt_is_replaced_before_the_next(pool: WorkerPool) -> None:
    first = pool.submit(os.getpid).result(WAIT_S)
    with pytest.raises(WorkerSpoilt, match="the device is lost"):
        pool.submit(spoil).result(WAIT_S)
    assert not psutil.pid_exists(first)
    assert pool.submit(os.getpid).result(WAIT_S) != first
