"""Follow-up of patients with the real parts: dcmtk sends, the installed command serves, Orthanc keeps results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from pipeline import checks_sr, codes, phantom
from pipeline.types import Region
from tests.fixtures import validators
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.served import Served, series_uid

Tool = Callable[[str], str]
BEFORE = phantom.PhantomSpec(slices=24, rows=128, columns=128, slice_spacing_mm=9.0)
AFTER = phantom.PhantomSpec(slices=24, rows=128, columns=128, slice_spacing_mm=9.0, lesions=())


@pytest.fixture
def orthanc(tmp_path: Path, tool: Tool) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    server = Orthanc(tmp_path / "orthanc")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def served(tmp_path: Path, orthanc: Orthanc) -> Iterator[Served]:
    node = Served(tmp_path / "node", [orthanc.destination()], analysis={"device": "cpu"})
    orthanc.know("DICOMNODE", node.start())
    yield node
    node.kill()


def study(folder: Path, spec: phantom.PhantomSpec, day: str, **attributes: Any) -> Path:
    """A CT of the patient P-1, Doe^Jane, on a day."""
    changed = {
        "PatientID": "P-1",
        "PatientName": "Doe^Jane",
        "IssuerOfPatientID": "HOSPITAL",
        "StudyDate": day,
        "AcquisitionDate": day,
        **attributes,
    }
    phantom.write_series(phantom.make(spec), folder, uid_seed=folder.name, attributes=changed)
    return folder


def report_in(orthanc: Orthanc, details: dict[str, Any]) -> Dataset:
    """The current SR of a series as the PACS has it."""
    (sr,) = [row for row in details["results"] if row["kind"] == "sr" and row["current"]]
    data = orthanc.file(orthanc.kept()[sr["sop_instance_uid"]])
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))


def figures(ds: Dataset, container: str) -> list[dict[tuple[str, Region | None], float]]:
    """Percentages in each container of that code."""
    found = [item for item in checks_sr.walk(ds) if item.ConceptNameCodeSequence[0].CodeValue == container]
    return [{(n.name, n.region): n.value for n in checks_sr.numbers(item) if n.unit == "%"} for item in found]


def test_the_second_study_of_a_patient_shows_the_change_and_a_namesake_shows_none(
    tmp_path: Path, tool: Tool, dcmtk: Dcmtk, orthanc: Orthanc, served: Served
) -> None:
    folders = {
        "first": study(tmp_path / "first", BEFORE, "20260101"),
        "second": study(tmp_path / "second", AFTER, "20260215", ConvolutionKernel="B70f"),
        "namesake": study(tmp_path / "namesake", AFTER, "20260301", PatientID="P-2"),
    }
    story = {}
    for name, folder in folders.items():
        assert dcmtk.dcmsend(served.port, [folder], "DICOMNODE").returncode == 0
        story[name] = served.settled(series_uid(folder))
        assert story[name]["series"]["state"] == "delivered"
    reports = {name: details["jobs"][-1]["report"] for name, details in story.items()}
    first, second = (report_in(orthanc, story[name]) for name in ("first", "second"))

    assert reports["first"]["priors"] == []
    (prior,) = reports["second"]["priors"]
    assert prior["acquired"].startswith("2026-01-01")
    assert prior["severity_score"] == reports["first"]["severity_score"]
    assert prior["sr_sop_instance_uid"] == [first.SOPInstanceUID]
    assert prior["not_comparable"] == ["other kernel (B40f (soft), now B70f (sharp))"]
    change = reports["second"]["severity_score"] - reports["first"]["severity_score"]
    assert reports["second"]["change"]["severity_score"] == pytest.approx(change)
    assert reports["second"]["change"]["days"] == 45
    assert change < -0.02

    (previous,) = figures(second, codes.PREVIOUS_FINDINGS.value)
    (derived,) = figures(second, codes.DERIVED_MEASUREMENTS.value)
    key = (codes.SEVERITY_SCORE.value, Region.BOTH)
    assert previous[key] == pytest.approx(100 * reports["first"]["severity_score"], rel=1e-5)
    assert derived[codes.SEVERITY_CHANGE.value, Region.BOTH] == pytest.approx(100 * change, rel=1e-5)
    (other,) = second.PertinentOtherEvidenceSequence
    evidence = other.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert evidence == first.SOPInstanceUID

    assert reports["namesake"]["priors"] == []
    assert "no earlier results" in reports["namesake"]["priors_search"]
    third = report_in(orthanc, story["namesake"])
    assert figures(third, codes.PREVIOUS_FINDINGS.value) == []
    assert "PertinentOtherEvidenceSequence" not in third

    shown = served.command("show", series_uid(folders["second"])).stdout
    assert "1 earlier result of this patient; looked for in this node" in shown
    assert "since 2026-01-01" in shown
    for path in sorted((served.state_dir / "results").rglob("*.dcm")):
        assert validators.dciodvfy(tool, path, *validators.FROM_THE_SOURCE) == [], path


def test_a_prior_corrected_to_another_patient_is_taken_out_of_the_result_that_shows_it(
    tmp_path: Path, dcmtk: Dcmtk, orthanc: Orthanc, served: Served
) -> None:
    first = study(tmp_path / "first", BEFORE, "20260101")
    second = study(tmp_path / "second", AFTER, "20260215")
    for folder in (first, second):
        assert dcmtk.dcmsend(served.port, [folder], "DICOMNODE").returncode == 0
        details = served.settled(series_uid(folder))
    assert len(details["jobs"][-1]["report"]["priors"]) == 1
    shown = report_in(orthanc, details)

    for path in first.iterdir():
        ds = pydicom.dcmread(path)
        ds.PatientID = "P-9"
        ds.save_as(path)
    assert dcmtk.dcmsend(served.port, [first], "DICOMNODE").returncode == 0
    served.settled(series_uid(first))
    details = served.settled(series_uid(second))
    assert details["series"]["revision"] == 2
    assert details["jobs"][-1]["report"]["priors"] == []
    corrected = report_in(orthanc, details)
    assert figures(corrected, codes.PREVIOUS_FINDINGS.value) == []
    (replaced,) = corrected.PredecessorDocumentsSequence
    named = replaced.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == shown.SOPInstanceUID
