"""Test objects are marked, arrive, and what is said about each is what the destination said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pynetdicom.sop_class import SegmentationStorage  # type: ignore[attr-defined]
from typer.testing import CliRunner

from dicom_node import postbox, send_test
from dicom_node.archive import CONTEXTS
from dicom_node.carrier import carrier
from dicom_node.cli import app
from dicom_node.commitment import CommitmentReport
from dicom_node.postbox import Postbox
from dicom_node.send_test import Outcome
from pipeline import testset
from pipeline.types import Profile
from tests.fixtures import stow
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import reference, write_object
from tests.fixtures.stow import StowServer


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with ExitStack() as stack:
        yield Outbox(tmp_path, stack)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write_object(tmp_path / "files", SegmentationStorage), write_object(tmp_path / "files")]


def send(outbox: Outbox, files: list[Path], port: int, wait_s: float = 5.0, **changes: object) -> list[Outcome]:
    (pacs,) = outbox.config(port, **changes).destinations
    box = Postbox(outbox.ledger, outbox.clock)
    return send_test.send(pacs, carrier(pacs, "NODE"), files, box, wait_s)


def test_committed_on_the_same_association(outbox: Outbox, files: list[Path]) -> None:
    _, port = outbox.archive(same_association=True)
    assert [(each.answer, each.kept, each.good) for each in send(outbox, files, port)] == [
        ("stored", "committed", True)
    ] * 2


def test_a_report_that_comes_to_the_running_node(outbox: Outbox, files: list[Path]) -> None:
    service = outbox.service(1)

    def report_to_the_node(report: CommitmentReport) -> None:
        failed = ((reference(files[0]).sop_instance_uid, 0x0112),)
        committed = (reference(files[1]).sop_instance_uid,)
        service.on_event_report(CommitmentReport(report.transaction_uid, committed, failed))

    _, port = outbox.archive(answer_commitment=report_to_the_node)
    first, second = send(outbox, files, port)
    assert (first.kept, first.good) == ("not committed: no such object instance (0x0112)", False)
    assert (second.kept, second.good) == ("committed", True)


def test_reports_that_nobody_waits_for_leave_no_trace(outbox: Outbox) -> None:
    before = len(outbox.ledger.recent_events())
    assert not postbox.leave(outbox.ledger, CommitmentReport("1.2.3", ("1",), ()), outbox.clock())
    assert len(outbox.ledger.recent_events()) == before


def test_without_a_report_it_is_looked_for(outbox: Outbox, files: list[Path]) -> None:
    _, port = outbox.archive(answer_commitment=lambda report: None)
    outcomes = send(outbox, files, port, wait_s=0.0)
    assert all(
        each.good and each.kept.startswith("found by C-FIND; no commitment report came") for each in outcomes
    )


def test_one_refused_class(outbox: Outbox, files: list[Path]) -> None:
    contexts = [context for context in CONTEXTS if context.abstract_syntax != SegmentationStorage]
    _, port = outbox.archive(contexts=contexts, same_association=True)
    first, second = send(outbox, files, port)
    assert not first.good
    assert "does not take Segmentation Storage" in first.answer
    assert second.good


def test_by_dicomweb_found_not_found_and_not_asked(outbox: Outbox, files: list[Path]) -> None:
    with stow.serve(StowServer()) as server:
        for lists, verify, kept, good in (
            (True, "find", "found by QIDO-RS", True),
            (False, "find", "not found by QIDO-RS", False),
            (False, "none", 'not asked: verify = "none"', True),
        ):
            server.lists = lists
            (web,) = outbox.web_config(server.url, verify=verify).destinations
            outcomes = send_test.send(web, carrier(web, "NODE"), files, Postbox(None, outbox.clock), 0.0)
            assert {(each.kept, each.good) for each in outcomes} == {(kept, good)}


def test_the_command_sends_what_nobody_takes_for_a_patient(outbox: Outbox) -> None:
    archive, port = outbox.archive(same_association=True)
    config = outbox.folder / "config.toml"
    config.write_text(
        f'[node]\nstate_dir = "{outbox.folder}"\n[profiles.all]\nseg = "LABELMAP"\nlungs_seg = true\n'
        f'[[destinations]]\nname = "pacs"\nprofile = "all"\nae_title = "ARCHIVE"\n'
        f'host = "127.0.0.1"\nport = {port}\n'
    )
    command = ["send-test", "pacs", "--with-ct", "--json", "--config", str(config)]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert {each["kept"] for each in told} == {"committed"}
    assert [each["name"] for each in told[-4:]] == ["seg", "lungs", "picture", "sr"]
    assert len(archive.instances) == len(told) == testset.SPEC.slices + 4
    for kept in archive.instances.values():
        ds = pydicom.dcmread(kept.path)
        assert (str(ds.PatientName), ds.PatientID) == ("TEST^DICOMNODE", "DICOMNODE-TEST")
        assert "TEST" in ds.StudyDescription


def test_every_set_is_another_one(tmp_path: Path) -> None:
    uids = set()
    for second in (1, 2):
        made = testset.write(tmp_path / str(second), Profile(), datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC))
        uids |= {item.reference.sop_instance_uid for item in made.objects}
    assert len(uids) == 2 * 3
