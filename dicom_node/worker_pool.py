"""A `concurrent.futures.Executor` whose processes can be killed one by one.

`ProcessPoolExecutor` breaks as a whole when one process dies and cannot end a task that takes too long. Here each
slot is one warm process, started with ``spawn`` (fork and threads deadlock, and CUDA does not survive it), and one
thread that hands it tasks: a process that dies or passes the deadline fails its own task and is replaced.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from dicom_node.errors import TransientError

log = logging.getLogger(__name__)

T = TypeVar("T")
START_S = 300.0  # how long a process may take until it is ready: imports from a cold disk
LOOK_S = 5.0  # how often a process that waits for a task is looked after
PAUSE_S = 5.0  # before the next attempt to start a process; doubles with each
LONGEST_PAUSE_S = 60.0
LONGEST_S = 1e6  # eleven days; poll(2) takes no more than 2**31 ms
END_S = 5.0  # how long a process may take to end by itself before it is killed
READY = b""  # what a process sends once it is warm: deadlines count from then on


class WorkerDied(TransientError):
    """The process of a task ended without an answer: killed, out of memory, or crashed in native code."""


class WorkerSpoilt(TransientError):
    """The error of a task that leaves its process of no further use: the process is replaced."""


class DeadlineExceeded(TransientError):
    """The task took longer than the deadline; its process was killed."""


class TaskFuture(Future[T]):
    """A future whose `cancel` also ends a task that runs already: its process is killed.

    `cancel` returns False then, as for any running future; the result is `WorkerDied`.
    """

    def __init__(self, kill: Callable[[Future[T]], None]) -> None:
        super().__init__()
        self._kill = kill

    def cancel(self) -> bool:
        """Cancel, or kill."""
        cancelled = super().cancel()
        if not cancelled:
            self._kill(self)
        return cancelled


class _Closed(Exception):
    """The pool is shut down before a process could be started."""


@dataclass(frozen=True)
class _Task:
    future: Future[Any]
    message: bytes


class WorkerPool(Executor):
    """Runs picklable functions in `slots` warm processes.

    Args:
        slots: number of processes.
        deadline_s: a task that takes longer is ended with `DeadlineExceeded`.
        warm_up: a picklable function that each process calls with its number (from 0) before its first task.
        insists: where no process gets ready, tasks wait for one that does: it is no task's fault, and a night's
            series would fail one after the other. Else the task fails with `WorkerDied`.
    """

    def __init__(
        self,
        slots: int,
        deadline_s: float,
        warm_up: Callable[[int], object] | None = None,
        *,
        insists: bool = False,
    ) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._slots = [
            _Slot(number, self._tasks, self._closed, deadline_s, warm_up, insists) for number in range(slots)
        ]
        for slot in self._slots:
            slot.start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call; raises RuntimeError after `shutdown`, and what pickling raises."""
        if self._closed.is_set():
            raise RuntimeError("the pool is shut down")
        future: TaskFuture[T] = TaskFuture(self._kill)
        self._tasks.put(_Task(future, pickle.dumps((fn, args, kwargs))))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes. Tasks that wait are cancelled; with `cancel_futures` running ones are killed too."""
        self._closed.set()
        for slot in self._slots:
            self._tasks.put(None)
            if cancel_futures:
                slot.stop()
        if wait:
            for slot in self._slots:
                slot.join()

    @property
    def threads(self) -> list[threading.Thread]:
        """One per slot; each lives until `shutdown`."""
        return list(self._slots)

    @property
    def fault(self) -> str:
        """What keeps a process from getting ready; empty where nothing is known to."""
        return next((slot.fault for slot in self._slots if slot.fault), "")

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live, without those whose predecessors did not get ready."""
        return [pid for slot in self._slots if (pid := slot.pid) is not None]

    def _kill(self, future: Future[Any]) -> None:
        for slot in self._slots:
            slot.stop(future)


