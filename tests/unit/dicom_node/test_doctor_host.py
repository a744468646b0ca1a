"""`dicomnode doctor` about this machine: each fault is found, and has something to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from dicom_node import checkup, doctor, doctor_host, doctor_listener, service
from dicom_node import config as configuration
from dicom_node.config import Config
from dicom_node.findings import Finding, Grade
from dicom_node.ledger import Ledger
from dicom_node.retention import Disk
from pipeline.lung_builtin import NETWORK_METHOD
from tests.fixtures.certificates import Authority
from tests.fixtures.reception import receiving

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
MOUNTS = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /srv/a\\040b rw shared:9 - nfs4 server:/x rw
"""


def config(tmp_path: Path, **sections: Any) -> Config:
    (tmp_path / "state").mkdir(exist_ok=True)
    return configuration.parse({"node": {"state_dir": str(tmp_path / "state")}, **sections})


def texts(findings: list[Finding]) -> str:
    assert all(finding.remedy for finding in findings if finding.grade is not Grade.OK)
    return "\n".join(finding.text for finding in findings)


@pytest.mark.parametrize(("free_mb", "grade"), [(100, Grade.FAULT), (2100, Grade.REMARK), (100_000, Grade.OK)])
def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mb: int, grade: Grade) -> None:
    monkeypatch.setattr(Disk, "of", lambda _: Disk(free_mb << 20, 2048 << 20))
    assert list(doctor_host.disk(config(tmp_path)))[0].grade is grade


def test_sqlite_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_host.file_system(Path("/srv/a b/state"), MOUNTS) == "nfs4"
    assert doctor_host.file_system(Path("/srv/other"), MOUNTS) == "ext4"
    monkeypatch.setattr(doctor_host, "file_system", lambda *_: "nfs4")
    assert "where SQLite loses data" in texts(list(doctor_host.disk(config(tmp_path))))


def test_a_clock_that_was_set_back_or_runs_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path)
    with closing(Ledger(settings.database_url)) as ledger:
        ledger.note("the node starts", NOW)
    monkeypatch.setattr(doctor_host, "synchronised", lambda: True)
    assert [one.grade for one in doctor_host.clock(settings, NOW + timedelta(hours=1))] == [Grade.OK]
    found = list(doctor_host.clock(settings, NOW - timedelta(hours=1)))
    assert "still to come" in texts(found)
    monkeypatch.setattr(doctor_host, "synchronised", lambda: False)
    assert [one.grade for one in doctor_host.clock(settings, NOW)] == [Grade.REMARK]


def test_the_kernel_says_whether_a_time_service_keeps_the_clock() -> None:
    assert doctor_host.synchronised() in {True, False}


def test_the_database(tmp_path: Path) -> None:
    settings = config(tmp_path)
    assert "no ledger yet" in texts(list(doctor_host.database(settings)))
    with closing(Ledger(settings.database_url)):
        pass
    (found,) = doctor_host.database(settings)
    assert found.grade is Grade.OK
    assert found.text.startswith("0 series")
    (settings.node.state_dir / "quarantine").mkdir()
    (settings.node.state_dir / "quarantine" / "x.reason").write_text("?")
    (settings.node.state_dir / "ledger.sqlite").write_bytes(b"no database" * 1000)
    assert list(doctor_host.database(settings))[0].grade is Grade.FAULT


@pytest.mark.parametrize("url", ["mysql://pacs/ledger", "postgresql+nodriver://pacs/ledger"])
def test_a_database_url_that_cannot_be_used_is_to_be_corrected(tmp_path: Path, url: str) -> None:
    settings = configuration.parse({"node": {"state_dir": str(tmp_path), "database": url}})
    (found,) = doctor_host.database(settings)
    assert found.text.startswith("node.database: ")
    assert found.remedy == "correct it in config.toml"


def test_what_lies_in_quarantine_is_told_apart(tmp_path: Path) -> None:
    settings = config(tmp_path)
    with closing(Ledger(settings.database_url)):
        pass
    (settings.node.state_dir / "quarantine").mkdir()
    for name in ("a.dcm.reason.txt", "result-1.2.dcm.reason.txt", "result-1.3.dcm.reason.txt"):
        (settings.node.state_dir / "quarantine" / name).touch()
    said = texts(list(doctor_host.database(settings)))
    assert "1 received files could not be read" in said
    assert "2 result objects failed a check and were not sent" in said


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who owns nothing."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_who_may_not_look_is_told_that_and_nothing_wrong(tmp_path: Path) -> None:
    settings = config(tmp_path)
    with closing(Ledger(settings.database_url)):
        pass
    settings.node.state_dir.chmod(0)
    try:
        with nobody():
            (found,) = checkup.examine(settings, NOW, with_analysis=False)
    finally:
        settings.node.state_dir.chmod(0o700)
    assert found.grade is Grade.FAULT
    assert f"may not look into {settings.node.state_dir}" in found.text
    assert "runuser -u dicomnode" in found.remedy


def test_the_model_and_the_device(tmp_path: Path) -> None:
    settings = config(tmp_path)
    told = texts(list(doctor_host.model(settings)))
    assert "demonstration" in told
    assert NETWORK_METHOD in told  # the shipped package brings a lung network
    assert "CPU" in texts(list(doctor_host.device(config(tmp_path, analysis={"device": "cpu"}))))
    absent = list(doctor_host.device(config(tmp_path, analysis={"device": "cuda:63"})))
    assert absent[0].grade is Grade.FAULT


def test_files_that_config_names(tmp_path: Path) -> None:
    assert texts(list(doctor_host.files(config(tmp_path), [], NOW))) == "what it names is there and can be used"
    (found,) = doctor_host.files(config(tmp_path), ["lungs.weights: cannot be read"], NOW)
    assert found.grade is Grade.FAULT


