"""TLS as PS3.15 B.12 wants it (BCP 195: RFC 8996, RFC 9325), for the node as server and as client.

TLS 1.2 with forward secrecy and authenticated encryption, or TLS 1.3; nothing older, no compression, no
renegotiation, no session tickets (their keys would live as long as the process). Files are read when a context is
made: a client makes one per association, and a listener when they have changed (`renewal`), so that renewed
certificates are used without a restart.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from dicom_node.config_base import locate, read_secret
from dicom_node.errors import ConfigError

CIPHERS_TLS12 = "ECDHE+AESGCM:@SECLEVEL=2"  # RFC 9325 4.2; level 2: RSA of 2048 bits or more, no SHA-1 (4.5)


@dataclass(frozen=True)
class Identity:
    """A certificate with its chain and the private key to it, PEM files."""

    certificate: Path
    key: Path
    key_password_file: Path | None = None


@dataclass(frozen=True)
class ClientTls:
    """How a peer is called.

    Attributes:
        name: that its certificate must have: a host name or an address.
        ca: PEM file of those who may have issued it; the certificate itself will do. None: whom the system trusts.
        identity: what the node shows where the peer asks for a certificate.
    """

    name: str
    ca: Path | None
    identity: Identity | None = None


class Called(Protocol):
    """Who is called over TCP; an entry of `config` is one."""

    @property
    def host(self) -> str:
        """Host name or address."""

    @property
    def port(self) -> int:
        """TCP port."""

    @property
    def timeout_s(self) -> float:
        """Longest wait for the connection, and for each answer."""

    @property
    def client_tls(self) -> ClientTls | None:
        """How the connection is secured; None: not at all."""


@dataclass(frozen=True)
class PeerCertificate:
    """A client certificate that was verified.

    Attributes:
        names: common name and DNS names, in lower case, and "sha256:" with the fingerprint.
    """

    names: frozenset[str]


def client_context(client: ClientTls) -> ssl.SSLContext:
    """For calling a peer, whose certificate must be valid and have the name asked for.

    Raises:
        ConfigError: a file cannot be used; says which and why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if client.ca is None:
        context.load_default_certs()
    else:
        _trust(context, client.ca)
    if client.identity is not None:
        _identify(context, client.identity)
    return context


def server_context(
    identity: Identity, ca: Path | None, crl: Path | None = None, require_client_certificate: bool = True
) -> ssl.SSLContext:
    """For a listener. Where a client shows a certificate it must be valid, whether it has to show one or not.

    Raises:
        ConfigError: a file cannot be used; says which and why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = 0
    _identify(context, identity)
    if ca is not None:
        _trust(context, ca)
        context.verify_mode = ssl.CERT_REQUIRED if require_client_certificate else ssl.CERT_OPTIONAL
    if crl is not None:
        _trust(context, crl)
        if not context.cert_store_stats()["crl"]:
            raise ConfigError(f"{crl} holds no revocation list in PEM format")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def peer_certificate(connection: socket.socket) -> PeerCertificate | None:
    """What the peer has proved to be; None without TLS, or where it showed no certificate."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    encoded, fields = connection.getpeercert(binary_form=True), connection.getpeercert()
    if not encoded or not fields:  # fields are empty where it was not verified
        return None
    subject: Any = fields.get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    alternative: Any = fields.get("subjectAltName", ())
    names += [value for kind, value in alternative if kind in {"DNS", "IP Address"}]
    return PeerCertificate(frozenset({*map(str.lower, names), f"sha256:{sha256(encoded).hexdigest()}"}))


def reason(error: OSError) -> str:
    """Why there is no TLS connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not believed: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "the handshake took too long"
    if not isinstance(error, ssl.SSLError):
        return error.strerror or "the connection was closed"
    words = (error.reason or "").lower().replace("_", " ")
    if error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}:
        return "the other side does not speak TLS"
    if error.reason in {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_SHARED_CIPHER"}:
        return f"no TLS version or cipher that BCP 195 allows is common to both ({words})"
    return words or "the connection was closed"


def say_goodbye(connection: socket.socket | None) -> None:
    """Send close_notify on a TLS connection, and wait for nothing: the peer sees that nothing was cut off."""
    if isinstance(connection, ssl.SSLSocket):
        with suppress(OSError, ValueError):
            connection.settimeout(0)
            connection.unwrap()


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_TLS12)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    # Many peers close without close_notify. What was cut off shows in DICOM itself: PDUs have a length, and
    # associations are released.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    # A certificate that is itself named as trusted needs no issuer: many devices have none.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ConfigError(f"{path} holds no certificate in PEM format") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _identify(context: ssl.SSLContext, identity: Identity) -> None:
    certificate, key, password_file = identity.certificate, identity.key, identity.key_password_file

    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        if password_file is None:
            raise ConfigError(f"{key} is encrypted: name the file with its password (key_password_file)")
        return read_secret(password_file)

    for path in (certificate, locate(key)):
        try:
            path.read_bytes()  # OpenSSL does not say which of the two it could not read
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, locate(key), password)
    except ssl.SSLError as error:
        raise ConfigError(f"{certificate} and {key} cannot be used: {_why(error, asked)}") from error


def _why(error: ssl.SSLError, with_password: bool) -> str:
    words = {
        "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
        "EE_KEY_TOO_SMALL": "the key is too small (RSA needs 2048 bits)",
        "CA_MD_TOO_WEAK": "the certificate is signed with a digest that is too weak",
        "NO_START_LINE": "not in PEM format",
    }
    otherwise = "the password of the key is wrong" if with_password else "not in PEM format, or damaged"
    return words.get(error.reason or "", otherwise)