class _Slot(threading.Thread):
    """One process and the thread that hands it tasks."""

    def __init__(
        self,
        number: int,
        tasks: queue.SimpleQueue[_Task | None],
        closed: threading.Event,
        deadline_s: float,
        warm_up: Callable[[int], object] | None,
        insists: bool,
    ) -> None:
        super().__init__(name=f"worker-slot-{number}", daemon=True)
        self._number, self._tasks, self._closed = number, tasks, closed
        self._deadline_s, self._warm_up, self._insists = deadline_s, warm_up, insists
        self.fault = ""  # what keeps the process from getting ready
        self._pause_s = PAUSE_S
        self._process: multiprocessing.process.BaseProcess | None = None
        self._current: Future[Any] | None = None
        self._lock = threading.Lock()  # guards process and task against a kill while they are being replaced

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.is_alive() and not self.fault else None

    def stop(self, future: Future[Any] | None = None) -> None:
        """Kill the process; with `future` only while it works for that one."""
        with self._lock:
            if self._process is not None and (future is None or future is self._current):
                self._process.kill()

    def run(self) -> None:
        try:
            self._serve()
        except _Closed:
            self._leave()

    def _serve(self) -> None:
        worker = self._replace()
        while True:
            try:
                task = self._tasks.get(timeout=LOOK_S)
            except queue.Empty:
                # Taken by the kernel while it was idle: not only the next task shall see that no worker lives.
                if worker.is_dead() and worker.was_warm():
                    worker = self._replace()
                continue
            if task is None:
                break
            if self._closed.is_set():
                task.future.cancel()
                continue
            try:
                worker = self._warm(worker)
            except WorkerDied as error:
                self._give_back(task, error)
                continue
            except _Closed:
                task.future.cancel()
                raise
            if task.future.set_running_or_notify_cancel():
                with self._lock:
                    self._current = task.future
                end = self._do(task, worker)
                with self._lock:
                    self._current = None
                end()
                if worker.is_dead() and not self._closed.is_set():
                    worker = self._replace()
        worker.end()

    def _leave(self) -> None:
        """Nobody waits for what no process will do."""
        with suppress(queue.Empty):
            while (task := self._tasks.get_nowait()) is not None:
                task.future.cancel()
            self._tasks.put(None)  # it is for another slot

    def _warm(self, worker: _Worker) -> _Worker:
        """The worker once it is warm, or the successor of one that is dead; raises WorkerDied."""
        if worker.is_dead():
            worker = self._replace()
        if fault := worker.start():
            raise WorkerDied(fault)
        self.fault, self._pause_s = "", PAUSE_S
        return worker

    def _give_back(self, task: _Task, error: WorkerDied) -> None:
        """What no process got ready for: to another slot, or to this one later; or it fails."""
        if self._insists:
            self._tasks.put(task)
            self._pause(str(error))
        elif task.future.set_running_or_notify_cancel():
            task.future.set_exception(error)

    def _pause(self, fault: str) -> None:
        """Before the next attempt; raises _Closed."""
        if self._closed.is_set():
            raise _Closed
        self.fault = fault
        log.error("%s: %s; next attempt in %g s", self.name, fault, self._pause_s)
        if self._closed.wait(self._pause_s):
            raise _Closed
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _do(self, task: _Task, worker: _Worker) -> Callable[[], None]:
        """One task; gives back how its future is to be settled."""
        try:
            answer = worker.ask(task.message, self._deadline_s)
        except (EOFError, OSError):
            reason = f"the worker process died ({worker.ending()})"
            return partial(task.future.set_exception, WorkerDied(reason))
        except DeadlineExceeded as error:
            # Dead before the caller hears of it: a second attempt must not meet the first one's files.
            worker.kill()
            return partial(task.future.set_exception, error)
        succeeded, value = pickle.loads(answer)  # noqa: S301  # from our own child over a private pipe
        if isinstance(value, WorkerSpoilt):
            worker.kill()
        return partial(task.future.set_result if succeeded else task.future.set_exception, value)

    def _replace(self) -> _Worker:
        """Start a process in the place of one that is dead; again and again where the system has no room."""
        had_room = True
        while True:
            try:
                worker = _Worker(self._number, self._warm_up)
                break
            except OSError as error:
                had_room = False
                self._pause(f"no process can be started ({error})")
        if not had_room:
            self.fault, self._pause_s = "", PAUSE_S
        with self._lock:
            self._process = worker.process
            if self._closed.is_set():  # a kill may have met the process before
                worker.process.kill()
        log.info("%s: worker process %s", self.name, worker.process.pid)
        return worker


