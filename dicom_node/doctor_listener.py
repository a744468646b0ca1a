"""What `dicomnode doctor` finds about our own ports: whether the node answers, and whether peers can call it."""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from dicom_node import certificates, scu
from dicom_node.config import Config, Hl7Destination, WebDestination
from dicom_node.config_security import TlsSection
from dicom_node.errors import ConfigError, NodeError
from dicom_node.findings import Finding, fault, ok, remark
from dicom_node.tls import ClientTls

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a listener on all addresses is called


@dataclass(frozen=True)
class _Ourselves:
    """The node as a peer would call it."""

    ae_title: str
    host: str
    port: int
    client_tls: ClientTls | None
    timeout_s: float = 10.0


def listener(config: Config) -> Iterator[Finding]:
    """Whether the node runs and answers at its ports, and whether peers can reach and may call it."""
    check = "listener"
    if not running(config.node.state_dir):
        yield fault(check, "the node does not run", "`systemctl start dicomnode`, or `dicomnode serve`")
    else:
        yield from _answers(config)
    yield from reachable(config)


def running(state_dir: Path) -> bool:
    """Whether a node holds the lock of the state folder (`service.only_one`)."""
    try:
        with (state_dir / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _answers(config: Config) -> Iterator[Finding]:
    node, security = config.node, config.tls
    host = ANYWHERE.get(node.bind, node.bind)
    titles = config.reception.calling_ae_titles or (node.ae_title,)
    calling = next((title for title in titles if title not in security.peers), None)
    if calling is None:
        yield remark(
            "listener",
            "its ports are not tried: every AE title that may call is bound to a certificate (tls.peers)",
            "an echo from a peer shows whether it answers",
        )
        return
    ports: list[tuple[int, ClientTls | None]] = [] if security.only else [(node.port, None)]
    if security.port is not None:
        ourselves = _with_tls(security)
        if isinstance(ourselves, ClientTls):
            ports.append((security.port, ourselves))
        else:
            yield remark(
                f"listener on port {security.port}, TLS",
                f"is not tried: {ourselves}",
                "an echo from a peer shows whether it answers",
            )
    for port, client_tls in ports:
        kind = f"listener on port {port}" + (", TLS" if client_tls else "")
        if not port:
            yield remark(kind, "the port is taken anew at each start", "give the node a port of its own")
            continue
        began = time.monotonic()
        try:
            scu.echo(_Ourselves(node.ae_title, host, port, client_tls), calling)
        except NodeError as error:
            yield fault(
                kind,
                f"{error}",
                f"does another program have the port, and may this machine call ({host} in reception.networks)?",
            )
        else:
            yield ok(kind, f"{node.ae_title} answers {calling} in {(time.monotonic() - began) * 1000:.0f} ms")


def _with_tls(security: TlsSection) -> ClientTls | str:
    """How the node would call itself; else why it cannot: what is wrong with a file is said of the files, too."""
    if security.certificate is None:
        return "tls.certificate is not set"
    try:
        name = certificates.names(security.certificate)[0]
    except ConfigError as error:
        return f"{error}"
    identity = security.identity if security.require_client_certificate else None
    if identity is not None and security.ca is not None:
        if not certificates.are_in(security.ca):
            return f"{security.ca} holds no certificate in PEM format: nobody may call"
        if not certificates.is_of(security.certificate, security.ca):
            return "the node may not call itself, since nobody in tls.ca vouches for its own certificate"
    return ClientTls(name, security.certificate, identity)


def reachable(config: Config) -> Iterator[Finding]:
    """What keeps peers from calling: an address that only this machine can reach, and our own allow lists."""
    check = "listener"
    bound = ip_address(config.node.bind)
    admitted = config.reception.calling_ae_titles
    for peer in (*config.destinations, *config.sources):
        if isinstance(peer, WebDestination | Hl7Destination):
            continue  # it never calls
        addresses = _addresses(peer.host)
        remote = [one for one in addresses if not one.is_loopback]
        if remote and bound.is_loopback:
            yield fault(
                check,
                f"node.bind is {config.node.bind}, where {peer.name} cannot call: no commitment reports, no images",
                'node.bind = "0.0.0.0", or the address of this machine in the hospital network',
            )
        networks = config.reception.networks
        if addresses and networks and not any(one in network for one in addresses for network in networks):
            yield fault(
                check,
                f"{peer.name} ({', '.join(map(str, addresses))}) is in none of reception.networks",
                "add its network, or what it sends and reports is refused",
            )
        if admitted and peer.ae_title not in admitted:
            yield fault(
                check,
                f"{peer.ae_title} ({peer.name}) is not in reception.calling_ae_titles",
                "add it: commitment reports and fetched images come from it",
            )


def _addresses(host: str) -> list[IPv4Address | IPv6Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []  # said by the echo
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))
