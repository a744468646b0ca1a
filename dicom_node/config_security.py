"""The tables of config.toml about who is believed: [tls], and what every table of a peer has in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config_base import (
    AbsolutePath,
    AeTitle,
    HostName,
    Port,
    PositiveSeconds,
    SecretFile,
    Section,
    ShortName,
)
from dicom_node.tls import ClientTls, Identity

PEER_TABLES = ("destinations", "sources")
INHERITED = ("ca", "certificate", "key", "key_password_file")


def _certificate_name(value: str) -> str:
    """A name that a certificate gives its owner, or "sha256:" and the fingerprint of the certificate."""
    name = value.lower()
    if name.startswith("sha256:"):
        name = name.replace(":", "").replace("sha256", "sha256:")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", name):
            raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits")
    if not name:
        raise ValueError("a name of a certificate is needed")
    return name


CertificateName = Annotated[str, AfterValidator(_certificate_name)]


class TlsSection(Section):
    """[tls]"""

    port: Port | None = None
    only: bool = False
    certificate: AbsolutePath | None = None
    key: SecretFile | None = None
    key_password_file: SecretFile | None = None
    ca: AbsolutePath | None = None
    crl: AbsolutePath | None = None
    require_client_certificate: bool = True
    handshake_timeout_s: PositiveSeconds = 10.0
    warn_days: Annotated[int, Field(ge=0, le=3650)] = 30
    peers: dict[AeTitle, tuple[CertificateName, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> TlsSection:
        missing = []
        if (self.certificate is None) != (self.key is None):
            missing.append("certificate and key belong together")
        if self.port is None and self.only:
            missing.append("only = true needs a port")
        if self.port is None and self.peers:
            missing.append("peers can call with a certificate only where there is a port")
        if self.port is not None and self.certificate is None:
            missing.append("a port needs certificate and key")
        if self.port is not None and self.ca is None and (self.require_client_certificate or self.peers):
            missing.append("ca is needed to check the certificates of those who call")
        if missing:
            raise ValueError("; ".join(missing))
        return self

    @property
    def identity(self) -> Identity | None:
        """Who the node says it is."""
        return identity_of(self.certificate, self.key, self.key_password_file)


class AuditSection(Section):
    """[audit]"""

    file: bool = True
    syslog: Literal["none", "udp", "tcp", "tls"] = "none"
    host: HostName = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 6514
    tls_name: HostName = ""
    tls_ca: AbsolutePath | None = None
    tls_certificate: AbsolutePath | None = None
    tls_key: SecretFile | None = None
    tls_key_password_file: SecretFile | None = None
    queue: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    site_id: str = ""

    @model_validator(mode="after")
    def _complete(self) -> AuditSection:
        if self.syslog != "none" and not self.host:
            raise ValueError("syslog needs a host")
        if self.syslog == "tls" and self.tls_ca is None:
            raise ValueError('"tls" needs tls_ca here, or ca in [tls]: whose certificates are believed')
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self

    @property
    def client_tls(self) -> ClientTls | None:
        """How the repository is called; None: without TLS."""
        if self.syslog != "tls" or self.tls_ca is None:
            return None
        identity = identity_of(self.tls_certificate, self.tls_key, self.tls_key_password_file)
        return ClientTls(self.tls_name or self.host, self.tls_ca, identity)


class TcpPeer(Section):
    """Somebody whom the node calls, with TLS where that is asked for."""

    name: ShortName
    host: Annotated[HostName, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    timeout_s: PositiveSeconds = 30.0
    tls: bool = False
    tls_name: HostName = ""
    tls_ca: AbsolutePath | None = None
    tls_certificate: AbsolutePath | None = None
    tls_key: SecretFile | None = None
    tls_key_password_file: SecretFile | None = None

    @model_validator(mode="after")
    def _complete(self) -> TcpPeer:
        if self.tls and self.tls_ca is None:
            raise ValueError("tls = true needs tls_ca here, or ca in [tls]: whose certificates are believed")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self

    @property
    def client_tls(self) -> ClientTls | None:
        """How this peer is called; None: without TLS."""
        if not self.tls or self.tls_ca is None:
            return None
        identity = identity_of(self.tls_certificate, self.tls_key, self.tls_key_password_file)
        return ClientTls(self.tls_name or self.host, self.tls_ca, identity)


class PeerTable(TcpPeer):
    """What [[destinations]] and [[sources]] have in common: an application entity that the node calls."""

    ae_title: AeTitle


def inherit_tls(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file in which peers that are called with TLS use what [tls] says where they say nothing."""
    tls = content.get("tls")
    result = dict(content)
    if not isinstance(tls, Mapping):
        return result
    inherited = {f"tls_{key}": tls[key] for key in INHERITED if key in tls}
    if isinstance(audit := content.get("audit"), Mapping) and audit.get("syslog") == "tls":
        result["audit"] = _with(audit, inherited)
    if isinstance(web := content.get("web"), Mapping) and _is_secure(web):
        result["web"] = _with(web, {key: value for key, value in inherited.items() if key != "tls_ca"})
    for name in PEER_TABLES:
        if isinstance(tables := content.get(name), list | tuple):
            result[name] = [_with(table, inherited) if _is_secure(table) else table for table in tables]
    return result


def _is_secure(table: Any) -> bool:
    return isinstance(table, Mapping) and bool(table.get("tls"))


def _with(table: Mapping[str, Any], inherited: Mapping[str, Any]) -> dict[str, Any]:
    own_identity = {"tls_certificate", "tls_key"} & table.keys()
    kept = {key: value for key, value in inherited.items() if key == "tls_ca" or not own_identity}
    return {**kept, **table}


def identity_of(certificate: Any, key: Any, password_file: Any) -> Identity | None:
    """Certificate and key of a table, where it has them."""
    return Identity(certificate, key, password_file) if certificate and key else None
