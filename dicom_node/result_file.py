"""Whether a stored result object still is what the analysis wrote, and where it goes when it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import LowDisk
from dicom_node.ledger_records import ResultRecord
from dicom_node.spool import REASON_SUFFIX, Spool

PREFIX = "result-"  # of the names in quarantine/
QUARANTINED = "Quarantined, not sent:"  # how the reason of a failed delivery then begins
REMEDY = "restore it from a backup and retry; without a backup, `dicomnode retry` analyses the series again"


@dataclass(frozen=True)
class Quarantine:
    """How many files lie there: `received`, which could not be read, and `results`, which failed a check."""

    folder: Path
    received: int
    results: int

    @classmethod
    def of(cls, state_dir: Path) -> Quarantine:
        """Those with a reason beside them."""
        folder = state_dir / "quarantine"
        names = [path.name for path in folder.glob(f"*{REASON_SUFFIX}")]
        results = sum(name.startswith(PREFIX) for name in names)
        return cls(folder, len(names) - results, results)

    def remarks(self) -> list[str]:
        """What a person has to look at, a sentence each."""
        each, they = f"each lies with its reason in {self.folder}", f"they lie in {self.folder}"
        said = [f"{self.received} received file(s) could not be read; {each}"] if self.received else []
        failed = f"{self.results} result object(s) failed a check and were not sent; {they}"
        return [*said, failed] if self.results else said


def damage(path: Path, sha256: str) -> str:
    """What is wrong with a stored object, a sentence; empty when it is what the analysis wrote."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"The result file {path} cannot be read ({error.strerror}): {REMEDY}."
    if digest != sha256:
        return f"The result file {path} is not what the analysis wrote (SHA-256 differs): {REMEDY}."
    return ""


def damaged(results: Iterable[ResultRecord], results_dir: Path) -> list[int]:
    """Ids of the current results whose files are lost or changed."""
    return [item.id for item in results if item.current and damage(results_dir / item.path, item.sha256)]


def quarantine(path: Path, name: str, reason: str, spool: Spool) -> str:
    """Keep an object aside that must not be sent; the reason with the place where it lies now.

    `name` is its name there; UIDs are. One that is lost cannot be kept: the reason is given back as it is.
    """
    if not path.exists():
        return reason
    try:
        kept = spool.set_aside(path, reason, f"{PREFIX}{name}{path.suffix}")
    except (LowDisk, OSError) as error:
        return f"{reason} It is not sent, and could not be set aside: {error}."
    return f"{QUARANTINED} {reason} It lies in {kept}."
