"""Writes the tables of docs/conformance.md from the code, so that they cannot drift from it.

usage: python -m scripts.conformance [--check]

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. With --check nothing is written; exit status 1
and the names of the tables that are not as the code has them. A test does the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node import association, commitment, http_session, intake, receiver, scu
from dicom_node.config import Config, Destination, WebDestination
from dicom_node.errors import TransientError
from dicom_node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.supported import supported_contexts
from pipeline import codes, produced
from pipeline.types import Profile, ResultKind
from scripts.conformance_objects import attributes, content

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
PROFILES = {
    "`default`": Profile(),
    'seg = "LABELMAP"': Profile(seg="LABELMAP", lungs_seg=True),
    "lungs_seg = true": Profile(lungs_seg=True),
    "slice_pictures = true": Profile(slice_pictures=True),
    "pdf = true": Profile(pdf=True),
    "rejection_note = true": Profile(rejection_note=True),
}
SERVICES: Mapping[str, tuple[str, str]] = {  # SOP class → what for, where in config.toml
    Verification: ("C-ECHO", "`dicomnode echo`, `doctor`"),
    StorageCommitmentPushModel: ("N-ACTION; N-EVENT-REPORT on the same association", '`verify = "commitment"`'),
    StudyRootQueryRetrieveInformationModelFind: ("C-FIND", '`verify = "find"`, `[[sources]]`'),
    StudyRootQueryRetrieveInformationModelMove: ("C-MOVE", '`[[sources]]` with `retrieve = "move"`'),
    StudyRootQueryRetrieveInformationModelGet: (
        "C-GET; C-STORE as SCP on it",
        '`[[sources]]` with `retrieve = "get"`',
    ),
}
STATUSES: Mapping[int, str] = {  # of C-STORE as SCP
    intake.SUCCESS: "it is on stable storage: written, flushed, in its place; a re-sent one too. Or it is "
    'of another SOP class, with `other_modalities = "ignore"`, and is not kept',
    intake.OUT_OF_RESOURCES: "disk below its reserve, no memory for receiving, data set too long, file error",
    intake.DATA_SET_DOES_NOT_MATCH: "SOP class or instance UID of the data set is not that of the command",
    intake.CANNOT_UNDERSTAND: "no data set; not parsable; a UID that names instance, series or study is missing",
    intake.SOP_CLASS_NOT_SUPPORTED: "SOP class is not that of the context; SR not asked for (5.2.5.2)",
}
REPORT_STATUSES: Mapping[int, str] = {  # of N-EVENT-REPORT
    intake.SUCCESS: "written to the ledger, or about a transaction that nothing waits for",
    receiver.NO_SUCH_EVENT_TYPE: "event type is neither 1 nor 2",
    receiver.INVALID_ARGUMENT: "no Transaction UID, or an item without SOP Instance UID",
    receiver.PROCESSING_FAILURE: "the database is away: to be sent again",
}
STORE_ANSWERS = (0x0000, 0x0107, 0x0111, 0x0116, 0x0117, 0x0122, 0x0124, 0x0210, 0x0211, 0x0212, 0x0213)
STORE_ANSWERS += (0xA700, 0xA900, 0xB000, 0xB006, 0xB007, 0xC000)
HTTP_ANSWERS = (301, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 423, 425, 429, 500, 501, 502, 503, 504, 507)
REJECTIONS = (  # (source, reason) that PS3.8 Table 9-21 knows, with result 1; 3 is always transient
    *((1, reason) for reason in (1, 2, 3, 7)),
    *((2, reason) for reason in (1, 2)),
    *((3, reason) for reason in (1, 2)),
)


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def accepted() -> str:
    """What peers may propose."""
    return table(("SOP class", "UID", "role of the node", "transfer syntaxes, in order of preference"), _accepted())


def _accepted() -> Iterator[tuple[str, str, str, str]]:
    for context in supported_contexts(ignore_other_modalities=False, commitment_reports=True):
        uid = UID(str(context.abstract_syntax))
        yield uid.name, uid, _role(context), "<br>".join(_syntax(each) for each in context.transfer_syntax or ())


def _role(context: PresentationContext) -> str:
    """scp_role is what the peer may propose for itself."""
    return "SCU (the peer calls with its N-EVENT-REPORT)" if context.scp_role else "SCP"


def _name(uid: UID) -> str:
    return "Label Map Segmentation Storage" if uid == produced.LABELMAP else str(uid.name)


def _syntax(uid: str) -> str:
    return f"{UID(uid).name} ({uid})"


def stored() -> str:
    """What is sent."""
    heads = ("object", "SOP class", "UID", "profile", "proposed transfer syntaxes, in order of preference")
    return table(heads, _stored())


def _stored() -> Iterator[tuple[object, ...]]:
    seen = set()
    for name, profile in PROFILES.items():
        for kind, uid in produced.sop_classes(profile).items():
            if (kind, uid) not in seen:
                seen.add((kind, uid))
                syntaxes = scu.syntaxes_of(produced.TRANSFER_SYNTAX)
                yield kind, _name(uid), uid, name, "<br>".join(map(_syntax, syntaxes))


def services() -> str:
    """Services that are used."""
    rows = [(UID(uid).name, uid, "SCU", what, where) for uid, (what, where) in SERVICES.items()]
    return table(("SOP class", "UID", "role", "operations", "used for"), rows)


def statuses() -> str:
    """Answers to C-STORE and N-EVENT-REPORT."""
    rows = [("C-STORE", _hex(code), text) for code, text in STATUSES.items()]
    rows += [("N-EVENT-REPORT", _hex(code), text) for code, text in REPORT_STATUSES.items()]
    return table(("operation", "status", "when"), rows)


def _hex(code: int) -> str:
    return f"0x{code:04X}"


def answers() -> str:
    """What the node does with the status of its C-STORE."""
    peer = Destination(name="pacs", ae_title="PACS", host="pacs", port=104)
    rows = []
    for code in STORE_ANSWERS:
        status = Dataset()
        status.Status = code
        rows.append((association.words(status) if code else "success (0x0000)", scu.outcome(peer, "it", status)))
    return table(("status", "what the node does"), [(words, _doing(result)) for words, result in rows])


def _doing(result: Exception | str) -> str:
    if result == "":
        return "sent; its keeping is then confirmed"
    if isinstance(result, str):
        return "counts as sent; the warning is shown"
    return "tried again, with growing pauses" if isinstance(result, TransientError) else "stops, and says so"


def http() -> str:
    """What the node does with the HTTP status of a response to STOW-RS that says nothing of the object."""
    peer = WebDestination(name="pacs", protocol="dicomweb", url="https://pacs.example.org/dicom-web")
    doing: dict[str, list[str]] = {}
    for code in HTTP_ANSWERS:
        doing.setdefault(_doing(http_session.refusal(peer, "the object", code)), []).append(str(code))
    rows = [("200", _doing("a warning")), ("202", "tried again, with growing pauses")]
    rows += [(", ".join(statuses), what) for what, statuses in doing.items()]
    return table(("HTTP status", "what the node does"), rows)


def rejections() -> str:
    """What the node does when it is rejected."""
    peer = Destination(name="pacs", ae_title="PACS", host="pacs.example.org", port=104)
    rows = []
    for source, reason in REJECTIONS:
        error = association.rejection(peer, "DICOMNODE", 2 if source == 3 else 1, source, reason)
        rows.append((source, reason, _doing(error), str(error)))
    return table(("source", "reason", "what the node does", "what it says"), rows)


def failures() -> str:
    """Failure reasons in a commitment report."""
    return table(
        ("failure reason", "meaning"), [(_hex(code), text) for code, text in commitment.FAILURE_REASONS.items()]
    )


def parameters() -> str:
    """Protocol parameters with their defaults."""
    config = Config()
    reception = config.reception
    rows = [
        ("implementation class UID", IMPLEMENTATION_CLASS_UID, "fixed"),
        ("implementation version name", IMPLEMENTATION_VERSION_NAME, "fixed"),
        ("application context", "1.2.840.10008.3.1.1.1", "fixed"),
        ("AE title", config.node.ae_title, "`node.ae_title`"),
        ("port", config.node.port, "`node.port`, `tls.port`"),
        ("associations at a time", reception.max_associations, "`reception.max_associations`"),
        ("of them from one address", reception.max_associations_per_peer, "`reception.max_associations_per_peer`"),
        ("largest PDU received, bytes", reception.max_pdu_bytes, "`reception.max_pdu_bytes`"),
        ("largest PDU received on associations that the node opens, bytes", association.MAX_PDU_BYTES, "fixed"),
        ("presentation contexts proposed at most", association.MAX_CONTEXTS, "fixed"),
        ("asynchronous operations", "not supported: one at a time", "fixed"),
        ("silence ends an association after, s", reception.idle_timeout_s, "`reception.idle_timeout_s`"),
        ("ARTIM timer, s", min(receiver.ARTIM_S, reception.idle_timeout_s), "`idle_timeout_s`, 30 at most"),
        ("wait for a peer that is called, s", 30.0, "`timeout_s` of each peer"),
        ("association kept open for a commitment report, s", 5.0, "fixed"),
    ]
    return table(("parameter", "default", "setting"), rows)


def vocabulary() -> str:
    """Every code."""
    return table(("use", "code value", "scheme", "meaning"), codes.table())


def character_sets() -> str:
    """Specific Character Set values that are understood."""
    terms = sorted(term for term in python_encoding if term)
    return table(("Specific Character Set",), [(f"`{term}`",) for term in terms])


def objects(kind: ResultKind) -> Callable[[], str]:
    """Attributes of one kind of object."""
    return lambda: table(("attribute", "tag", "VR", "value"), attributes(kind))


def tree() -> str:
    """Content of the SR."""
    return table(("relationship", "value type", "concept", "value"), content())


TABLES: Mapping[str, Callable[[], str]] = {
    "accepted": accepted,
    "stored": stored,
    "services": services,
    "statuses": statuses,
    "answers": answers,
    "http": http,
    "rejections": rejections,
    "failures": failures,
    "parameters": parameters,
    "vocabulary": vocabulary,
    "character sets": character_sets,
    "seg": objects(ResultKind.LESIONS),
    "picture": objects(ResultKind.PICTURE),
    "slices": objects(ResultKind.SLICES),
    "document": objects(ResultKind.DOCUMENT),
    "sr": objects(ResultKind.SR),
    "sr content": tree,
    "rejection note": objects(ResultKind.REJECTION),
}


def rendered(page: str, tables: Mapping[str, Callable[[], str]] | None = None) -> tuple[str, list[str]]:
    """The page with its tables as the code has them, and the names of those that were not. Raises KeyError."""
    changed = []
    makers = TABLES if tables is None else tables

    def replace(match: re.Match[str]) -> str:
        name, before = match[1], match[2].strip()
        made = makers[name]()
        if made != before:
            changed.append(name)
        return f"<!-- begin {name} -->\n{made}\n<!-- end {name} -->"

    return re.sub(r"<!-- begin ([\w ]+) -->\n(.*?)<!-- end \1 -->", replace, page, flags=re.DOTALL), changed


def main() -> None:
    """Write, or check."""
    page, changed = rendered(PAGE.read_text(encoding="utf-8"))
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
    elif changed:
        print(
            f"docs/conformance.md: {', '.join(changed)} differ: run python -m scripts.conformance", file=sys.stderr
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
