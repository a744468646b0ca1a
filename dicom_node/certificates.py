"""The certificates that config.toml names: what is wrong with them, and which of them end soon."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from dicom_node import renewal, tls
from dicom_node.config import Config
from dicom_node.config_base import locate
from dicom_node.errors import ConfigError
from dicom_node.tls import ClientTls

_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
KEEPS_OLD = "New TLS files cannot be used, the port for TLS goes on with the old ones"


class Called(Protocol):
    """A table of somebody whom the node calls."""

    @property
    def client_tls(self) -> ClientTls | None:
        """How; None: without TLS."""


@dataclass(frozen=True)
class Expiry:
    """When what a file holds stops to be valid.

    Attributes:
        where: TOML path.
        subject: of the certificate.
        at: UTC.
    """

    where: str
    path: Path
    subject: str
    at: datetime

    def text(self, now: datetime) -> str:
        """For log and status."""
        left = "has expired" if self.at <= now else f"expires in {(self.at - now).days} days"
        return f"{self.where}: the certificate {self.subject} in {self.path} {left}, on {self.at:%Y-%m-%d}"


def faults(config: Config, now: datetime) -> list[str]:
    """What keeps TLS from working: "TOML path: what is wrong, what to do"."""
    over = [f"{text}: have a newer one put there" for text in _lists_that_are_over(config, now)]
    return [*_listener(config), *_page(config), *_peers(config), *_validity(config, now), *over]


def not_in_use(config: Config) -> list[str]:
    """What keeps the listener from using the files of [tls] at its next connection; it goes on with the old ones.

    Credentials that systemd hands to the service alone are not looked for.
    """
    if config.tls.port is None or any(
        _is_withheld(path) for path in (config.tls.key, config.tls.key_password_file)
    ):
        return []
    try:
        renewal.listener_context(config.tls)
    except ConfigError as error:
        return [f"tls: {error}"]
    return []


def _is_withheld(path: Path | None) -> bool:
    if path is None:
        return False
    try:
        locate(path)
    except ConfigError:
        return True
    return False


def ends(config: Config) -> list[Expiry]:
    """When each certificate that config.toml names ends; files that cannot be read are `faults`."""
    return [_end(where, found) for where, path in _files(config) if (found := _readable(path))]


def expiring(config: Config, now: datetime) -> list[str]:
    """Which certificates end within `tls.warn_days`, or have ended; and which revocation lists are over.

    Lists live for days and are renewed by programs: that one will end says nothing.
    """
    limit = now + timedelta(days=config.tls.warn_days)
    ending = [end.text(now) for end in ends(config) if end.at <= limit]
    return [*ending, *_lists_that_are_over(config, now)]


def names(path: Path) -> list[str]:
    """DNS names, addresses and the common name of the first certificate in a file.

    Raises:
        ConfigError: it holds none, or one without a name.
    """
    found = _readable(path)
    if not found or not found[1]:
        raise ConfigError(f"{path} holds no certificate in PEM format")
    certificate = found[1][0]
    named: list[str] = []
    with suppress(x509.ExtensionNotFound):
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        named += alternative.get_values_for_type(x509.DNSName)
        named += map(str, alternative.get_values_for_type(x509.IPAddress))
    subject = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    named += [str(attribute.value) for attribute in subject]
    if not named:
        raise ConfigError(f"{path}: the certificate has no name")
    return named


def are_in(path: Path) -> bool:
    """Whether a file holds certificates that can be read."""
    found = _readable(path)
    return found is not None and bool(found[1])


def is_of(certificate: Path, ca: Path) -> bool:
    """Whether those in a file of CAs vouch for a certificate, or for one of the chain that follows it."""
    chain, trusted = _readable(certificate), _readable(ca)
    if chain is None or trusted is None:
        return False
    return any(_issued(one, issuer) for one in chain[1] for issuer in trusted[1])


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate == issuer:
        return True
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _listener(config: Config) -> Iterator[str]:
    section = config.tls
    if section.identity is None:
        return
    try:
        renewal.listener_context(section)
    except ConfigError as error:
        yield f"tls: {error}"
    yield from _open_key("tls.key", section.identity.key)


def _page(config: Config) -> Iterator[str]:
    identity = config.web.identity
    if identity is None:
        return
    try:
        tls.server_context(identity, None)
    except ConfigError as error:
        yield f"web.tls: {error}"
    if identity.key != config.tls.key:
        yield from _open_key("web.tls_key", identity.key)


def _peers(config: Config) -> Iterator[str]:
    for where, client in _called(config):
        try:
            tls.client_context(client)
        except ConfigError as error:
            yield f"{where}.tls: {error}"
        if client.identity is not None and client.identity.key != config.tls.key:
            yield from _open_key(f"{where}.tls_key", client.identity.key)


def _open_key(where: str, key: Path) -> Iterator[str]:
    """A private key that everybody on the machine may read is not private."""
    try:
        path = locate(key)
        mode = path.stat().st_mode
    except (ConfigError, OSError):
        return  # said by the context
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield f"{where}: everybody can read {path}: chmod 0640, owner root, group of the service's user"


def _validity(config: Config, now: datetime) -> Iterator[str]:
    for where, path in _files(config):
        if not (found := _readable(path)):
            continue
        end = _end(where, found)
        if end.at <= now:
            yield f"{end.text(now)}: renew it"
        begin = (min if _is_ca(where) else max)(one.not_valid_before_utc for one in found[1])
        if begin > now:
            yield f"{where}: {path} is not valid before {begin:%Y-%m-%d %H:%M} UTC: is this machine's clock right?"


def _lists_that_are_over(config: Config, now: datetime) -> Iterator[str]:
    """Revocation lists after their time (RFC 5280 5.1.2.5): nobody whose certificate is of that CA may call."""
    path = config.tls.crl
    for crl in [] if path is None else _lists(path):
        end = crl.next_update_utc
        if end is not None and end <= now:
            yield (
                f"tls.crl: the revocation list of {crl.issuer.rfc4514_string()} in {path} is over since "
                f"{end:%Y-%m-%d %H:%M} UTC, and whoever has a certificate of that CA is refused"
            )


def _lists(path: Path) -> list[x509.CertificateRevocationList]:
    """Those in a file; one that cannot be read is said by the context of the listener."""
    try:
        return [x509.load_pem_x509_crl(found[0]) for found in _LIST.finditer(path.read_bytes())]
    except (OSError, ValueError):
        return []


def _called(config: Config) -> list[tuple[str, ClientTls]]:
    """Everybody whom the node calls with TLS, with the TOML path."""
    tables: list[tuple[str, Called]] = [*config.peers, ("audit", config.audit)]
    tables += [(f"notifications[{number}]", channel) for number, channel in enumerate(config.notifications)]
    return [(where, client) for where, table in tables if (client := table.client_tls) is not None]


def _files(config: Config) -> Iterator[tuple[str, Path]]:
    """Every file with certificates, once, with the TOML path that names it first."""
    named = [("tls.certificate", config.tls.certificate), ("tls.ca", config.tls.ca)]
    if config.web.identity is not None:
        named.append(("web.tls_certificate", config.web.identity.certificate))
    for where, client in _called(config):
        if client.identity is not None:
            named.append((f"{where}.tls_certificate", client.identity.certificate))
        named.append((f"{where}.tls_ca", client.ca))
    seen: set[Path] = set()
    for where, path in named:
        if path is not None and path not in seen:
            seen.add(path)
            yield where, path


def _readable(path: Path) -> tuple[Path, list[x509.Certificate]] | None:
    try:
        return path, x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return None


def _end(where: str, found: tuple[Path, list[x509.Certificate]]) -> Expiry:
    """Of a chain the certificate that ends first; of several CAs the one that ends last: one valid one will do."""
    path, certificates = found
    choose = max if _is_ca(where) else min
    certificate = choose(certificates, key=lambda one: one.not_valid_after_utc)
    return Expiry(where, path, certificate.subject.rfc4514_string(), certificate.not_valid_after_utc)


def _is_ca(where: str) -> bool:
    return where.endswith("ca")
