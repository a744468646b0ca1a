"""The proof of completeness with a real PACS: the installed node asks Orthanc and fetches what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
import pytest

from pipeline import phantom
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.served import Served, series_uid

pytestmark = pytest.mark.pacs
Tool = Callable[[str], str]
SLICES = 300
WITHHELD = frozenset({*range(40, 55), 120, 200, *range(298, 301)})  # InstanceNumber: a block, two alone, the end
SMALL = phantom.PhantomSpec(slices=SLICES, rows=64, columns=64, slice_spacing_mm=1.0)


@pytest.fixture
def orthanc(tmp_path: Path, tool: Tool) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    server = Orthanc(tmp_path / "orthanc", DicomAlwaysAllowGet=True, DicomAlwaysAllowMove=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def dcmtk(tool: Tool) -> Dcmtk:
    return Dcmtk(tool)


def serving(tmp_path: Path, orthanc: Orthanc, **source: Any) -> Served:
    """A node whose senders' series are looked for in the PACS."""
    node = Served(tmp_path / "node", [orthanc.destination()], analysis={"device": "cpu"})
    entry = orthanc.destination(calling_ae_titles=["CT1"], timeout_s=10.0, backoff_s=1.0, backoff_cap_s=2.0)
    node.config["sources"] = [entry | source]
    orthanc.know("DICOMNODE", node.start())
    return node


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return phantom.write_series(phantom.make(SMALL), tmp_path_factory.mktemp("series"))


def without(series: Sequence[Path], withheld: frozenset[int]) -> list[Path]:
    return [path for path in series if int(path.stem) not in withheld]


def said(node: Served, details: dict[str, Any]) -> str:
    """How completeness was shown, as the SR says it."""
    (row,) = (row for row in details["results"] if row["current"] and row["kind"] == "sr")
    report = pydicom.dcmread(node.state_dir / "results" / row["path"])
    texts = [str(item.TextValue) for item in _items(report) if item.ValueType == "TEXT"]
    (text,) = [text for text in texts if "regular distances" in text]
    return text


def _items(ds: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for item in ds.get("ContentSequence", []):
        yield item
        yield from _items(item)


@pytest.mark.parametrize(("retrieve", "service"), [("move", "C-MOVE"), ("get", "C-GET")])
def test_twenty_of_three_hundred_slices_are_fetched_and_the_report_says_so(
    tmp_path: Path, orthanc: Orthanc, dcmtk: Dcmtk, series: list[Path], retrieve: str, service: str
) -> None:
    for path in series:
        orthanc.upload(path)
    node = serving(tmp_path, orthanc, retrieve=retrieve)
    try:
        sent = without(series, WITHHELD)
        assert len(sent) == SLICES - 20
        assert dcmtk.dcmsend(node.port, sent, "DICOMNODE", "CT1").returncode == 0
        details = node.settled(series_uid(series[0].parent))
        assert details["series"]["state"] == "delivered"
        assert details["instances"]["current"] == SLICES
        (retrieval,) = details["retrievals"]
        assert (retrieval["state"], retrieval["wanted"], retrieval["fetched"]) == ("done", 20, 20)
        expected = (
            f"300 instances, as many as pacs lists (C-FIND, NumberOfSeriesRelatedInstances); 20 of them fetched "
            f"from pacs by {service}; 300 slices at regular distances of 1.00 mm without gap"
        )
        assert details["series"]["completeness"].startswith(expected)
        assert said(node, details) == details["series"]["completeness"]
        assert expected[:40] in node.command("show", details["series"]["identity"]["series_uid"]).stdout
        assert len({job["revision"] for job in details["jobs"]}) == 1, "nothing was analysed before it was whole"
    finally:
        node.kill()


def test_what_the_node_never_saw_is_listed_and_pulled(tmp_path: Path, orthanc: Orthanc) -> None:
    today = {"StudyDate": f"{date.today():%Y%m%d}", "PatientID": "PULLED", "AccessionNumber": "A77"}
    drawn = phantom.make(phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0))
    folder = tmp_path / "unseen"
    for path in phantom.write_series(drawn, folder, attributes=today):
        orthanc.upload(path)
    uid = series_uid(folder)
    node = serving(tmp_path, orthanc)
    try:
        listed = json.loads(node.command("reconcile", "--since", "1d", "--json").stdout)
        (finding,) = listed["findings"]
        assert (finding["series"]["series_uid"], finding["reason"]) == (uid, "never seen")
        assert listed["requested"] == 0
        assert node.command("pull", "--accession", "*").returncode == 2
        unknown = node.command("pull", "--accession", "none")
        assert unknown.returncode == 3 and "no CT series of none" in unknown.stderr

        node.stop()
        waiting = node.command("pull", "--accession", "A77")
        assert waiting.returncode == 1
        assert (
            "no node is running" in waiting.stderr and "fetched when `dicomnode serve` is started" in waiting.stderr
        )
        node.start()
        done = node.command("pull", "--patient", "PULLED")
        assert done.returncode == 0, done.stdout + done.stderr
        details = node.settled(uid)
        assert details["series"]["state"] == "delivered"
        assert "16 of them fetched from pacs by C-MOVE" in details["series"]["completeness"]
        again = json.loads(node.command("reconcile", "--since", "1d", "--pull", "--json").stdout)
        assert (again["findings"], again["requested"]) == ([], 0)
    finally:
        node.kill()
