"""The whole node as an attacker and an auditor see it: TLS on every wire, an audit trail, no patient in the log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pipeline import phantom
from tests.conftest import absent
from tests.fixtures.audit import Message, read_folder
from tests.fixtures.certificates import Authority
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.reception import Node, calling, ct, data_set_bytes, encode, status, store, store_dataset
from tests.fixtures.served import Served, series_uid

Tool = Callable[[str], str]
SMALL = phantom.PhantomSpec(slices=24, rows=128, columns=128, slice_spacing_mm=9.0)
PATIENT = {
    "PatientName": "Zyxwvut^Qponmlk",
    "PatientID": "PID-8271936455",
    "PatientBirthDate": "19370411",
    "AccessionNumber": "ACC-5554443332",
    "ReferringPhysicianName": "Kjihgfe^Doctor",
    "InstitutionName": "Hospital Uvwxyz",
}
WORDS = ("Zyxwvut", "Qponmlk", "8271936455", "19370411", "5554443332", "Kjihgfe", "Uvwxyz")


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def orthanc(tmp_path: Path, tool: Tool, ca: Authority) -> Iterator[Orthanc]:
    """A PACS with which nothing goes without TLS."""
    tool("/usr/sbin/Orthanc")
    owner = ca.issue("orthanc")
    server = Orthanc(
        tmp_path / "orthanc",
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(owner.certificate),
        DicomTlsPrivateKey=str(owner.key),
        DicomTlsTrustedCertificates=str(ca.certificate),
        DicomTlsRemoteCertificateRequired=True,
    )
    server.start()
    yield server
    server.kill()


@pytest.fixture
def served(tmp_path: Path, orthanc: Orthanc, ca: Authority) -> Iterator[Served]:
    """A node with which nothing goes without TLS either, and whose log says all it has to say."""
    owner = ca.issue("node")
    tls = {"certificate": str(owner.certificate), "key": str(owner.key), "ca": str(ca.certificate)}
    node = Served(
        tmp_path / "node",
        [orthanc.destination(tls=True)],
        analysis={"device": "cpu"},
        log={"level": "DEBUG"},
        tls={**tls, "port": 0, "only": True},
    )
    port = node.start()
    node.config["tls"]["port"] = port
    orthanc.know("DICOMNODE", port, UseDicomTls=True)
    yield node
    node.kill()


def series_of_the_patient(folder: Path) -> list[Path]:
    paths = phantom.write_series(phantom.make(SMALL), folder)
    for path in paths:
        ds = pydicom.dcmread(path)
        for keyword, value in PATIENT.items():
            setattr(ds, keyword, value)
        ds.save_as(path)
    return paths


def test_tls_on_every_wire_an_audit_trail_and_no_patient_in_the_log(
    tmp_path: Path, tool: Tool, ca: Authority, orthanc: Orthanc, served: Served
) -> None:
    paths = series_of_the_patient(tmp_path / "ct")
    owner = ca.issue("ct1")
    tls = ["+tls", str(owner.key), str(owner.certificate), "+cf", str(ca.certificate)]
    sent = Dcmtk(tool).storescu(served.port, paths, "DICOMNODE", *tls, calling="CT1")
    assert sent.returncode == 0, sent.stdout
    details = served.settled(series_uid(tmp_path / "ct"))
    assert details["series"]["state"] == "delivered", details["series"]
    assert {row["state"] for row in details["deliveries"]} == {"committed"}
    assert Dcmtk(tool).storescu(served.port, paths[:1], "DICOMNODE").returncode != 0  # without TLS
    assert served.stop() == 0

    log = "".join(served.log)
    assert "analysis begins" in log  # it does say what goes on
    assert [word for word in WORDS if word in log] == []

    messages = read_folder(served.state_dir / "audit")
    assert (messages[0].type, messages[-1].type) == ("110120", "110121")
    (came,) = [message for message in messages if message.event.get("EventActionCode") == "C"]
    assert_about_the_patient(came, {CTImageStorage: SMALL.slices})
    assert came.participant("110153")["AlternativeUserID"] == "AETITLES=CT1"
    begun = [message for message in messages if message.id == "110102"]
    went = [message for message in messages if message.id == "110104" and message is not came]
    assert len(begun) == len(went) >= 1
    for message in (*begun, *went):
        assert message.outcome == "0"
        assert message.participant("110152")["AlternativeUserID"] == "AETITLES=ORTHANC"
        assert_about_the_patient(message)
    assert [message.type for message in messages if message.id == "110113"] == ["110126"]
    assert "Zyxwvut" not in "".join(message.text for message in messages)


def assert_about_the_patient(message: Message, instances: dict[str, int] | None = None) -> None:
    (patient,) = message.objects("2")
    assert patient.get("ParticipantObjectID") == PATIENT["PatientID"]
    (study,) = message.objects("110180")
    assert study.xpath("ParticipantObjectDescription/Accession/@Number") == [PATIENT["AccessionNumber"]]
    found = study.xpath("ParticipantObjectDescription/SOPClass")
    counts = {one.get("UID"): int(one.get("NumberOfInstances")) for one in found}
    assert counts == instances if instances is not None else sum(counts.values()) >= 1


def test_nor_is_a_patient_in_the_log_where_things_go_wrong(tmp_path: Path) -> None:
    node = Served(tmp_path / "node", analysis={"device": "cpu"}, log={"level": "DEBUG"})
    port = node.start()
    try:
        peer = Node(None, port, None)  # type: ignore[arg-type]
        good = {**PATIENT, "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
        data = [
            ct(**good, Rows=None),
            ct(**{**good, "PatientBirthDate": None}, ImagePositionPatient=None),
            ct(**{**good, "StudyInstanceUID": None}),
            ct(**{**good, "SeriesInstanceUID": "Zyxwvut-8271936455"}),
            ct(**good, SOPClassUID="1.2.3"),
        ]
        with pydicom.config.disable_value_validation(), calling(peer) as assoc:
            for ds in data:
                store_dataset(assoc, ds)
            whole = bytearray(_encoded(good))
            for cut in (40, len(whole) // 2, len(whole) - 3):
                store(assoc, bytes(whole[:cut]), generate_uid())
            for at in range(20, 600, 7):  # wrong VRs and lengths around the values
                broken = bytearray(whole)
                broken[at] ^= 0xFF
                store(assoc, bytes(broken), generate_uid())
                if not assoc.is_established:
                    break
        folder = tmp_path / "ct"
        for path in series_of_the_patient(folder):
            ds = pydicom.dcmread(path)
            with pydicom.config.disable_value_validation():
                ds.PatientBirthDate, ds.PatientSex, ds.StudyDate = "19370411-Zyxwvut", "Qponmlk", "Uvwxyz"
                ds.PatientAge, ds.StudyID = "8271936455", "5554443332" * 10
                ds.save_as(path)
        with calling(peer, [(CTImageStorage, ExplicitVRLittleEndian)]) as assoc:
            for path in sorted(folder.iterdir()):
                data_set = data_set_bytes(path)
                assert status(store(assoc, data_set, str(pydicom.dcmread(path).SOPInstanceUID))) == 0x0000
        assert node.settled(series_uid(folder))["series"]["state"] == "analysed"
        for word in ("Zyxwvut^Qpon", "PID-8271936455"):
            with suppress(Exception), calling(peer, calling_ae=word[:16], called_ae="WRONG"):
                pass
        node.command("status")
    finally:
        node.stop()
    log = "".join(line for line in node.log if "rejected:" not in line)  # AE titles are said there
    assert "instance refused" in log
    assert [word for word in WORDS if word in log] == []


def _encoded(elements: dict[str, Any]) -> bytes:
    return encode(ct(size=16, **elements), ExplicitVRLittleEndian)


NOBODY = 65534
# Nobody's rights, but for reading: checkout and Python may lie where only root gets. It can write no more.
READS = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
USER = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", *READS)
WRITING = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mknod,mknodat"


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """Reachable for nobody, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="dicomnode-nobody-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_the_services_user_writes_its_state_folder_and_nothing_else(
    nobodys_folder: Path, tmp_path: Path, tool: Tool
) -> None:
    """As the unit runs it, but for the sandbox: an unprivileged user, every file that is made or written seen."""
    if os.geteuid() != 0:
        absent("only root can become nobody")
    reach = [tool("/usr/bin/setpriv"), *USER, "--", sys.executable, "-c", "import dicom_node.cli, pipeline.run"]
    assert subprocess.run(reach, cwd="/").returncode == 0
    state, trace = nobodys_folder / "state", tmp_path / "trace"
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    node = Served(nobodys_folder, node={"state_dir": str(state)}, analysis={"device": "cpu"})
    strace = [tool("/usr/bin/strace"), "-D", "-f", "-y", "--seccomp-bpf", "-o", str(trace)]
    node.prefix = [*strace, "-e", f"trace={WRITING}", "-e", "signal=none", tool("/usr/bin/setpriv"), *USER, "--"]
    node.environment = {"HOME": "/nonexistent"}
    port = node.start()
    try:
        folder = nobodys_folder / "ct"
        phantom.write_series(phantom.make(SMALL), folder)
        assert Dcmtk(tool).dcmsend(port, [folder], "DICOMNODE").returncode == 0
        assert node.settled(series_uid(folder))["series"]["state"] == "analysed"
    finally:
        pid = node.process.pid if node.process is not None else 0
        node.stop()
    assert _until(lambda: re.search(rf"^{pid} +\+\+\+ exited", trace.read_text(errors="replace"), re.MULTILINE))
    written = {path for path in _written(trace) if not path.startswith(HARMLESS)}
    assert any(path.startswith(f"{state}/archive/") for path in written)  # the trace does see what is written
    assert any(path.startswith(f"{state}/results/") for path in written)  # also by the workers
    assert sorted(path for path in written if not path.startswith(f"{state}/")) == []


# devices that keep nothing, and semaphores between node and workers, which have no name as soon as they are made
HARMLESS = ("/dev/null", "/dev/tty", "/proc/", "/dev/shm/sem.")


def _until(condition: Callable[[], object]) -> bool:
    pause = threading.Event()
    for _ in range(600):
        if condition():
            return True
        pause.wait(0.05)
    return False


def _written(trace: Path) -> Iterator[str]:
    """Paths that were opened for writing, made, or moved, with success; relative ones are in no allowed place."""
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        pid, call = line.split(None, 1)
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            call = begun.pop(pid, "") + resumed[1]
        if re.search(r" = (-1|\?)", call):
            continue
        if call.startswith(("open(", "openat(")):
            if re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", call) and (path := re.search(r"= \d+<(.*)>$", call)):
                yield path[1]
        elif "(" in call:
            yield from re.findall(r'"([^"]*)"', call)
