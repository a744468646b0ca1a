"""The listener with TLS: who gets in, who hangs, who is bound to a certificate, and what is counted together."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from dicom_node import tls
from dicom_node.errors import NodeError
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from dicom_node.tls import ClientTls, Identity
from tests.fixtures.certificates import Authority, Owner
from tests.fixtures.reception import (
    AE_TITLE,
    SECONDS,
    Node,
    calling,
    ct,
    encode,
    receiving,
    rejection,
    settings,
    status,
    store_dataset,
)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def section(ca: Authority) -> dict[str, Any]:
    return ca.listener()


@pytest.fixture
def node(tmp_path: Path, section: dict[str, Any]) -> Iterator[Node]:
    with receiving(tmp_path / "state", section) as running:
        yield running


@contextmanager
def securely(node: Node, ca: Authority, owner: Owner | None, calling_ae: str = "CT1") -> Iterator[Association]:
    """An association over TLS; it may not be established."""
    identity = None if owner is None else Identity(owner.certificate, owner.key)
    context = tls.client_context(ClientTls("localhost", ca.certificate, identity))
    ae = AE(calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = SECONDS
    contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    assoc = ae.associate(
        "127.0.0.1", node.tls_port, contexts=contexts, ae_title=AE_TITLE, tls_args=(context, "localhost")
    )
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def test_instances_come_whole_over_tls_and_beside_it(node: Node, ca: Authority) -> None:
    large, plain = ct(size=1024), ct()
    with securely(node, ca, ca.issue("ct1")) as assoc:
        assert status(store_dataset(assoc, large)) == 0x0000
    with calling(node) as assoc:
        assert status(store_dataset(assoc, plain)) == 0x0000
    assert node.received() == [encode(large), encode(plain)]
    assert node.ended.get(timeout=SECONDS) == {large.SeriesInstanceUID}


def test_nobody_gets_in_without_a_certificate_of_the_ca(node: Node, ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    stranger = Authority(tmp_path / "elsewhere").issue("stranger")
    for owner in (None, stranger):
        with securely(node, ca, owner) as assoc:
            assert not assoc.is_established
    with calling(Node(node.spool, node.tls_port, node.receiver)) as assoc:  # without TLS on the port with TLS
        assert not assoc.is_established
    with securely(node, ca, ca.issue("ct1")) as assoc:
        assert assoc.is_established


def test_hanging_handshakes_block_nobody_and_end(
    tmp_path: Path, ca: Authority, section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path / "state", {**section, "handshake_timeout_s": 0.5}) as node, ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", node.tls_port), SECONDS)) for _ in range(20)
        ]
        half = stack.enter_context(socket.create_connection(("127.0.0.1", node.tls_port), SECONDS))
        half.sendall(bytes.fromhex("16030100c8010000c40303"))  # a ClientHello that does not go on
        with securely(node, ca, ca.issue("ct1")) as assoc:
            assert status(store_dataset(assoc, ct())) == 0x0000
        for connection in (*silent, half):  # closed by the node, and not by us
            assert connection.recv(1) == b""
    assert "the handshake took too long" in caplog.text


def test_a_node_stops_at_once_while_a_handshake_hangs(tmp_path: Path, section: dict[str, Any]) -> None:
    with receiving(tmp_path / "state", {**section, "handshake_timeout_s": 3600}) as node:
        hanging = socket.create_connection(("127.0.0.1", node.tls_port), SECONDS)
        with hanging:
            while not node.receiver._servers[0]._admission.all():
                pass
            node.receiver.stop()
            with suppress(ConnectionResetError):
                while hanging.recv(4096):
                    pass  # an alert


def test_when_the_node_stops_the_last_word_is_encrypted_too(node: Node, ca: Authority) -> None:
    """An A-ABORT in the clear would be taken for an attack."""
    with socket.create_connection(("127.0.0.1", node.tls_port), SECONDS) as plain:
        owner = ca.issue("ct1")
        client = ClientTls("localhost", ca.certificate, Identity(owner.certificate, owner.key))
        with tls.client_context(client).wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(_request())
            assert secure.recv(1) == b"\x02"  # A-ASSOCIATE-AC
            secure.recv(4096)
            node.receiver.stop()
            assert secure.recv(4096)[:1] == b"\x07"  # A-ABORT, decrypted
            assert secure.recv(1) == b""  # close_notify, not cut off


def _request() -> bytes:
    """An A-ASSOCIATE-RQ."""
    from pynetdicom.pdu import A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "CT1", AE_TITLE
    context = build_context(CTImageStorage, ExplicitVRLittleEndian)
    context.context_id = 1
    request.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "1.2.3"
    request.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return pdu.encode()


def test_an_ae_title_may_be_bound_to_a_certificate(
    tmp_path: Path, ca: Authority, section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    ct1, ct2, other = ca.issue("ct1", ("ct1.example.org",)), ca.issue("ct2", ()), ca.issue("other")
    peers = {"CT1": ["CT1.example.org"], "CT2": [ct2.fingerprint]}
    with receiving(tmp_path / "state", {**section, "peers": peers}) as node:
        for owner, calling_ae, allowed in (
            (ct1, "CT1", True),
            (ct2, "CT2", True),
            (ct2, "CT1", False),
            (ct1, "CT2", False),
            (other, "CT1", False),
            (other, "CT3", True),  # not bound
        ):
            with securely(node, ca, owner, calling_ae) as assoc:
                assert assoc.is_established is allowed, (owner.certificate, calling_ae)
        assert rejection(node, calling_ae="CT1") == (1, 1, 3)  # without TLS it proves nothing
        assert rejection(node, calling_ae="CT3") is None
    assert "not with a certificate that tls.peers has for this AE title" in caplog.text


def test_a_certificate_that_is_not_required_binds_all_the_same(
    tmp_path: Path, ca: Authority, section: dict[str, Any]
) -> None:
    lenient = {**section, "require_client_certificate": False, "peers": {"CT1": ["ct1"]}}
    with receiving(tmp_path / "state", lenient) as node:
        for owner, calling_ae, allowed in (
            (None, "CT1", False),
            (None, "CT2", True),
            (ca.issue("ct1"), "CT1", True),
        ):
            with securely(node, ca, owner, calling_ae) as assoc:
                assert assoc.is_established is allowed


def test_only_tls(tmp_path: Path, ca: Authority, section: dict[str, Any]) -> None:
    with receiving(tmp_path / "state", {**section, "only": True}) as node:
        assert node.port == node.tls_port
        assert len(node.receiver._servers) == 1
        with securely(node, ca, ca.issue("ct1")) as assoc:
            assert assoc.is_established


def test_both_listeners_count_together(tmp_path: Path, ca: Authority, section: dict[str, Any]) -> None:
    owner = ca.issue("ct1")
    with receiving(tmp_path / "state", section, max_associations=2) as node, ExitStack() as stack:
        assert stack.enter_context(calling(node)).is_established
        assert stack.enter_context(securely(node, ca, owner)).is_established
        assert rejection(node) == (2, 3, 2)
        with securely(node, ca, owner) as assoc:
            assert not assoc.is_established


def test_one_address_cannot_take_all_places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = {"max_associations": 3, "max_associations_per_peer": 2}
    with receiving(tmp_path / "state", None, **limits) as node, ExitStack() as stack:
        first = stack.enter_context(calling(node))
        assert stack.enter_context(calling(node)).is_established
        assert rejection(node) == (2, 3, 2)
        assert "2 associations from this address are open already" in caplog.text
        ae = AE("FAR")
        far = ae.associate(
            "127.0.0.1",
            node.port,
            contexts=[build_context(CTImageStorage)],
            ae_title=AE_TITLE,
            bind_address=("127.0.0.9", 0),
        )
        assert far.is_established
        far.release()
        first.release()
        assert rejection(node) is None


def test_a_port_that_is_taken_leaves_no_listener_behind(tmp_path: Path, section: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        receiver = Receiver(
            settings(tmp_path / "state", {**section, "port": port}), Spool(tmp_path / "state"), lambda _: None
        )
        with pytest.raises(NodeError, match=f"cannot listen on 127.0.0.1 port {port}"):
            receiver.start()
    assert receiver._servers == []


def test_plain_text_on_the_tls_port_is_named(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with socket.create_connection(("127.0.0.1", node.tls_port), SECONDS) as plain:
        plain.sendall(_request())
        with pytest.raises((ConnectionResetError, StopIteration)):
            while True:
                if not plain.recv(4096):
                    raise StopIteration
    assert "no TLS connection" in caplog.text


def test_tls_1_1_does_not_get_in(node: Node) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.deprecated_call():
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", node.tls_port), SECONDS) as plain, pytest.raises(OSError):
        old.wrap_socket(plain)
