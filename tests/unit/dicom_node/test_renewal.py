"""A certificate is renewed while the node runs: real handshakes before, meanwhile and after."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from dicom_node import certificates, config, renewal, tls
from dicom_node.errors import ConfigError
from dicom_node.tls import ClientTls, Identity
from tests.fixtures.certificates import Authority, Owner
from tests.fixtures.reception import AE_TITLE, SECONDS, Node, ct, receiving, status, store_dataset


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


def client(trusted: Path, owner: Owner) -> ssl.SSLContext:
    return tls.client_context(ClientTls("localhost", trusted, Identity(owner.certificate, owner.key)))


def shown(node: Node, context: ssl.SSLContext) -> str:
    """Fingerprint of the certificate that the listener shows to a new connection."""
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return f"sha256:{sha256(secure.getpeercert(binary_form=True) or b'').hexdigest()}"


@contextmanager
def calling(node: Node, context: ssl.SSLContext) -> Iterator[Association]:
    """An association; it may not be established."""
    ae = AE("CT1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = SECONDS
    contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
    address = ("127.0.0.1", node.tls_port)
    assoc = ae.associate(*address, contexts=contexts, ae_title=AE_TITLE, tls_args=(context, "localhost"))
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def faults(section: dict[str, Any]) -> list[str]:
    return certificates.not_in_use(config.parse({"tls": section}))


@pytest.fixture
def ct1(ca: Authority, node: Node) -> ssl.SSLContext:
    """A modality with a certificate of the CA."""
    return client(ca.certificate, ca.issue("ct1"))


def test_a_renewed_certificate_is_used_at_the_next_connection(
    node: Node, ca: Authority, ct1: ssl.SSLContext, section: dict[str, Any]
) -> None:
    old = shown(node, ct1)
    renewed = ca.issue("node")  # into the same files
    assert shown(node, ct1) == renewed.fingerprint != old
    assert faults(section) == []


def test_an_open_association_goes_on(node: Node, ca: Authority, ct1: ssl.SSLContext) -> None:
    with calling(node, ct1) as assoc:
        renewed = ca.issue("node")
        assert shown(node, ct1) == renewed.fingerprint
        assert status(store_dataset(assoc, ct())) == 0x0000


def test_a_renewal_that_fails_for_a_passing_reason_is_tried_again(
    node: Node,
    ca: Authority,
    ct1: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = shown(node, ct1)

    def no_descriptors(_section: object) -> ssl.SSLContext:
        raise ConfigError("too many open files")

    renewed = ca.issue("node")
    with monkeypatch.context() as patch:
        patch.setattr(renewal, "listener_context", no_descriptors)
        assert [shown(node, ct1), shown(node, ct1)] == [old, old]
    assert shown(node, ct1) == renewed.fingerprint
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


def test_half_of_a_pair_leaves_the_old_one_in_use_and_is_said(
    node: Node, ca: Authority, ct1: ssl.SSLContext, section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    old, key = shown(node, ct1), Path(section["key"])
    content = key.read_bytes()
    key.write_bytes(ca.issue("other").key.read_bytes())
    assert [shown(node, ct1), shown(node, ct1)] == [old, old]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1 and "the old ones stay in use" in said[0]
    (fault,) = faults(section)
    assert "the key does not belong to the certificate" in fault and fault.removeprefix("tls: ") in said[0]
    assert fault in certificates.faults(config.parse({"tls": section}), datetime.now(UTC))  # for `doctor`
    key.write_bytes(content)
    assert shown(node, ct1) == old and faults(section) == []


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_a_file_that_is_gone_or_spoilt(node: Node, ct1: ssl.SSLContext, section: dict[str, Any], name: str) -> None:
    old, path = shown(node, ct1), Path(section[name])
    content = path.read_bytes()
    for spoil in (path.unlink, lambda: path.write_text("no PEM")):
        spoil()
        assert shown(node, ct1) == old
        assert len(faults(section)) == 1
    path.write_bytes(content)
    assert shown(node, ct1) == old


def test_who_is_believed_is_renewed_too(
    node: Node, ct1: ssl.SSLContext, section: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    successor = Authority(tmp_path / "new", "successor")
    new = client(Path(section["certificate"]), successor.issue("ct2"))
    with calling(node, ct1) as believed, calling(node, new) as stranger:
        assert (believed.is_established, stranger.is_established) == (True, False)
    Path(section["ca"]).write_bytes(successor.certificate.read_bytes())
    with calling(node, ct1) as stranger, calling(node, new) as believed:
        assert (believed.is_established, stranger.is_established) == (True, False)


def test_credentials_that_only_the_service_has_are_no_fault(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert faults({**section, "key": "credential:node"}) == []
    assert faults({key: value for key, value in section.items() if key != "port"}) == []
