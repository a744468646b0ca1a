"""Serves the page in a thread of its own. Whatever happens here, the node goes on; it is said and tried again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from ssl import SSLContext

import uvicorn
from starlette.types import ASGIApp

from dicom_node.config_web import WebSection
from dicom_node.tls import server_context
from dicom_node.web.listener import MAX_CONNECTIONS, listen

LOGGER = logging.getLogger(__name__)
RETRY_S = 30.0
STOP_S = 5.0
KEEP_ALIVE_S = 15


class WebServer:
    """One listener and its thread.

    Args:
        section: [web].
        application: opens the application and closes what it holds; called in the thread, anew after a failure.
        tell: takes a sentence for the ledger: what is wrong with the page, and that it is served again.
    """

    def __init__(
        self,
        section: WebSection,
        application: Callable[[], AbstractContextManager[ASGIApp]],
        tell: Callable[[str], None],
        retry_s: float = RETRY_S,
    ) -> None:
        self._section = section
        self._application = application
        self._tell = tell
        self._retry_s = retry_s
        self._stopping = threading.Event()
        self._server: uvicorn.Server | None = None
        self._lock = threading.Lock()
        self.url = ""  # where it is, since `listening`
        self.listening = threading.Event()  # connections are taken
        self.thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Begin to serve; returns at once."""
        self.thread.start()

    def stop(self) -> None:
        """Serve no more; waits a short time for answers that are under way."""
        self._stopping.set()
        with self._lock:
            if self._server is not None:
                self._server.should_exit = True
        if self.thread.is_alive():
            self.thread.join(2 * STOP_S)

    def _run(self) -> None:
        failed = False
        while not self._stopping.is_set():
            try:
                self._serve(failed)
                failed = False
            except Exception as error:  # the border to everything that serves the page
                if not failed:  # once, and not with every further try
                    LOGGER.exception("the status page is not served; the node goes on without it")
                    self._say(f"the status page is not served: {_why(error)}; the node goes on without it")
                failed = True
            self._stopping.wait(self._retry_s)

    def _say(self, text: str) -> None:
        try:
            self._tell(text)
        except Exception:
            LOGGER.exception("an event about the status page could not be written")

    def _serve(self, after_failure: bool) -> None:
        """Listen and serve until `stop`.

        Raises:
            OSError: the address or port cannot be had.
            ConfigError: a file of TLS cannot be used.
        """
        context = None if self._section.identity is None else server_context(self._section.identity, None)
        with listen(self._section) as listening, self._application() as app:
            server = uvicorn.Server(_settings(app, self._section, context))
            with self._lock:
                self._server = server
                server.should_exit = self._stopping.is_set()
            host, port = listening.getsockname()[:2]
            scheme = "http" if context is None else "https"
            self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
            LOGGER.info("the status page is at %s", self.url)
            self.listening.set()
            if after_failure:
                self._say("the status page is served again")
            server.run(sockets=[listening])
        if not self._stopping.is_set():
            raise RuntimeError("the server of the status page ended by itself")


def _settings(app: ASGIApp, section: WebSection, context: SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,  # addresses that are asked for hold UIDs
        server_header=False,
        proxy_headers=bool(section.hosts) and section.is_local,  # a proxy on this machine says for whom it asks
        forwarded_allow_ips=["127.0.0.1", "::1"],
        backlog=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(STOP_S),
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
