"""What `dicomnode doctor` finds on the network: our own ports, the way to each peer, and the way back.

Nothing is stored at a peer and nothing is fetched: it is asked about objects that do not exist. An archive that
answers "no such object" does what it should.
"""

from __future__ import annotations

import fcntl
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from pydicom.uid import UID, generate_uid
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_node import certificates, commitment, query, retrieve, scu
from dicom_node.association import NoContexts, Peer, associate
from dicom_node.commitment import CommitmentReport
from dicom_node.config import Config, Destination, Source
from dicom_node.courier import STAY_S
from dicom_node.errors import NodeError, PermanentError, TransientError
from dicom_node.findings import Finding, fault, ok, remark
from dicom_node.ledger import Ledger
from dicom_node.tls import ClientTls
from pipeline.produced import TRANSFER_SYNTAX, sop_classes
from pipeline.types import ObjectReference, ResultKind

PATIENCE_S = 20.0  # for a commitment report
LOOK_EVERY_S = 0.2
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a listener on all addresses is called
SEE_PACS = 'docs/pacs.md, "When it does not work"'


# --- our own ports -----------------------------------------------------------------------------------------------


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
    calling = next(iter(config.reception.calling_ae_titles), node.ae_title)
    ports: list[tuple[int, ClientTls | None]] = [] if security.only else [(node.port, None)]
    if security.port is not None and security.identity is not None and security.certificate is not None:
        trust = security.ca or security.certificate
        name = certificates.names(security.certificate)[0]
        ports.append((security.port, ClientTls(name, trust, security.identity)))
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


def reachable(config: Config) -> Iterator[Finding]:
    """What keeps peers from calling: an address that only this machine can reach, and our own allow lists."""
    check = "listener"
    bound = ip_address(config.node.bind)
    admitted = config.reception.calling_ae_titles
    for _, peer in config.peers:
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


# --- peers -------------------------------------------------------------------------------------------------------


def echo(check: str, peer: Peer, calling_ae: str) -> Finding:
    """C-ECHO: the way there, both AE titles, and TLS where it is called so."""
    began = time.monotonic()
    try:
        scu.echo(peer, calling_ae)
    except NodeError as error:
        return fault(f"{check}: echo", str(error), SEE_PACS)
    security = "over TLS" if peer.client_tls else "without TLS"
    return ok(
        f"{check}: echo",
        f"{peer.ae_title} at {peer.host}:{peer.port} knows {calling_ae}, {security}, "
        f"{(time.monotonic() - began) * 1000:.0f} ms",
    )


def accepted(peer: Peer, calling_ae: str, wanted: list[tuple[UID, UID]]) -> set[tuple[UID, UID]]:
    """Which (SOP class, transfer syntax) the peer accepts of those proposed, each in a context of its own.

    Raises:
        TransientError, PermanentError: no association.
    """
    try:
        with associate(peer, calling_ae, [build_context(*pair) for pair in wanted]) as assoc:
            return {(UID(cx.abstract_syntax or ""), cx.transfer_syntax[0]) for cx in assoc.accepted_contexts}
    except NoContexts:
        return set()


def destination(config: Config, peer: Destination) -> Iterator[Finding]:
    """The way to a destination, what it takes, and whether it says what it keeps."""
    check, calling_ae = f"destination {peer.name}", config.node.ae_title
    reached = echo(check, peer, calling_ae)
    yield reached
    if reached.grade != "ok":
        return
    try:
        yield from _contexts(check, config, peer)
        if peer.verify == "commitment":
            yield from _commitment(f"{check}: commitment", config, peer)
        elif peer.verify == "find":
            yield from _query(f"{check}: query", peer, calling_ae)
        else:
            yield ok(f"{check}: commitment", 'verify = "none": the success of C-STORE is believed')
    except NodeError as error:
        yield fault(check, str(error), SEE_PACS)


def _contexts(check: str, config: Config, peer: Destination) -> Iterator[Finding]:
    """Everything that its profile sends, in each transfer syntax that it may be sent in."""
    made = sop_classes(config.profile(peer.profile))
    wanted = [(uid, syntax) for uid in dict.fromkeys(made.values()) for syntax in scu.syntaxes_of(TRANSFER_SYNTAX)]
    taken = accepted(peer, config.node.ae_title, wanted)
    for uid in dict.fromkeys(made.values()):
        syntaxes = [syntax for sop_class, syntax in wanted if sop_class == uid and (uid, syntax) in taken]
        name, kinds = f"{check}: {uid.name}", ", ".join(kind for kind, made_as in made.items() if made_as == uid)
        if TRANSFER_SYNTAX in syntaxes:
            yield ok(name, f"({kinds}) taken in {', '.join(syntax.name for syntax in syntaxes)}")
        elif syntaxes:
            yield remark(
                name,
                f"({kinds}) taken in {syntaxes[0].name} only: objects are encoded anew",
                f"have {TRANSFER_SYNTAX.name} accepted, so that the bytes that were checked are sent",
            )
        else:
            yield fault(
                name,
                f"({kinds}) refused in every transfer syntax",
                f"ask the PACS administrator to allow {uid.name} ({uid}) for {config.node.ae_title}, or set "
                f"{_without(made, uid)} in [profiles.{peer.profile}]",
            )


