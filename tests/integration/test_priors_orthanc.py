"""Earlier results in a real PACS: found by C-FIND, brought by C-GET or C-MOVE, refused where not what they seem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from dicom_node import config as configuration
from dicom_node import prior_reports
from dicom_node.config import Source
from dicom_node.errors import NodeError, TransientError
from dicom_node.expected import Expected
from dicom_node.ledger import CurrentCt, Ledger, PriorRules, SeriesIdentity
from dicom_node.prior_reports import Patient, fetch
from dicom_node.prior_search import PriorSearch
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from pipeline import sr_reader
from pipeline.types import Region, ResultKind
from tests.fixtures.orthanc import Orthanc, free_port
from tests.fixtures.outbox import Clock
from tests.fixtures.results import build_set, make_analysis, make_context
from tests.fixtures.samples import complete, queue, receive

pytestmark = pytest.mark.pacs
NODE = "NODE"
PATIENT = Patient("P-1", "HOSPITAL", "19600101", "1.2.3", "2026-02-15T10:00:00")


@pytest.fixture(scope="module")
def orthanc(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"))
    pacs.start()
    yield pacs
    pacs.kill()


class Reception:
    """Our receiver, which the PACS knows as NODE, and what it has filed."""

    def __init__(self, orthanc: Orthanc, folder: Path) -> None:
        self.filed: list[Path] = []
        self.expected = Expected()
        config = configuration.parse(
            {
                "node": {"ae_title": NODE, "port": 0, "state_dir": str(folder)},
                "reception": {"calling_ae_titles": [orthanc.ae_title], "min_free_disk_mb": 0},
            }
        )
        self.receiver = Receiver(config, Spool(folder), self.filed.append, expected=self.expected)
        orthanc.know(NODE, self.receiver.start())


@pytest.fixture(scope="module")
def reception(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reception]:
    node = Reception(orthanc, tmp_path_factory.mktemp("node"))
    yield node
    node.receiver.stop()


manners = pytest.mark.parametrize("manner", ["get", "move"])


def source(orthanc: Orthanc, **changes: Any) -> Source:
    values = {"name": "pacs", "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.dicom_port}
    return Source(**(values | changes))


def report(day: str, seed: str, **attributes: Any) -> Dataset:
    """A result SR of a CT of P-1 on a day."""
    told = {"PatientID": "P-1", "IssuerOfPatientID": "HOSPITAL", "StudyDate": day, "AcquisitionDate": day}
    analysis = make_analysis(uid_seed=seed, attributes=told | attributes)
    return build_set(analysis, make_context())[ResultKind.SR]


def keep(orthanc: Orthanc, folder: Path, ds: Dataset) -> None:
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    orthanc.upload(path)


@pytest.fixture(scope="module")
def filled(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Orthanc:
    """Two earlier results of the patient, and much that is none."""
    folder = tmp_path_factory.mktemp("reports")
    forged = report("20260104", "forged")
    forged.Manufacturer = "Another"
    moved = report(
        "20260108", "moved"
    )  # its CT was corrected to another patient since; the archive keeps both reports
    attributes = {"PatientID": "P-2", "IssuerOfPatientID": "HOSPITAL", "StudyDate": "20260108"}
    corrected = make_analysis(uid_seed="moved", attributes=attributes)
    successor = make_context(revision=2, predecessor=sr_reader.read(moved, "pacs").prior.report(""))
    for ds in (
        moved,
        build_set(corrected, successor)[ResultKind.SR],
        report("20260101", "one"),
        report("20260110", "two"),
        report("20260301", "later"),
        report("20260103", "issuer", IssuerOfPatientID="ELSEWHERE"),
        report("20260105", "namesake", PatientID="P-2"),
        report("20260106", "case", PatientID="p-1"),
        report("20260107", "birth", PatientBirthDate="19991231"),
        forged,
    ):
        keep(orthanc, folder, ds)
    return orthanc


@manners
def test_only_earlier_results_of_the_patient_are_taken(filled: Orthanc, reception: Reception, manner: str) -> None:
    found = fetch(source(filled, retrieve=manner), PATIENT, NODE, reception.expected)
    assert sorted(prior.acquired[:10] for prior in found.results) == ["2026-01-01", "2026-01-10"]
    assert {prior.origin for prior in found.results} == {"pacs"}
    assert all(prior.shares[Region.BOTH].severity for prior in found.results)
    assert found.search.startswith("pacs, 2 earlier reports; ")
    for why in ("1 refused: made by other software", "1 refused: same PatientID, other birth date"):
        assert why in found.search
    assert "could not be fetched" not in found.search
    assert reception.filed == []


def test_what_the_pacs_sends_unasked_is_refused_as_before(filled: Orthanc, reception: Reception) -> None:
    assert fetch(source(filled), PATIENT, NODE, reception.expected).results
    report_id = filled.instances(Modality="SR")[0]["id"]
    with pytest.raises(HTTPError):
        filled.request("POST", f"/modalities/{NODE.lower()}/store", report_id)
    assert reception.filed == []


@manners
def test_reports_of_others_are_not_even_asked_for(
    orthanc: Orthanc, reception: Reception, tmp_path: Path, manner: str
) -> None:
    """A series without a description may hold ours; the PACS says of which SOP class its instances are."""
    whose = {"PatientID": f"P-{manner}", "IssuerOfPatientID": "HOSPITAL"}
    foreign, ours = report("20260101", f"foreign {manner}", **whose), report("20260102", f"ours {manner}", **whose)
    foreign.SOPClassUID = foreign.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    for ds in (foreign, ours):
        del ds.SeriesDescription
        keep(orthanc, tmp_path, ds)
    patient = replace(PATIENT, patient_id=f"P-{manner}")
    found = fetch(source(orthanc, retrieve=manner), patient, NODE, reception.expected)
    assert (len(found.results), found.search) == (1, "pacs, 1 earlier report")


def test_a_pacs_that_may_not_send_to_us(filled: Orthanc, reception: Reception) -> None:
    """Its registration names a port where nobody listens."""
    filled.know("ELSEWHERE", free_port())
    with pytest.raises(NodeError, match="registered there as a destination of C-MOVE"):
        fetch(source(filled, retrieve="move"), PATIENT, "ELSEWHERE", reception.expected)


@manners
def test_a_patient_whom_nobody_knows_has_none(filled: Orthanc, reception: Reception, manner: str) -> None:
    patient = replace(PATIENT, patient_id="P-9")
    found = fetch(source(filled, retrieve=manner), patient, NODE, reception.expected)
    assert (found.results, found.search) == ((), "pacs, no earlier reports")


@pytest.mark.parametrize("patient_id", ["", "P*", "P-?", "P\\1", "P" * 65])
def test_an_id_that_would_match_others_is_not_asked_for(patient_id: str) -> None:
    assert not replace(PATIENT, patient_id=patient_id).can_be_asked_for


def test_an_archive_that_is_away_is_a_transient_error() -> None:
    away = Source(name="pacs", ae_title="AWAY", host="127.0.0.1", port=free_port(), timeout_s=5)
    with pytest.raises(TransientError):
        fetch(away, PATIENT, NODE, Expected())


class Bench:
    """A ledger with one CT that waits, and a search whose clock is moved by hand."""

    def __init__(self, folder: Path, source: Source, expected: Expected | None = None) -> None:
        self.clock, self.woken = Clock(), 0
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
        config = configuration.parse(
            {
                "node": {"ae_title": NODE},
                "priors": {"sources": ["pacs"], "search_limit_s": 60.0},
                "sources": [
                    source.model_dump(include={"name", "ae_title", "host", "port", "timeout_s", "retrieve"})
                ],
            }
        )
        self.search = PriorSearch(config, self.ledger, self.clock, self._wake, expected or Expected())

    def _wake(self) -> None:
        self.woken += 1

    def arrive(self, patient_id: str = "P-1") -> None:
        header = {
            "StudyDate": "20260215",
            "StudyTime": "100000",
            "PatientID": patient_id,
            "PatientBirthDate": "19600101",
        }
        identity = SeriesIdentity("1.2.3.1", "1.2.3", patient_id, "HOSPITAL", study_date="20260215")
        receive(self.ledger, "1.2.3.1", identity=identity, header=header, now=self.clock())
        complete(self.ledger, "1.2.3.1", self.clock())
        queue(self.ledger, "1.2.3.1", self.clock())


@manners
def test_an_analysis_waits_for_the_answer_and_is_given_what_was_found(
    tmp_path: Path, filled: Orthanc, reception: Reception, manner: str
) -> None:
    bench = Bench(tmp_path, source(filled, retrieve=manner), reception.expected)
    bench.arrive()
    assert bench.ledger.claim_job(bench.clock(), searched=True) is None
    assert not bench.search.sweep()
    assert bench.woken == 1
    claimed = bench.ledger.claim_job(bench.clock(), searched=True)
    assert claimed is not None
    current = CurrentCt("2026-02-15T10:00:00", "19600101")
    found = bench.ledger.fix_priors(claimed[0], current, PriorRules(6, 400), bench.clock())
    assert [prior.acquired[:10] for prior in found.results] == ["2026-01-01", "2026-01-10"]
    assert "looked for in this node; pacs, 2 earlier reports" in found.search
    bench.ledger.close()


def test_an_answer_that_nobody_thought_of_stops_no_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object) -> None:
        raise ValueError("invalid literal for int()")

    monkeypatch.setattr(prior_reports, "fetch", answer)
    bench = Bench(tmp_path, Source(name="pacs", ae_title="PACS", host="127.0.0.1", port=free_port()))
    bench.arrive()
    assert not bench.search.sweep()
    claimed = bench.ledger.claim_job(bench.clock(), searched=True)
    assert claimed is not None
    current = CurrentCt("2026-02-15T10:00:00", "19600101")
    found = bench.ledger.fix_priors(claimed[0], current, PriorRules(6, 400), bench.clock())
    assert "pacs could not be asked" in found.search
    bench.ledger.close()


def test_a_dead_archive_delays_an_analysis_and_does_not_stop_it(tmp_path: Path) -> None:
    away = Source(name="pacs", ae_title="AWAY", host="127.0.0.1", port=free_port(), timeout_s=5)
    bench = Bench(tmp_path, away)
    bench.arrive()
    assert bench.search.sweep()  # it is to be asked again
    assert bench.ledger.claim_job(bench.clock(), searched=True) is None
    bench.clock.advance(61)
    assert not bench.search.sweep()
    assert bench.ledger.claim_job(bench.clock(), searched=True) is not None
    told = [event.reason for event in bench.ledger.details("1.2.3.1").events]
    assert "archives were asked for earlier results: pacs could not be asked" in told
    bench.ledger.close()


def test_without_a_usable_id_nobody_is_asked_and_nothing_waits(tmp_path: Path) -> None:
    away = Source(name="pacs", ae_title="AWAY", host="127.0.0.1", port=free_port(), timeout_s=5)
    bench = Bench(tmp_path, away)
    bench.arrive(patient_id="")
    assert not bench.search.sweep()
    assert bench.ledger.claim_job(bench.clock(), searched=True) is not None
    bench.ledger.close()
