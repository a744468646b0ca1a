"""The main job with the real parts: dcmtk sends, the installed command serves, Orthanc receives and commits."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from pipeline import phantom
from tests.fixtures import validators
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.served import Served, series_uid

Tool = Callable[[str], str]


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


def results_in(orthanc: Orthanc) -> dict[str, bytes]:
    """Result objects in the PACS by SOPInstanceUID."""
    kept = [orthanc.file(row["id"]) for row in orthanc.instances() if row["Modality"] in {"SEG", "SR", "OT"}]
    return {str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).SOPInstanceUID): data for data in kept}


def the_same_in_the_pacs(node: Served, orthanc: Orthanc, details: dict[str, Any]) -> None:
    """Every current result is in the PACS, once, with the bytes that the node keeps."""
    kept = results_in(orthanc)
    current = [row for row in details["results"] if row["current"]]
    assert {row["sop_instance_uid"] for row in current} <= kept.keys()
    for row in current:
        path = node.state_dir / "results" / row["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        there = pydicom.dcmread(pydicom.filebase.DicomBytesIO(kept[row["sop_instance_uid"]]))
        assert there == pydicom.dcmread(path)


def test_real_series_end_as_committed_results_or_with_a_reason(
    tmp_path: Path, tool: Tool, dcmtk: Dcmtk, shared: Path, orthanc: Orthanc, served: Served
) -> None:
    covid = tmp_path / "covid"
    volume = shared / "data" / "covid" / "volumes" / "ct" / "coronacases_org_002.nii.gz"
    script = shared / "tools" / "nifti_to_ct_series.py"
    subprocess.run([sys.executable, str(script), str(volume), str(covid)], check=True, stdout=subprocess.DEVNULL)
    ct = shared / "data" / "ct"
    folders = {
        "philips": ct / "philips-a0001-s2",
        "soft": ct / "siemens-a0002-b40f",
        "sharp": ct / "siemens-a0002-b70f",
        "covid": covid,
    }
    served.config["completion"] = {"series_quiet_s": 2.0, "study_quiet_s": 4.0}
    served.stop()
    served.start()
    for folder in folders.values():
        assert dcmtk.dcmsend(served.port, [folder], "DICOMNODE").returncode == 0
    story = {name: served.settled(series_uid(folder)) for name, folder in folders.items()}

    assert {name: details["series"]["state"] for name, details in story.items()} == {
        "philips": "delivered",
        "soft": "delivered",
        "sharp": "not_analysed",
        "covid": "delivered",
    }
    assert "sharp" in story["sharp"]["series"]["reason"]
    for name in ("philips", "soft", "covid"):
        kinds = {row["kind"] for row in story[name]["results"]}
        assert {"sr", "picture"} <= kinds, name
        assert all(row["state"] == "committed" for row in story[name]["deliveries"]), name
        the_same_in_the_pacs(served, orthanc, story[name])
    report = story["covid"]["jobs"][-1]["report"]
    assert 0.02 < report["severity_score"] < 0.9  # a diseased lung; how much exactly is for training's tests
    assert {row["kind"] for row in story["covid"]["results"]} == {"lesions", "picture", "sr"}

    written = sorted((served.state_dir / "results").rglob("*.dcm"))
    assert len(written) == sum(len(details["results"]) for details in story.values())
    for path in written:
        assert validators.dciodvfy(tool, path, *validators.FROM_THE_SOURCE) == [], path
    reports = [path for path in written if path.name == "sr.dcm"]
    assert validators.pixelmed(tool, reports[0]) == []


def received(node: Served) -> int:
    """Files of answered instances, recorded or not."""
    return sum(len(list((node.state_dir / name).rglob("*.dcm"))) for name in ("incoming", "archive"))


SMALL = phantom.PhantomSpec(slices=24, rows=128, columns=128, slice_spacing_mm=9.0)


@pytest.mark.parametrize("moment", ["reception", "analysis", "delivery"])
def test_killed_at_any_moment_it_ends_with_one_committed_result_set(
    tmp_path: Path, dcmtk: Dcmtk, orthanc: Orthanc, served: Served, moment: str
) -> None:
    ct = tmp_path / "ct"
    phantom.write_series(phantom.make(SMALL), ct)
    uid = series_uid(ct)
    signs = {
        "reception": lambda: received(served) > 5,
        "analysis": lambda: any("analysis begins" in line for line in served.log),
        "delivery": lambda: any(row["Modality"] in {"SEG", "SR", "OT"} for row in orthanc.instances()),
    }
    sender = threading.Thread(target=dcmtk.dcmsend, args=(served.port, [ct], "DICOMNODE"))
    sender.start()
    pause = threading.Event()
    for _ in range(12000):
        if signs[moment]():
            break
        pause.wait(0.005)
    served.kill()
    sender.join()
    assert signs[moment]()

    served.start()
    assert dcmtk.dcmsend(served.port, [ct], "DICOMNODE").returncode == 0  # a sender repeats what it was not sure of
    details = served.settled(uid)
    assert details["series"]["state"] == "delivered"
    assert details["instances"]["current"] == SMALL.slices
    assert [row["current"] for row in details["results"]].count(True) == 3
    the_same_in_the_pacs(served, orthanc, details)
    in_pacs = [row["Modality"] for row in orthanc.instances()]
    assert sorted(in_pacs) == sorted({"SEG", "SR", "OT"}), "an object is there twice"


def test_a_term_signal_ends_the_node_with_success(served: Served) -> None:
    assert served.stop() == 0
    assert "stopped" in served.log[-1]
