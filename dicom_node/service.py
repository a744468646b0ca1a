"""`dicomnode serve`: one node per state folder, signals, systemd's notifications, logging."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sdnotify

from dicom_node import certificates, logs
from dicom_node.clock import utc_now
from dicom_node.config import Config
from dicom_node.errors import ConfigError, NodeError
from dicom_node.node import Node
from dicom_node.sole_use import sole_use
from dicom_node.web import app
from dicom_node.web.server import WebServer
from dicom_node.worker_pool import WorkerPool
from pipeline import RESEARCH_USE_ONLY, __version__

log = logging.getLogger(__name__)

CHECK_S = 120.0  # loading torch from a slow disk
WARN_EVERY_S = 86_400.0
NOT_NEEDED = ("destinations[", "sources[", "audit.", "web.", "notifications[", "tls.crl:")  # to receive
LOOK_EVERY_S = 5.0  # how often the threads are looked after where systemd sets no watchdog


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; what is received and what is half done survives.

    Raises:
        ConfigError: see `refuse_faults`.
        NodeError: another node uses the state folder or the database, the port is taken, the database cannot be
            opened or was taken away, or a thread of the node died (systemd starts it anew).
    """
    logs.set_up(config.log.level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    notifier = sdnotify.SystemdNotifier()
    with ExitStack() as stack:
        stack.enter_context(only_one(config.node.state_dir))
        refuse_faults(config)
        taken = stack.enter_context(sole_use(config.database_url, config.node.state_dir))
        node = Node(config)
        page = _page(config, node)
        try:
            port = node.start()
            log.info("dicomnode %s. %s.", __version__, RESEARCH_USE_ONLY)
            log.info("%s listens on %s:%d", config.node.ae_title, config.node.bind, port)
            if page is not None:
                page.start()
            notifier.notify(f"READY=1\nSTATUS={config.node.ae_title} on port {port}")
            _watch(node, config, stop, notifier, taken)
        finally:
            notifier.notify("STOPPING=1")
            if page is not None:
                page.stop()
            node.stop()
    log.info("stopped")


def _page(config: Config, node: Node) -> WebServer | None:
    """The status page; None where config.toml does not want it."""
    return (
        WebServer(config.web, lambda: app.serving(config, node, utc_now), node.note) if config.web.enabled else None
    )


def refuse_faults(config: Config) -> None:
    """Look at folders, model and weights before the port opens: a PACS keeps what it could not send.

    In a process of its own: this one never loads torch. What is wrong with a peer (an expired certificate, a token
    that is just being renewed) or with the status page is only said: reception does not depend on it.

    Raises:
        ConfigError: something that config.toml names cannot be used.
    """
    pool = WorkerPool(1, deadline_s=CHECK_S)
    try:
        faults = pool.submit(doctor_faults, config).result()
    finally:
        pool.shutdown(cancel_futures=True)
    own = [fault for fault in faults if not fault.startswith(NOT_NEEDED)]
    for fault in faults:
        if fault not in own:
            log.error("%s", fault)
    if own:
        raise ConfigError(f"{len(own)} fault(s)\n" + "\n".join(f"  {fault}" for fault in own))


def doctor_faults(config: Config) -> list[str]:
    """`doctor.file_faults`, imported where it runs. A database server that is away may come back: no fault."""
    from dicom_node import doctor

    return doctor.file_faults(config)


def _watch(
    node: Node,
    config: Config,
    stop: threading.Event,
    notifier: sdnotify.SystemdNotifier,
    taken: Callable[[], str] = lambda: "",
) -> None:
    """Tell systemd that all is well, as long as it is; and the log, once a day, which certificates end soon."""
    interval_us = os.environ.get("WATCHDOG_USEC", "")
    pause_s = int(interval_us) / 2e6 if interval_us.isdigit() and int(interval_us) else LOOK_EVERY_S
    warn_at = time.monotonic()
    while not stop.wait(pause_s):
        if time.monotonic() >= warn_at:
            warn_at += WARN_EVERY_S
            for warning in certificates.expiring(config, datetime.now(UTC)):
                log.warning(warning)
        dead = node.dead_threads()
        if dead:
            reason = f"stopped, because these threads died: {', '.join(dead)}; see the log above"
            node.give_up(reason)
            raise NodeError(reason)
        lost = node.ledger_lost()
        if lost:  # every further answer 0x0000 would be forgotten with this process
            raise NodeError(f"stopped, because {lost}; docs/running.md, Backup, says what to do")
        if other := taken():
            raise NodeError(f"stopped, because {other}; each node needs a database of its own (node.database)")
        notifier.notify("WATCHDOG=1")


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the lock of a state folder; two nodes on one folder would deliver everything twice.

    Raises:
        NodeError: the folder cannot be used, or another node holds the lock.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state_dir / "lock").open("a")
    except OSError as error:
        raise NodeError(
            f"{state_dir}: {error.strerror}; the service's user must be able to write node.state_dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NodeError(f"another dicomnode is running on {state_dir}") from error
        yield
