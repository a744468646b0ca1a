"""TLS with real peers: dcmtk's storescu, dcmsend and storescp, and Orthanc; certificates made for the test."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from dicom_node import config as configuration
from dicom_node import scu
from dicom_node.clock import utc_now
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Destination
from dicom_node.courier import Pace
from dicom_node.delivery import DeliveryService
from dicom_node.errors import TransientError
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from tests.fixtures.certificates import Authority, Owner
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc, free_port
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import reference, write_object
from tests.fixtures.reception import receiving

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


@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"], ids=["non-downgrading", "BCP 195", "extended"])
def test_dcmtk_sends_over_tls(tmp_path: Path, tool: Tool, ca: Authority, profile: str) -> None:
    ct = write_object(tmp_path / "ct", CTImageStorage)
    # the extended profile asks for RSA
    node = ca.issue("node", key=rsa.generate_private_key(65537, 3072))
    scu_owner = ca.issue("ct1", key=rsa.generate_private_key(65537, 3072))
    files = {"certificate": str(node.certificate), "key": str(node.key), "ca": str(ca.certificate)}
    dcmtk = Dcmtk(tool)
    with receiving(tmp_path / "state", {**files, "port": 0}) as receiver:
        options = [str(part) for part in secured(scu_owner, ca)]
        done = dcmtk.storescu(receiver.tls_port, [ct], "DICOMNODE", *options, profile)
        assert done.returncode == 0, done.stdout
        anonymous = dcmtk.storescu(receiver.tls_port, [ct], "DICOMNODE", "+tla", "-ic", "+py")
        assert anonymous.returncode != 0
        retired = dcmtk.storescu(receiver.tls_port, [ct], "DICOMNODE", *options, "+pa")
        assert retired.returncode != 0
        plain = dcmtk.storescu(receiver.port, [ct], "DICOMNODE")
        assert plain.returncode == 0, plain.stdout
    over_tls, in_the_clear = receiver.received()
    assert over_tls == in_the_clear


@pytest.fixture
def orthanc(tool: Tool, tmp_path: Path, ca: Authority) -> Iterator[Orthanc]:
    """A PACS that lets nobody in without TLS and a certificate."""
    tool("/usr/sbin/Orthanc")
    owner = ca.issue("orthanc")
    pacs = Orthanc(
        tmp_path / "orthanc",
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(owner.certificate),
        DicomTlsPrivateKey=str(owner.key),
        DicomTlsTrustedCertificates=str(ca.certificate),
        DicomTlsRemoteCertificateRequired=True,
    )
    pacs.start()
    yield pacs
    pacs.kill()


def test_results_are_committed_by_orthanc_over_tls_both_ways(
    tmp_path: Path, ca: Authority, orthanc: Orthanc
) -> None:
    node = ca.issue("node")
    with ExitStack() as stack:
        outbox = Outbox(tmp_path, stack)
        outbox.clock.now = utc_now()
        config = configuration.parse(
            {
                "node": {"ae_title": "NODE", "state_dir": str(tmp_path / "state")},
                "tls": {
                    "port": 0,
                    "only": True,
                    "certificate": str(node.certificate),
                    "key": str(node.key),
                    "ca": str(ca.certificate),
                    "peers": {"ORTHANC": ["orthanc"]},
                },
                "delivery": {"backoff_s": 0.2, "backoff_cap_s": 0.5, "commitment_timeout_s": 20.0},
                "destinations": [orthanc.destination(tls=True, timeout_s=5.0)],
            }
        )
        service = DeliveryService(config, outbox.ledger, outbox.spool, Pace.of(config, stay_s=0.5))
        reports: list[CommitmentReport] = []

        def hand_on(report: CommitmentReport) -> None:
            reports.append(report)
            service.on_event_report(report)

        receiver = Receiver(config, Spool(config.node.state_dir, 0), lambda path: None, hand_on)
        port = receiver.start()
        stack.callback(receiver.stop)
        orthanc.know("NODE", port, UseDicomTls=True)
        paths = outbox.fill()
        service.start()
        stack.callback(service.stop)
        assert wait_for(lambda: outbox.states() == {"committed"})
    uids = {reference(path).sop_instance_uid for path in paths.values()}
    assert [set(report.committed) for report in reports] == [uids]
    assert uids == orthanc.kept().keys()
