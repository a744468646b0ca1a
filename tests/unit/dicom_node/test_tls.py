"""TLS contexts against each other: who is believed, which versions and ciphers, and what is said of bad files."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from dicom_node import tls
from dicom_node.errors import ConfigError
from dicom_node.tls import ClientTls, Identity, PeerCertificate
from tests.fixtures.certificates import Authority, Owner

OVER = datetime.now(UTC) - timedelta(days=10)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Owner:
    """Vouched for by a CA that nobody knows."""
    (tmp_path / "elsewhere").mkdir()
    return Authority(tmp_path / "elsewhere").issue("stranger")


def identity(owner: Owner) -> Identity:
    return Identity(owner.certificate, owner.key)


def meet(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[ssl.SSLSocket, PeerCertificate | None]:
    """A handshake and a byte each way; the client's connection, and who the server says that the client is.

    Raises what the server or else the client raises.
    """
    seen: list[PeerCertificate | None] = []
    failures: list[OSError] = []
    refusals: list[OSError] = []
    here, there = socket.socketpair()
    here.settimeout(10)
    there.settimeout(10)

    def serve() -> None:
        try:
            with server.wrap_socket(there, server_side=True) as connection:
                seen.append(tls.peer_certificate(connection))
                connection.sendall(connection.recv(1))
                tls.say_goodbye(connection)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        connection = client.wrap_socket(here, server_hostname=name)
        connection.sendall(b"!")
        assert connection.recv(2) == b"!"
    except OSError as error:
        refusals.append(error)
        here.close()
    finally:
        thread.join()
    for error in (*failures, *refusals):
        raise error
    connection.close()
    return connection, seen[0]


def test_both_sides_know_each_other(ca: Authority) -> None:
    node, pacs = ca.issue("node"), ca.issue("pacs", ("PACS.example.org", "10.0.0.7"))
    server = tls.server_context(identity(node), ca.certificate)
    client = tls.client_context(ClientTls("localhost", ca.certificate, identity(pacs)))
    _, seen = meet(server, client)
    assert seen == PeerCertificate(frozenset({"pacs", "pacs.example.org", "10.0.0.7", pacs.fingerprint}))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_and_ciphers_are_those_of_bcp_195(ca: Authority, version: ssl.TLSVersion) -> None:
    server = tls.server_context(identity(ca.issue("node")), None)
    client = tls.client_context(ClientTls("localhost", ca.certificate))
    for context in (server, client):
        tls12 = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
        assert sorted(tls12) == [  # RFC 9325 4.2
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ]
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION and context.options & ssl.OP_NO_RENEGOTIATION
    client.maximum_version = version
    connection, _ = meet(server, client)
    assert connection.version() is None or connection.version() == version.name.replace("_", ".")
    assert server.session_stats()["hits"] == 0


def test_older_versions_are_refused(ca: Authority) -> None:
    server = tls.server_context(identity(ca.issue("node")), None)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.deprecated_call():
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError) as caught:
        meet(server, old)
    assert "BCP 195" in tls.reason(caught.value)


def test_a_client_that_is_not_known_is_refused(ca: Authority, stranger: Owner) -> None:
    node = identity(ca.issue("node"))
    server = tls.server_context(node, ca.certificate)
    with pytest.raises(ssl.SSLError) as caught:
        meet(server, tls.client_context(ClientTls("localhost", ca.certificate, identity(stranger))))
    assert "certificate is not believed" in tls.reason(caught.value)
    nobody = tls.client_context(ClientTls("localhost", ca.certificate))
    with pytest.raises(ssl.SSLError) as caught:
        meet(server, nobody)
    assert tls.reason(caught.value) == "peer did not return a certificate"
    lenient = tls.server_context(node, ca.certificate, require_client_certificate=False)
    assert meet(lenient, nobody)[1] is None
    with pytest.raises(ssl.SSLError):  # what is shown must be valid
        meet(lenient, tls.client_context(ClientTls("localhost", ca.certificate, identity(stranger))))


def test_a_server_must_be_believed_and_have_the_name_asked_for(ca: Authority, stranger: Owner) -> None:
    for owner, name in ((stranger, "localhost"), (ca.issue("node"), "pacs.example.org")):
        server = tls.server_context(identity(owner), None)
        client = tls.client_context(ClientTls(name, ca.certificate))
        with pytest.raises(ssl.SSLError):
            meet(server, client, name)
    pinned = tls.client_context(ClientTls("localhost", stranger.certificate))
    meet(tls.server_context(identity(stranger), None), pinned)  # the certificate itself in place of its CA


def test_expired_and_revoked_certificates_are_refused(ca: Authority) -> None:
    old, lost, good = ca.issue("old", begin=OVER, days=1), ca.issue("lost"), ca.issue("good")
    server = tls.server_context(identity(ca.issue("node")), ca.certificate, ca.revoke(lost))
    for owner, complaint in ((old, "expired"), (lost, "revoked")):
        with pytest.raises(ssl.SSLError) as caught:
            meet(server, tls.client_context(ClientTls("localhost", ca.certificate, identity(owner))))
        assert complaint in tls.reason(caught.value)
    meet(server, tls.client_context(ClientTls("localhost", ca.certificate, identity(good))))


def test_an_encrypted_key_is_opened_with_the_password_of_a_file_and_never_asked_for(
    tmp_path: Path, ca: Authority
) -> None:
    node, password = ca.issue("node", password="sesame"), tmp_path / "password"
    password.write_text("sesame\n")
    tls.server_context(Identity(node.certificate, node.key, password), None)
    with pytest.raises(ConfigError, match="is encrypted: name the file with its password"):
        tls.server_context(identity(node), None)
    password.write_text("wrong")
    with pytest.raises(ConfigError, match="the password of the key is wrong") as caught:
        tls.server_context(Identity(node.certificate, node.key, password), None)
    assert "sesame" not in str(caught.value)


def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path, ca: Authority) -> None:
    node, other = ca.issue("node"), ca.issue("other")
    small = ca.issue("small", key=rsa.generate_private_key(65537, 1024))
    nonsense, absent = tmp_path / "nonsense", tmp_path / "absent"
    nonsense.write_text("nonsense")
    for certificate, key, complaint in (
        (node.certificate, other.key, "the key does not belong to the certificate"),
        (small.certificate, small.key, "the key is too small"),
        (nonsense, node.key, "not in PEM format"),
        (node.certificate, nonsense, "not in PEM format"),
        (absent, node.key, f"{absent} cannot be read: No such file"),
        (node.certificate, absent, f"{absent} cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            tls.server_context(Identity(certificate, key), None)
    with pytest.raises(ConfigError, match=f"{nonsense} holds no certificate"):
        tls.client_context(ClientTls("localhost", nonsense))
    with pytest.raises(ConfigError, match=f"{absent} cannot be read"):
        tls.client_context(ClientTls("localhost", absent))


def test_a_key_may_be_a_credential_of_systemd(
    tmp_path: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = ca.issue("node")
    by_name = Identity(node.certificate, Path("credential:node.key"))
    with pytest.raises(ConfigError, match="set LoadCredential=node.key:FILE in the unit"):
        tls.server_context(by_name, None)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    tls.server_context(by_name, None)


def test_a_connection_without_tls_has_no_certificate() -> None:
    with socket.socket() as plain:
        assert tls.peer_certificate(plain) is None
        tls.say_goodbye(plain)
    tls.say_goodbye(None)