def _without(made: dict[ResultKind, UID], uid: UID) -> str:
    if made.get(ResultKind.PICTURE) == uid:
        return "picture = false"
    return (
        'seg = "NONE", or the other kind of seg,' if made.get(ResultKind.LESIONS) == uid else "another destination"
    )


def _commitment(check: str, config: Config, peer: Destination) -> Iterator[Finding]:
    """Ask about an object that nobody has: the report must come, on this association or on one to our port."""
    transaction_uid, unknown = str(generate_uid(prefix=None)), _nothing(sop_classes(config.profile(peer.profile)))
    answered, reports = threading.Event(), list[CommitmentReport]()

    def take(report: CommitmentReport) -> None:
        reports.append(report)
        answered.set()

    stop = threading.Event()
    watcher = threading.Thread(target=_watch_ledger, args=(config, transaction_uid, answered, stop), daemon=True)
    watcher.start()
    began = time.monotonic()
    try:
        scu.request_commitment(
            peer, [unknown], transaction_uid, config.node.ae_title, take, answered, min(peer.timeout_s, STAY_S)
        )
        answered.wait(PATIENCE_S)
    except TransientError as error:
        yield fault(check, str(error), _register(config))
        return
    except PermanentError as error:
        yield fault(check, str(error), SEE_PACS)
        return
    finally:
        stop.set()
        watcher.join(PATIENCE_S)
    took = f"in {time.monotonic() - began:.1f} s"
    if reports:
        said = ", ".join(commitment.describe(reason) for _, reason in reports[0].failed) or "committed"
        yield ok(check, f"reports on the association that asks, {took}: {said} for an object that nobody has")
    elif answered.is_set():
        yield ok(check, f"calls {config.node.ae_title} back, {took}: the way from it to us works")
    elif running(config.node.state_dir):
        yield fault(check, f"took the request, but no report came within {PATIENCE_S:g} s", _register(config))
    else:
        yield fault(check, "took the request; its report cannot come while the node does not run", "start the node")


def _register(config: Config) -> str:
    node = config.node
    return (
        f"the PACS's entry for {node.ae_title} must have this machine's address and port {node.port} and the right "
        "to request commitment; the firewall must let it call; its AE title and network must be in [reception]"
    )


def _nothing(made: dict[ResultKind, UID]) -> ObjectReference:
    """An object that does not exist."""
    uids = [str(generate_uid(prefix=None)) for _ in range(3)]
    return ObjectReference(uids[0], uids[1], str(made[ResultKind.SR]), uids[2])


def _watch_ledger(config: Config, transaction_uid: str, answered: threading.Event, stop: threading.Event) -> None:
    """Set `answered` when the running node notes that the report has come to it."""
    try:
        with closing(Ledger(config.database_url, migrate=False)) as ledger:
            while not (stop.is_set() or answered.is_set()):
                if any(transaction_uid in event.reason for event in ledger.recent_events()):
                    answered.set()
                stop.wait(LOOK_EVERY_S)
    except NodeError:
        return  # said by the check of the database


def _query(check: str, peer: Peer, calling_ae: str) -> Iterator[Finding]:
    """C-FIND for a study that does not exist."""
    try:
        found = query.find_studies(peer, {"StudyInstanceUID": str(generate_uid(prefix=None))}, calling_ae)
    except NodeError as error:
        yield fault(check, str(error), SEE_PACS)
        return
    if found:
        yield fault(
            check,
            f"gives {len(found)} studies for a StudyInstanceUID that nobody has",
            "it ignores the key: what is missing cannot be asked from it",
        )
    else:
        yield ok(check, "C-FIND is answered, and rightly with nothing")


def source(config: Config, peer: Source) -> Iterator[Finding]:
    """The way to an archive, whether it may be asked, and whether it would send."""
    check, calling_ae = f"source {peer.name}", config.node.ae_title
    reached = echo(check, peer, calling_ae)
    yield reached
    if reached.grade != "ok":
        return
    yield from _query(f"{check}: query", peer, calling_ae)
    yield from (_move if peer.retrieve == "move" else _get)(f"{check}: retrieve", peer, calling_ae)


def _move(check: str, peer: Source, calling_ae: str) -> Iterator[Finding]:
    """C-MOVE to ourselves of a study that does not exist: an archive that does not know our address says so."""
    requests = retrieve.identifiers(str(generate_uid(prefix=None)))
    try:
        done = retrieve.move(peer, requests, calling_ae, calling_ae, peer.timeout_s)
    except PermanentError as error:
        yield fault(check, str(error), f"register {calling_ae} there, with this machine's address and port")
    except TransientError as error:
        yield remark(
            check,
            f"{error} So it answers for a study that does not exist: it may do for one that does",
            f"is {calling_ae} registered there as a destination of C-MOVE? try `dicomnode pull` with a real study",
        )
    else:
        yield ok(check, f"C-MOVE to {calling_ae} is taken ({done.remark or 'nothing to send, rightly'})")


def _get(check: str, peer: Source, calling_ae: str) -> Iterator[Finding]:
    wanted = [(UID(StudyRootQueryRetrieveInformationModelGet), TRANSFER_SYNTAX)]
    try:
        taken = accepted(peer, calling_ae, wanted)
    except NodeError as error:
        yield fault(check, str(error), SEE_PACS)
        return
    if taken:
        yield ok(check, "C-GET is offered")
    else:
        yield fault(check, "C-GET is not offered", 'retrieve = "move" for this source, or have it allowed')
