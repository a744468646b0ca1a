"""TLS with real peers: dcmtk's storescu, dcmsend and storescp, and Orthanc; certificates made for the test."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node import scu
from dicom_node.config import Destination
from dicom_node.errors import TransientError
from tests.fixtures.certificates import Authority, Owner
from tests.fixtures.orthanc import free_port
from tests.fixtures.part10 import reference, write_object

pytestmark = pytest.mark.pacs
Tool = Callable[[str], str]


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def storescp(tool: Tool, folder: Path, *options: object) -> Iterator[int]:
    """dcmtk as a PACS; gives the port once it listens."""
    folder.mkdir()
    port = free_port()
    command = [tool("/usr/bin/storescp"), "-od", folder, "+xa", *options, port]
    with (folder.parent / "storescp.log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    try:
        assert wait_for(lambda: process.poll() is not None or open_port(port))
        yield port
    finally:
        process.kill()
        process.wait()


def secured(owner: Owner, ca: Authority) -> tuple[object, ...]:
    """Options for TLS with certificates on both sides."""
    return ("+tls", owner.key, owner.certificate, "+cf", ca.certificate)


def open_port(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], limit_s: float = 30.0) -> bool:
    """Look every twentieth of a second, as these programs call nobody."""
    pause = threading.Event()
    for _ in range(int(limit_s / 0.05)):
        if condition():
            return True
        pause.wait(0.05)
    return condition()


def destination(port: int, ca: Authority, owner: Owner | None, **changes: object) -> Destination:
    own = {} if owner is None else {"tls_certificate": owner.certificate, "tls_key": owner.key}
    base = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "timeout_s": 10}
    return Destination.model_validate({**base, "tls": True, "tls_ca": ca.certificate, **own, **changes})


def test_results_go_to_dcmtk_over_tls(tmp_path: Path, tool: Tool, ca: Authority) -> None:
    paths = [write_object(tmp_path / "out") for _ in range(3)]
    with storescp(tool, tmp_path / "pacs", *secured(ca.issue("pacs"), ca)) as port:
        peer = destination(port, ca, ca.issue("node"))
        scu.echo(peer, "NODE")
        results = scu.store(peer, paths, "NODE")
    assert [result.error for result in results] == [None] * 3
    kept = {str(dcmread(path).SOPInstanceUID) for path in (tmp_path / "pacs").iterdir()}
    assert kept == {reference(path).sop_instance_uid for path in paths}


def test_what_is_wrong_is_said(tmp_path: Path, tool: Tool, ca: Authority) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Authority(tmp_path / "elsewhere")
    with storescp(tool, tmp_path / "pacs", *secured(ca.issue("pacs"), ca)) as port:
        node = ca.issue("node")
        for peer, complaint in (
            (destination(port, elsewhere, node), "No TLS connection .* certificate is not believed"),
            (destination(port, ca, node, tls_name="other.example.org"), "Hostname mismatch.*tls_name"),
            (destination(port, ca, elsewhere.issue("node")), "No TLS connection|broke the connection off"),
            (destination(port, ca, None), "No TLS connection|broke the connection off"),
            (destination(port, ca, node, tls=False), "broke the connection off"),
        ):
            with pytest.raises(TransientError, match=complaint):
                scu.echo(peer, "NODE")
        scu.echo(destination(port, ca, node), "NODE")


def test_a_peer_without_tls_is_named_as_such(tmp_path: Path, tool: Tool, ca: Authority) -> None:
    with (
        storescp(tool, tmp_path / "pacs") as port,
        pytest.raises(TransientError, match="No TLS connection to PACS .*(handshake|speak TLS|closed)"),
    ):
        scu.echo(destination(port, ca, ca.issue("node")), "NODE")
