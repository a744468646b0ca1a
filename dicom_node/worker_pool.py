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
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from dicom_node.errors import TransientError

log = logging.getLogger(__name__)

T = TypeVar("T")
END_S = 5.0  # how long a process may take to end by itself before it is killed


class WorkerDied(TransientError):
    """The process of a task ended without an answer: killed, out of memory, or crashed in native code."""


class DeadlineExceeded(TransientError):
    """The task took longer than the deadline; its process was killed."""


@dataclass(frozen=True)
class _Task:
    future: Future[Any]
    message: bytes


class WorkerPool(Executor):
    """Runs picklable functions in `slots` warm processes.

    Args:
        slots: number of processes.
        deadline_s: a task that takes longer is ended with `DeadlineExceeded`.
        warm_up: a picklable function that each process calls once before its first task, e.g. for slow imports.
    """

    def __init__(self, slots: int, deadline_s: float, warm_up: Callable[[], object] | None = None) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._slots = [_Slot(number, self._tasks, self._closed, deadline_s, warm_up) for number in range(slots)]
        for slot in self._slots:
            slot.start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call; raises RuntimeError after `shutdown`, and what pickling raises."""
        if self._closed.is_set():
            raise RuntimeError("the pool is shut down")
        future: Future[T] = Future()
        self._tasks.put(_Task(future, pickle.dumps((fn, args, kwargs))))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes. Tasks that wait are cancelled; with `cancel_futures` running ones are killed too."""
        self._closed.set()
        for slot in self._slots:
            self._tasks.put(None)
            if cancel_futures:
                slot.kill()
        if wait:
            for slot in self._slots:
                slot.join()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [pid for slot in self._slots if (pid := slot.pid) is not None]


class _Slot(threading.Thread):
    """One process and the thread that hands it tasks."""

    def __init__(
        self,
        number: int,
        tasks: queue.SimpleQueue[_Task | None],
        closed: threading.Event,
        deadline_s: float,
        warm_up: Callable[[], object] | None,
    ) -> None:
        super().__init__(name=f"worker-slot-{number}", daemon=True)
        self._tasks, self._closed = tasks, closed
        self._deadline_s, self._warm_up = deadline_s, warm_up
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()  # guards the process against a kill while it is being replaced

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def kill(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def run(self) -> None:
        connection = self._replace()
        while (task := self._tasks.get()) is not None:
            if self._closed.is_set():
                task.future.cancel()
            elif task.future.set_running_or_notify_cancel():
                connection = self._do(task, connection)
        self._end(connection)

    def _do(self, task: _Task, connection: Connection) -> Connection:
        """One task; gives back the connection for the next, of a new process where this one is lost."""
        assert self._process is not None  # noqa: S101  # made by _replace
        try:
            connection.send_bytes(task.message)
            ready = wait([connection, self._process.sentinel], self._deadline_s)
            if not ready:
                raise DeadlineExceeded(f"took longer than {self._deadline_s:g} s and was stopped")
            answer = connection.recv_bytes()
        except (EOFError, OSError):
            self._process.join(END_S)
            task.future.set_exception(WorkerDied(f"the worker process died ({_how(self._process.exitcode)})"))
        except DeadlineExceeded as error:
            # Dead before the caller hears of it: a second attempt must not meet the first one's files.
            self._process.kill()
            self._process.join()
            task.future.set_exception(error)
        else:
            _settle(task.future, answer)
            return connection
        return connection if self._closed.is_set() else self._replace()

    def _replace(self) -> Connection:
        """Start a process, in the place of one that is dead or to be killed."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.join()
            ours, theirs = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=_work, args=(theirs, self._warm_up), name=self.name, daemon=True
            )
            process.start()
            theirs.close()
            self._process, self._connection = process, ours
            log.info("%s: worker process %s", self.name, process.pid)
        return ours

    def _end(self, connection: Connection) -> None:
        connection.close()  # the process reads the end of its pipe and returns
        assert self._process is not None  # noqa: S101
        self._process.join(END_S)
        self.kill()
        self._process.join()


def _how(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit status {exit_code}"


def _settle(future: Future[Any], answer: bytes) -> None:
    succeeded, value = pickle.loads(answer)  # noqa: S301  # from our own child over a private pipe
    if succeeded:
        future.set_result(value)
    else:
        future.set_exception(value)


def _work(connection: Connection, warm_up: Callable[[], object] | None) -> None:
    """The child: answers one task after the other until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the parent, which ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if warm_up is not None:
        warm_up()
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
        log.exception("a task failed")
        return _encode_error(error)


def _encode_error(error: Exception) -> bytes:
    """The exception itself, or its text where it does not survive pickling both ways."""
    try:
        encoded = pickle.dumps((False, error))
        pickle.loads(encoded)  # noqa: S301  # our own bytes
    except Exception:  # noqa: BLE001  # whatever a foreign class raises when it is pickled
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return encoded