class _Worker:
    """One process and our end of the pipe to it."""

    def __init__(self, number: int, warm_up: Callable[[int], object] | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, number, warm_up), name=f"worker-{number}", daemon=True
        )
        self.process.start()
        theirs.close()
        self._ready = False

    def is_dead(self) -> bool:
        """By its end of a pipe: whoever else waited for the process does not matter."""
        return bool(wait([self.process.sentinel], 0))

    def was_warm(self) -> bool:
        """Of one that is dead: whether it had come so far. If not, its successors would die too, one by one."""
        with suppress(EOFError, OSError):
            self.await_ready()
        return self._ready

    def start(self) -> str:
        """Wait until the process is warm; else it is dead then, and this says why."""
        try:
            self.await_ready()
        except (EOFError, OSError):
            return f"the worker process died before it was ready ({self.ending()})"
        except DeadlineExceeded as error:
            self.kill()
            return str(error)
        return ""

    def await_ready(self) -> None:
        """Wait until the process is warm; raises EOFError when it dies before, DeadlineExceeded after long."""
        if not self._ready:
            self._receive(START_S, "starting the worker process")
            self._ready = True

    def ask(self, message: bytes, deadline_s: float) -> bytes:
        """The answer to one message; raises EOFError or OSError when the process dies, DeadlineExceeded."""
        self._connection.send_bytes(message)
        return self._receive(deadline_s, "it")

    def _receive(self, deadline_s: float, what: str) -> bytes:
        if not wait([self._connection, self.process.sentinel], min(deadline_s, LONGEST_S)):
            raise DeadlineExceeded(f"{what} took longer than {deadline_s:g} s and was stopped")
        return self._connection.recv_bytes()

    def ending(self) -> str:
        """How it ends, of one whose pipe has; dead when this returns."""
        self.process.join(END_S)
        self.kill()
        return _how(self.process.exitcode)

    def kill(self) -> None:
        """Dead when this returns."""
        self.process.kill()
        self.process.join()
        self._connection.close()

    def end(self) -> None:
        """Let it return by itself: it reads the end of its pipe."""
        self._connection.close()
        self.process.join(END_S)
        self.kill()


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit status {exit_code}"


def _work(connection: Connection, number: int, warm_up: Callable[[int], object] | None) -> None:
    """The child: answers one task after the other until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the parent, which ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(OSError):  # where memory runs out the kernel should take a worker, never the receiving side
        Path("/proc/self/oom_score_adj").write_text("700")
    if warm_up is not None:
        warm_up(number)
    connection.send_bytes(READY)
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_answer(message))


def _die_with_parent() -> None:
    """A node that was killed must not leave a worker behind that writes beside the worker of its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(message: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(message)  # noqa: S301  # from our own parent over a private pipe
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:  # the border of the process: every error belongs to the caller
        log.debug("a task failed", exc_info=True)  # who asked tells it, in words that fit the error
        return _encode_error(error)


def _encode_error(error: Exception) -> bytes:
    """The exception itself, or its text where it does not survive pickling both ways."""
    try:
        encoded = pickle.dumps((False, error))
        pickle.loads(encoded)  # noqa: S301  # our own bytes
    except Exception:  # noqa: BLE001  # whatever a foreign class raises when it is pickled
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return encoded
