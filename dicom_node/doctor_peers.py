"""What `dicomnode doctor` finds about each peer: the way there, what it takes and offers, and the way back.

Nothing is stored at a peer and nothing is fetched: it is asked about objects that do not exist. An archive that
answers "no such object" does what it should.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_node import commitment, dicomweb, hl7_send, mllp, query, retrieve, scu
from dicom_node.association import NoContexts, Peer, associate
from dicom_node.commitment import CommitmentReport
from dicom_node.config import AnyDestination, Config, Destination, Hl7Destination, Source, WebDestination
from dicom_node.courier import STAY_S
from dicom_node.doctor_listener import running
from dicom_node.errors import NodeError, PermanentError, TransientError
from dicom_node.findings import Finding, fault, ok, remark
from dicom_node.ledger import Ledger
from pipeline.produced import TRANSFER_SYNTAX, sop_classes
from pipeline.types import ObjectReference, ResultKind

PATIENCE_S = 20.0  # for a commitment report
LOOK_EVERY_S = 0.2
SEE_PACS = 'docs/pacs.md, "When it does not work"'


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


def destination(config: Config, peer: AnyDestination) -> Iterator[Finding]:
    """The way to a destination, what it takes, and whether it says what it keeps."""
    if isinstance(peer, WebDestination):
        yield from _web(f"destination {peer.name}", peer)
        return
    if isinstance(peer, Hl7Destination):
        yield _hl7(f"destination {peer.name}: MLLP", peer)
        return
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


def _web(check: str, peer: WebDestination) -> Iterator[Finding]:
    """Whether the service answers, also about an object that nobody has. What it takes shows when it is sent."""
    began = time.monotonic()
    try:
        dicomweb.check(peer)
    except NodeError as error:
        yield fault(f"{check}: DICOMweb", str(error), SEE_PACS)
        return
    security = "over TLS" if peer.client_tls else "without TLS"
    yield ok(f"{check}: DICOMweb", f"{peer.url} answers, {security}, {(time.monotonic() - began) * 1000:.0f} ms")
    if peer.verify == "none":
        yield ok(f"{check}: query", 'verify = "none": the success of STOW-RS is believed')
        return
    unknown = _nothing(str(SecondaryCaptureImageStorage))
    try:
        found = dicomweb.find_instances(peer, [unknown])
    except NodeError as error:
        yield fault(f"{check}: query", str(error), SEE_PACS)
        return
    yield _nothing_found(f"{check}: query", "QIDO-RS", len(found))


def _hl7(check: str, peer: Hl7Destination) -> Finding:
    """Whether the port is open. What the RIS takes shows when it is sent: a test message would be a result."""
    began = time.monotonic()
    try:
        hl7_send.check(peer)
    except NodeError as error:
        return fault(check, str(error), 'docs/hl7.md, "When it does not work"')
    security = "over TLS" if peer.client_tls else "without TLS"
    took_ms = (time.monotonic() - began) * 1000
    return ok(check, f"{mllp.describe(peer)} takes the connection, {security}, {took_ms:.0f} ms; nothing was sent")


def _nothing_found(check: str, service: str, matches: int) -> Finding:
    """The answer to a query for what does not exist."""
    if matches:
        return fault(
            check,
            f"gives {matches} matches for a UID that nobody has",
            "it ignores the key: what is missing cannot be asked from it",
        )
    return ok(check, f"{service} is answered, and rightly with nothing")


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
    switches = {
        ResultKind.PICTURE: "picture",
        ResultKind.SLICES: "slice_pictures",
        ResultKind.DOCUMENT: "pdf",
    }
    for kind, switch in switches.items():
        if made.get(kind) == uid:
            return f"{switch} = false"
    return (
        'seg = "NONE", or the other kind of seg,' if made.get(ResultKind.LESIONS) == uid else "another destination"
    )


def _commitment(check: str, config: Config, peer: Destination) -> Iterator[Finding]:
    """Ask about an object that nobody has: the report must come, on this association or on one to our port."""
    transaction_uid, unknown = (
        str(generate_uid(prefix=None)),
        _nothing(str(sop_classes(config.profile(peer.profile))[ResultKind.SR])),
    )
    answered, reports = threading.Event(), list[CommitmentReport]()

    def take(report: CommitmentReport) -> None:
        reports.append(report)
        answered.set()

    stop = threading.Event()
    watcher = threading.Thread(target=_watch_ledger, args=(config, transaction_uid, answered, stop), daemon=True)
    watcher.start()
    patience_s, began = _patience_s(config), time.monotonic()
    try:
        scu.request_commitment(
            peer, [unknown], transaction_uid, config.node.ae_title, take, answered, min(peer.timeout_s, STAY_S)
        )
        answered.wait(patience_s)
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
        yield fault(check, f"took the request, but no report came within {patience_s:g} s", _register(config))
    else:
        yield fault(check, "took the request; its report cannot come while the node does not run", "start the node")


def _patience_s(config: Config) -> float:
    """How long a report may take: as long as the node would wait, and not at all where no node listens for it."""
    return min(PATIENCE_S, config.delivery.commitment_timeout_s) if running(config.node.state_dir) else 0.0


def _register(config: Config) -> str:
    node = config.node
    return (
        f"the PACS's entry for {node.ae_title} must have this machine's address and port {node.port} and the right "
        "to request commitment; the firewall must let it call; its AE title and network must be in [reception]"
    )


def _nothing(sop_class: str) -> ObjectReference:
    """An object that does not exist."""
    study, series, instance = (str(generate_uid(prefix=None)) for _ in range(3))
    return ObjectReference(study, series, sop_class, instance)


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
    yield _nothing_found(check, "C-FIND", len(found))


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
    register = f"register {calling_ae} there as a destination of C-MOVE, with this machine's address and port"
    try:
        done = retrieve.move(peer, requests, calling_ae, calling_ae, peer.timeout_s)
    except retrieve.Unprocessed as error:  # Orthanc's answer for what it does not have
        said = str(error).partition(". If")[0]
        yield ok(check, f"C-MOVE to {calling_ae} is taken; for a study that nobody has: {said}")
    except NodeError as error:  # Orthanc breaks off where it does not know the destination
        yield fault(check, str(error), register)
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
