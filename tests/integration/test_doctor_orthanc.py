"""`dicomnode doctor` against a real PACS: what works is said to work, and each fault on site has its line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.fixtures.orthanc import Orthanc
from tests.fixtures.served import Served

pytestmark = pytest.mark.pacs


@pytest.fixture(scope="module")
def orthanc(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    pacs = Orthanc(tmp_path_factory.mktemp("pacs"))
    pacs.start()
    yield pacs
    pacs.kill()


@pytest.fixture(scope="module")
def served(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    node = Served(tmp_path_factory.mktemp("node"), [orthanc.destination()])
    node.config["sources"] = [orthanc.destination("archive")]
    orthanc.know("DICOMNODE", node.start())
    configure(node)
    yield node
    node.stop()


def configure(served: Served, **changes: Any) -> None:
    """Write config.toml for the commands, with the port that the node has."""
    served.path.write_text(tomli_w.dumps({**served.config, **changes}))


def doctor(served: Served, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and the findings by check."""
    done = served.command("doctor", "--json", *(arguments or ("--no-analysis",)))
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    return done.returncode, {finding["check"]: finding for finding in told["findings"]}


def test_a_site_where_everything_works(served: Served) -> None:
    status, found = doctor(served, "--analysis")
    assert status == 0, found
    assert {finding["grade"] for finding in found.values()} <= {"ok", "remark"}
    assert "calls DICOMNODE back" in found["destination pacs: commitment"]["text"]
    for name in ("Segmentation Storage", "Comprehensive 3D SR Storage", "Secondary Capture Image Storage"):
        assert "Explicit VR Little Endian" in found[f"destination pacs: {name}"]["text"]
    assert found["source archive: query"]["grade"] == "ok"
    assert found["source archive: retrieve"]["grade"] == "ok"
    assert "64 slices in" in found["analysis"]["text"]
    assert any(check.startswith("listener on port") for check in found)


def test_a_pacs_that_does_not_know_the_node(served: Served, orthanc: Orthanc) -> None:
    orthanc.request("DELETE", "/modalities/dicomnode")
    try:
        status, found = doctor(served)
    finally:
        orthanc.know("DICOMNODE", served.port)
    assert status == 1
    assert found["destination pacs: echo"]["grade"] == "ok"
    assert found["destination pacs: commitment"]["grade"] == "fault"
    assert f"port {served.port}" in found["destination pacs: commitment"]["remedy"]
    assert found["source archive: retrieve"]["grade"] == "fault"


def test_a_pacs_that_calls_another_port(served: Served, orthanc: Orthanc) -> None:
    orthanc.know("DICOMNODE", 9)
    try:
        status, found = doctor(served)
    finally:
        orthanc.know("DICOMNODE", served.port)
    assert status == 1
    assert "no report came" in found["destination pacs: commitment"]["text"]


def test_wrong_titles_and_a_silent_host(served: Served, orthanc: Orthanc) -> None:
    wrong, gone = orthanc.destination(ae_title="ORTHANK"), orthanc.destination("gone", port=9)
    configure(served, destinations=[wrong, gone])
    try:
        status, found = doctor(served)
    finally:
        configure(served)
    assert status == 1
    assert "does not go by the AE title ORTHANK" in found["destination pacs: echo"]["text"]
    assert "nothing listens there" in found["destination gone: echo"]["text"]
    assert not [check for check in found if check.startswith("destination gone: S")]


def test_a_node_that_does_not_run(orthanc: Orthanc, tmp_path: Path) -> None:
    node = Served(tmp_path, [orthanc.destination()])
    node.start()
    configure(node)
    assert node.stop() == 0
    status, found = doctor(node)
    assert status == 1
    assert found["listener"]["text"] == "the node does not run"
    assert "dicomnode serve" in found["listener"]["remedy"]
