"""`dicomnode doctor` says whether the status page is served, by what it answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from dicom_node import config, service
from dicom_node.doctor_page import page
from dicom_node.findings import Grade
from dicom_node.web import healthz
from dicom_node.web.server import WebServer
from tests.fixtures.certificates import Authority
from tests.fixtures.page import FakeNode


def settings(state_dir: Path, **web: Any) -> config.Config:
    return config.parse({"node": {"state_dir": str(state_dir)}, "web": web})


@contextmanager
def serving(state_dir: Path, node: FakeNode, **web: Any) -> Iterator[config.Config]:
    """A node that runs, as far as can be seen, with a page."""
    application = Starlette(routes=[Route("/healthz", healthz.endpoint(node))])
    server = WebServer(settings(state_dir, port=0, **web).web, lambda: nullcontext(application), print)
    with service.only_one(state_dir):
        server.start()
        assert server.listening.wait(60)
        yield settings(state_dir, port=int(server.url.rstrip("/").rpartition(":")[2]), **web)
        server.stop()


def test_a_page_that_answers_with_and_without_tls(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("page.example.org")
    secure = {"tls": True, "tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    for web in ({}, secure):
        with serving(tmp_path / "state", FakeNode(), **web) as found:
            (finding,) = page(found)
        assert (finding.grade, "answers, all is well" in finding.text) == (Grade.OK, True)


def test_what_it_says_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, FakeNode(worker="no worker process lives")) as found:
        (finding,) = page(found)
    assert finding.grade is Grade.REMARK
    assert "worker: no worker process lives" in finding.text


def test_a_port_of_somebody_else_and_none_at_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert list(page(settings(tmp_path, port=port))) == []  # the node does not run: said elsewhere
    with service.only_one(tmp_path):
        (away,) = page(settings(tmp_path, port=port))
        (anew,) = page(settings(tmp_path, port=0))
        assert list(page(settings(tmp_path, enabled=False))) == []
    assert (away.grade, "does not answer as it should" in away.text) == (Grade.REMARK, True)
    assert "at each start" in anew.text
