"""`dicomnode doctor` about peers: what each accepts, whether it answers for what it keeps, what to do if not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    StorageCommitmentPushModel,
    Verification,
)

from dicom_node import config as configuration
from dicom_node import doctor_peers
from dicom_node.archive import Archive
from dicom_node.config import Config, Source
from dicom_node.findings import Finding, Grade, worst

IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture
def archive(tmp_path: Path, request: pytest.FixtureRequest) -> Iterable[Callable[..., Config]]:
    """Start an archive; the config of a node that has it as its destination."""
    with ExitStack() as stack:

        def start(destination: dict[str, Any] | None = None, **behaviour: Any) -> Config:
            made = Archive(tmp_path / "archive", **behaviour)
            port = made.start()
            stack.callback(made.stop)
            peer = {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port, "timeout_s": 5.0}
            content = {
                "node": {"state_dir": str(tmp_path / "state")},
                "destinations": [{**peer, **(destination or {})}],
                "sources": [peer],
            }
            return configuration.parse(content)

        yield start


def found(config: Config) -> dict[str, Finding]:
    findings = list(doctor_peers.destination(config, config.destinations[0]))
    assert all(finding.remedy for finding in findings if finding.grade is not Grade.OK)
    return {finding.check.removeprefix("destination pacs: "): finding for finding in findings}


def test_a_destination_that_takes_everything(archive: Callable[..., Config]) -> None:
    findings = found(archive(same_association=True))
    assert worst(findings.values()) is Grade.OK
    assert list(findings) == [
        "echo",
        "Segmentation Storage",
        "Secondary Capture Image Storage",
        "Comprehensive 3D SR Storage",
        "commitment",
    ]
    assert "no such object instance" in findings["commitment"].text
    assert "Explicit VR Little Endian, Implicit VR Little Endian" in findings["Segmentation Storage"].text


def test_what_is_refused_is_named_with_what_to_do(archive: Callable[..., Config]) -> None:
    contexts = [
        build_context(Verification),
        build_context(StorageCommitmentPushModel),
        build_context(Comprehensive3DSRStorage),
        build_context(SecondaryCaptureImageStorage, IMPLICIT),
    ]
    findings = found(archive(contexts=contexts, same_association=True))
    refused, anew = findings["Segmentation Storage"], findings["Secondary Capture Image Storage"]
    assert refused.grade is Grade.FAULT
    assert SegmentationStorage in refused.remedy
    assert "[profiles.default]" in refused.remedy
    assert anew.grade is Grade.REMARK
    assert "encoded anew" in anew.text
    assert findings["Comprehensive 3D SR Storage"].grade is Grade.OK


def test_an_archive_without_commitment(archive: Callable[..., Config]) -> None:
    contexts = [build_context(Verification), build_context(Comprehensive3DSRStorage)]
    finding = found(archive(contexts=contexts))["commitment"]
    assert finding.grade is Grade.FAULT
    assert 'verify = "find"' in finding.text


def test_a_report_that_never_comes(archive: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_peers, "PATIENCE_S", 0.1)
    monkeypatch.setattr(doctor_peers, "STAY_S", 0.1)
    config = archive(answer_commitment=lambda _: None)
    assert "cannot come while the node does not run" in found(config)["commitment"].text
    monkeypatch.setattr(doctor_peers, "running", lambda _: True)
    finding = found(config)["commitment"]
    assert "no report came" in finding.text
    assert "address and port 11112" in finding.remedy


def test_verification_by_query_or_by_trust(archive: Callable[..., Config]) -> None:
    assert found(archive({"verify": "find"}))["query"].text == "C-FIND is answered, and rightly with nothing"
    assert "is believed" in found(archive({"verify": "none"}))["commitment"].text


def test_wrong_titles_end_at_the_echo(archive: Callable[..., Config]) -> None:
    config = archive({"ae_title": "WRONG"})
    assert list(found(config)) == ["echo"]
    assert "does not go by the AE title WRONG" in found(config)["echo"].text
    refused = found(archive(calling_ae_titles=("OTHER",)))
    assert "does not know our AE title DICOMNODE" in refused["echo"].text


@pytest.mark.parametrize(("retrieve", "says"), [("move", "C-MOVE"), ("get", "C-GET is not offered")])
def test_a_source_that_may_be_asked_and_sends_nothing(
    archive: Callable[..., Config], retrieve: str, says: str
) -> None:
    config = archive()
    peer = Source.model_validate({**config.sources[0].model_dump(), "retrieve": retrieve})
    findings = {finding.check: finding for finding in doctor_peers.source(config, peer)}
    assert findings["source pacs: echo"].grade is Grade.OK
    assert findings["source pacs: query"].grade is Grade.OK
    assert findings["source pacs: retrieve"].grade is Grade.FAULT  # this archive offers neither
    assert says in findings["source pacs: retrieve"].text


def test_a_web_destination_that_is_not_there() -> None:
    destination = {"name": "web", "protocol": "dicomweb", "url": "http://127.0.0.1:9/dicom-web", "timeout_s": 2.0}
    config = configuration.parse({"destinations": [destination]})
    (finding,) = doctor_peers.destination(config, config.destinations[0])
    assert finding.check == "destination web: DICOMweb"
    assert finding.grade is Grade.FAULT
