"""A state folder such as a node leaves it, of synthetic patients, for pictures of the status page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from dicom_node.ledger import Choice, Delivery, Filing, Ledger, SeriesIdentity
from dicom_node.states import SeriesState
from pipeline import phantom, run
from pipeline.types import AnalysisRequest, PipelineSettings, Profile

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DESTINATIONS = (
    {"name": "pacs", "ae_title": "MAINPACS", "host": "127.0.0.1", "port": 104},
    {"name": "research", "ae_title": "RESEARCH", "host": "127.0.0.1", "port": 11104},
    {"name": "archive", "ae_title": "VNA", "host": "127.0.0.1", "port": 11105, "window": "19:00-06:30"},
)
NAMES = ("Phantom^Alpha", "Phantom^Beta", "Muster^Gamma", "Sample^Delta", "Beispiel^Epsilon", "Exempel^Zeta")


@dataclass
class Sample:
    """Fills a ledger, a minute after the other."""

    ledger: Ledger
    state_dir: Path
    now: datetime
    made: int = 0

    def series(self, description: str, slices: int, minutes_ago: float, calling_ae: str = "CT1") -> str:
        """Received; its UID."""
        self.made += 1
        uid, at = f"1.2.826.0.1.3680043.10.1.{self.made}", self.ago(minutes_ago)
        identity = SeriesIdentity(
            uid,
            f"{uid}.0",
            patient_id=f"PH{730_000 + 17 * self.made}",
            patient_name=NAMES[self.made % len(NAMES)],
            accession_number=f"A{2_026_000 + self.made}",
            study_date=f"{at:%Y%m%d}",
            modality="CT",
            description=description,
            calling_ae=calling_ae,
            peer_address="192.0.2.17",
        )
        self.ledger.file_instances([_filing(identity, number) for number in range(slices)], at)
        return uid

    def ago(self, minutes: float) -> datetime:
        """So long before now."""
        return self.now - timedelta(minutes=minutes)

    def settle(self, uid: str, state: SeriesState, reason: str, minutes_ago: float) -> None:
        """End its reception."""
        whole = f"{self.ledger.series(uid).instances} slices at regular distances of 1.25 mm without gap"
        self.ledger.settle(self.ledger.series(uid), state, reason, self.ago(minutes_ago), completeness=whole)

    def analyse(self, uid: str, request: AnalysisRequest, minutes_ago: float, destinations: list[str]) -> None:
        """Whole, chosen, and with the results of the phantom."""
        self.settle(uid, SeriesState.COMPLETE, "", minutes_ago)
        self.queue(uid, minutes_ago)
        claimed = self.ledger.claim_job(self.ago(minutes_ago))
        if claimed is None:
            raise RuntimeError("nothing to analyse")
        outcome = run.analyse_series(request)
        results = self.state_dir / "results"
        where = dict.fromkeys(destinations, "default")
        self.ledger.job_done(claimed[0], outcome, results, where, self.ago(minutes_ago - 0.4))

    def queue(self, uid: str, minutes_ago: float) -> None:
        """Chosen."""
        seen = self.ledger.series(uid)
        choice = Choice(seen, "axial, chest, the only series of its study", {}, (seen,))
        self.ledger.select(choice, self.ago(minutes_ago))

    def deliver(self, destination: str, minutes_ago: float) -> None:
        """All that is due there is sent and committed."""
        for row in self._due(destination, minutes_ago):
            self.ledger.delivery_sent(row.id, self.ago(minutes_ago))
            self.ledger.delivery_committed(row.id, self.ago(minutes_ago - 0.1))

    def refuse(self, destination: str, reason: str, minutes_ago: float) -> None:
        """It takes nothing of what is due there."""
        for row in self._due(destination, minutes_ago):
            self.ledger.delivery_failed(row.id, self.ago(minutes_ago), reason)

    def hold_back(self, destination: str, reason: str, minutes_ago: float) -> None:
        """It is not its time."""
        due = [row.id for row in self._due(destination, minutes_ago)]
        self.ledger.remark_deliveries(due, reason, self.ago(minutes_ago))

    def _due(self, destination: str, minutes_ago: float) -> list[Delivery]:
        return self.ledger.due_deliveries(destination, self.ago(minutes_ago))


def fill(ledger: Ledger, state_dir: Path, now: datetime) -> str:
    """Every kind of series; gives the UID of one with a story."""
    sample = Sample(ledger, state_dir, now)
    chest = phantom.make(phantom.PhantomSpec())

    def request() -> AnalysisRequest:
        name = str(sample.made)
        files = phantom.write_series(chest, state_dir / "ct" / name, uid_seed=name)
        out = state_dir / "results" / name / "0001"
        return AnalysisRequest(tuple(files), out, PipelineSettings(), (Profile(),), now.astimezone())

    first = sample.series("Thorax 1.25 B40f", 24, 95)
    sample.analyse(first, request(), 93, ["pacs", "research"])
    sample.deliver("pacs", 91)
    sample.deliver("research", 91)
    failed = sample.series("Thorax nativ 1.0 Br40", 30, 71, "CT2")
    sample.analyse(failed, request(), 70, ["research"])
    refusal = (
        "RESEARCH at 127.0.0.1:11104 does not take Comprehensive 3D SR Storage: ask the PACS administrator to "
        "allow this SOP class, or give the destination a profile without it."
    )
    sample.refuse("research", refusal, 68)
    story = sample.series("Thorax HR 0.75 B60f", 28, 44)
    sample.analyse(story, request(), 43, ["pacs", "archive"])
    sample.deliver("pacs", 41)
    sample.hold_back("archive", "waits for the window 19:00-06:30 of this destination", 40)
    incomplete = sample.series("Thorax KM 2.0", 12, 85, "CT2")
    gaps = "after 3600 s slices are still missing: 3 gaps, the widest of 10.0 mm between slices 8 and 9"
    sample.settle(incomplete, SeriesState.INCOMPLETE, gaps, 25)
    other = sample.series("Topogramm 0.6", 2, 96)
    sample.settle(other, SeriesState.NOT_ANALYSED, "a localizer (ImageType LOCALIZER)", 95)
    waits = sample.series("Thorax 5.0 B41f", 18, 4)
    sample.settle(waits, SeriesState.COMPLETE, "", 3)
    sample.queue(waits, 3)
    sample.series("Thorax 1.0 Br36", 9, 0.2, "CT2")
    return story


def _filing(identity: SeriesIdentity, number: int) -> Filing:
    uid = f"{identity.series_uid}.{number + 1}"
    digest = sha256(uid.encode()).hexdigest()
    return Filing(
        identity=identity,
        sop_instance_uid=uid,
        sop_class_uid=CT,
        transfer_syntax_uid=EXPLICIT,
        path=f"{uid}.dcm",
        size_bytes=524_288,
        dataset_sha256=digest,
        pixel_sha256=digest,
        header={"StudyInstanceUID": identity.study_uid, "PatientID": identity.patient_id},
    )
