"""The thread that serves the page: it ends with the node, and nothing that befalls it reaches the node."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from dicom_node.config_web import WebSection
from dicom_node.web.listener import MAX_CONNECTIONS
from dicom_node.web.server import WebServer
from tests.fixtures.certificates import Authority


def application() -> AbstractContextManager[ASGIApp]:
    return nullcontext(Starlette())


@contextmanager
def serving(section: WebSection, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Its address."""
    caplog.set_level("INFO")
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    server = WebServer(section, application, told.put)
    server.start()
    try:
        assert server.listening.wait(60)
        assert f"the status page is at {server.url}" in caplog.text
        yield server.url.rstrip("/")
    finally:
        server.stop()
        assert not server.thread.is_alive()
        assert told.empty()


def test_it_answers_until_it_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    with serving(WebSection(port=0), caplog) as url:
        assert httpx.get(f"{url}/nothing").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_with_tls_and_nothing_else(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.issue("page")
    section = WebSection(port=0, tls=True, tls_certificate=identity.certificate, tls_key=identity.key)
    with serving(section, caplog) as url:
        assert url.startswith("https://")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(url.replace("https", "http"))


def test_whoever_opens_connections_and_says_nothing_takes_few_files_and_keeps_nobody_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(WebSection(port=0), caplog) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        silent = [stack.enter_context(socket.create_connection(address)) for _ in range(4 * MAX_CONNECTIONS)]
        for _ in range(3):
            assert httpx.get(f"{url}/nothing").status_code == 404
        held = 0
        for connection in silent:
            connection.setblocking(False)
            with suppress(ConnectionError):
                try:
                    connection.recv(1)
                except BlockingIOError:
                    held += 1
        assert held <= MAX_CONNECTIONS


def test_a_port_that_is_taken_is_said_once_and_tried_again() -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = WebServer(WebSection(port=port), application, told.put, retry_s=0.01)
        server.start()
        said = told.get(timeout=60)
        assert f"cannot listen on 127.0.0.1 port {port}" in said
        assert "the node goes on" in said
    try:
        assert told.get(timeout=60) == "the status page is served again"
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404
    finally:
        server.stop()


def test_an_application_that_cannot_be_made_ends_nothing() -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def build() -> AbstractContextManager[ASGIApp]:
        raise ValueError("no template")

    server = WebServer(WebSection(port=0), build, told.put)
    server.start()
    assert "no template" in told.get(timeout=60)
    server.stop()