def test_the_listener(tmp_path: Path) -> None:
    settings = config(tmp_path)
    assert texts(list(doctor_listener.listener(settings))) == "the node does not run"
    with receiving(tmp_path / "state") as node, service.only_one(tmp_path / "state"):
        running = settings.model_copy(update={"node": settings.node.model_copy(update={"port": node.port})})
        (found,) = doctor_listener.listener(running)
        assert found.grade is Grade.OK
        elsewhere = running.model_copy(update={"node": running.node.model_copy(update={"ae_title": "OTHER"})})
        assert list(doctor_listener.listener(elsewhere))[0].grade is Grade.FAULT


def listening(tmp_path: Path, tls: dict[str, Any], **reception: Any) -> list[tuple[Finding, int]]:
    """What is said of a node that listens with this [tls]; and with each finding how many calls it had refused."""
    with receiving(tmp_path / "state", tls, **reception) as node, service.only_one(tmp_path / "state"):
        ports = {"node": {"state_dir": str(tmp_path / "state"), "port": node.port}}
        settings = configuration.parse({**ports, "tls": {**tls, "port": node.tls_port}, "reception": reception})
        traffic = node.receiver.traffic
        return [(found, sum(traffic.rejected_counts.values())) for found in doctor_listener.listener(settings)]


def test_titles_that_are_bound_to_a_certificate_are_not_called_by(tmp_path: Path) -> None:
    """It would be refused, rightly, and the audit trail would have an alert."""
    tls = {**Authority(tmp_path).listener(), "peers": {"CT1": ["ct1.example.org"]}}
    found = listening(tmp_path, tls, calling_ae_titles=["CT1", "CT2"])
    assert [(each.grade, refused) for each, refused in found] == [(Grade.OK, 0)] * 2
    assert "answers CT2" in found[0][0].text
    ((alone, refused),) = listening(tmp_path, tls, calling_ae_titles=["CT1"])
    assert (alone.grade, refused) == (Grade.REMARK, 0)
    assert "every AE title that may call is bound to a certificate" in alone.text


def test_a_node_whose_own_certificate_is_of_another_ca_than_those_of_its_callers(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own = Authority(tmp_path / "other", "other").issue("node")
    files = {"certificate": str(own.certificate), "key": str(own.key), "port": 0}
    callers = {**files, "ca": str(Authority(tmp_path).certificate)}
    found = listening(tmp_path, callers)
    assert sorted((each.grade, refused) for each, refused in found) == [(Grade.OK, 0), (Grade.REMARK, 0)]
    for relaxed in (files, callers):
        found = listening(tmp_path, {**relaxed, "require_client_certificate": False})
        assert [(each.grade, refused) for each, refused in found] == [(Grade.OK, 0)] * 2


def test_why_the_port_with_tls_is_not_tried(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    absent, tls = tmp_path / "absent.pem", {**Authority(tmp_path).listener(), "port": 2762, "only": True}
    for files, why in (
        ({"ca": str(other.certificate)}, "nobody in tls.ca vouches for its own certificate"),
        ({"ca": str(absent)}, f"{absent} holds no certificate in PEM format: nobody may call"),
        ({"certificate": str(absent)}, f"is not tried: {absent} holds no certificate in PEM format"),
    ):
        with service.only_one(tmp_path / "state"):
            (found,) = doctor_listener.listener(config(tmp_path, tls={**tls, **files}))
        assert found.grade is Grade.REMARK
        assert found.text.endswith(why)


def test_peers_that_could_never_call(tmp_path: Path) -> None:
    peer = {"name": "pacs", "ae_title": "PACS", "host": "192.0.2.7", "port": 104}
    settings = config(
        tmp_path, destinations=[peer], reception={"calling_ae_titles": ["CT1"], "networks": ["10.0.0.0/8"]}
    )
    found = texts(list(doctor_listener.reachable(settings)))
    assert "where pacs cannot call" in found
    assert "in none of reception.networks" in found
    assert "not in reception.calling_ae_titles" in found
    near = {**peer, "host": "127.0.0.1"}
    assert not list(doctor_listener.reachable(config(tmp_path, destinations=[near])))


def test_a_damaged_ledger_is_said_without_what_a_library_says_to_programmers(tmp_path: Path) -> None:
    settings = config(tmp_path)
    (tmp_path / "state" / "ledger.sqlite").write_bytes(b"no database" * 1000)
    (found,) = doctor_host.database(settings)
    assert found.text == "the database cannot be opened: file is not a database; see Backup in docs/running.md"
    assert "Backup" in found.remedy


def test_copies_beside_the_ledger_and_what_is_just_taken_away_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    copy = tmp_path / "state" / "ledger.sqlite.bak"
    copy.touch()
    absent = tmp_path / "state" / "ledger.sqlite-shm"
    monkeypatch.setattr(doctor.os, "access", lambda path, _mode: path not in {copy, absent})
    assert doctor.file_faults(settings) == []


def test_files_of_the_ledger_that_the_user_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path)
    wal = tmp_path / "state" / "ledger.sqlite-wal"
    wal.touch()
    monkeypatch.setattr(doctor.os, "access", lambda path, _mode: path != wal)
    (found,) = doctor.file_faults(settings)
    assert found == f"node.state_dir: {wal} cannot be written by this user; give it to the service's user"


def test_a_gpu_that_cannot_be_used_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_: object) -> None:
        raise torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nSearch for …")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    (found,) = doctor_host.device(config(tmp_path, analysis={"device": "auto"}))
    assert found.grade is Grade.FAULT
    assert found.text.endswith("busy or unavailable")
