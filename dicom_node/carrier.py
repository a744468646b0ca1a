"""How a courier reaches its destination: by DIMSE, by web services or by HL7, behind one face."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from dicom_node import dicomweb, hl7_send, mllp, query, scu
from dicom_node.association import describe
from dicom_node.commitment import CommitmentReport
from dicom_node.destinations import AnyDestination, Destination, Hl7Destination, WebDestination
from dicom_node.errors import PermanentError
from dicom_node.scu import Begin, StoreResult, always
from pipeline.types import ObjectReference


class Carrier(Protocol):
    """The services of one destination; each raises `TransientError` or `PermanentError`, or puts it in a result."""

    @property
    def name(self) -> str:
        """The destination as shown to people."""

    @property
    def query_name(self) -> str:
        """What `find_instances` uses, as shown to people."""

    def check(self) -> None:
        """Return when the destination answers, raise otherwise."""

    def store(self, files: Sequence[Path], on_result: Callable[[StoreResult], None], begin: Begin = always) -> None:
        """Store files in their order, those that `begin` lets pass; each result as soon as it is known."""

    def request_commitment(
        self,
        references: Sequence[ObjectReference],
        transaction_uid: str,
        on_report: Callable[[CommitmentReport], None],
        answered: threading.Event,
        stay_s: float,
    ) -> None:
        """Ask for commitment; see `scu.request_commitment`."""

    def find_instances(self, references: Iterable[ObjectReference]) -> set[str]:
        """Which of these objects are there: their SOP Instance UIDs."""


@dataclass(frozen=True)
class DimseCarrier:
    """C-ECHO, C-STORE, Storage Commitment, C-FIND."""

    destination: Destination
    calling_ae: str
    query_name = "C-FIND"

    @property
    def name(self) -> str:
        """AE title, host and port."""
        return describe(self.destination)

    def check(self) -> None:
        """C-ECHO."""
        scu.echo(self.destination, self.calling_ae)

    def store(self, files: Sequence[Path], on_result: Callable[[StoreResult], None], begin: Begin = always) -> None:
        """C-STORE."""
        scu.store(self.destination, files, self.calling_ae, on_result, begin)

    def request_commitment(
        self,
        references: Sequence[ObjectReference],
        transaction_uid: str,
        on_report: Callable[[CommitmentReport], None],
        answered: threading.Event,
        stay_s: float,
    ) -> None:
        """N-ACTION."""
        scu.request_commitment(
            self.destination, references, transaction_uid, self.calling_ae, on_report, answered, stay_s
        )

    def find_instances(self, references: Iterable[ObjectReference]) -> set[str]:
        """C-FIND at image level."""
        return query.find_instances(self.destination, references, self.calling_ae)


class _WithoutCommitment:
    """Of a destination that has no Storage Commitment; config.toml does not allow to ask for it either."""

    protocol_name: ClassVar[str]

    @property
    def name(self) -> str:
        """The destination as shown to people."""
        raise NotImplementedError

    def request_commitment(
        self,
        references: Sequence[ObjectReference],
        transaction_uid: str,
        on_report: Callable[[CommitmentReport], None],
        answered: threading.Event,
        stay_s: float,
    ) -> None:
        """Not offered."""
        raise PermanentError(f"{self.name} is not asked for commitment: it is reached by {self.protocol_name}.")


@dataclass(frozen=True)
class WebCarrier(_WithoutCommitment):
    """STOW-RS and QIDO-RS."""

    destination: WebDestination
    query_name = "QIDO-RS"
    protocol_name: ClassVar[str] = "DICOMweb"

    @property
    def name(self) -> str:
        """The service root."""
        return self.destination.url

    def check(self) -> None:
        """A query for one study."""
        dicomweb.check(self.destination)

    def store(self, files: Sequence[Path], on_result: Callable[[StoreResult], None], begin: Begin = always) -> None:
        """STOW-RS."""
        dicomweb.store(self.destination, files, on_result, begin)

    def find_instances(self, references: Iterable[ObjectReference]) -> set[str]:
        """QIDO-RS at instance level."""
        return dicomweb.find_instances(self.destination, references)


@dataclass(frozen=True)
class Hl7Carrier(_WithoutCommitment):
    """ORU^R01 by MLLP; its acknowledgement is all that a RIS says."""

    destination: Hl7Destination
    query_name = "HL7"
    protocol_name: ClassVar[str] = "HL7"

    @property
    def name(self) -> str:
        """Host and port."""
        return mllp.describe(self.destination)

    def check(self) -> None:
        """A connection; HL7 has no question that every system answers."""
        hl7_send.check(self.destination)

    def store(self, files: Sequence[Path], on_result: Callable[[StoreResult], None], begin: Begin = always) -> None:
        """ORU^R01."""
        hl7_send.store(self.destination, files, on_result, begin)

    def find_instances(self, references: Iterable[ObjectReference]) -> set[str]:
        """Not offered, and not allowed by config.toml."""
        raise PermanentError(f"{self.name} is not asked what it has: it is reached by HL7.")


def carrier(destination: AnyDestination, calling_ae: str) -> Carrier:
    """The carrier that a destination needs; `calling_ae` is our AE title."""
    if isinstance(destination, WebDestination):
        return WebCarrier(destination)
    if isinstance(destination, Hl7Destination):
        return Hl7Carrier(destination)
    return DimseCarrier(destination, calling_ae)
