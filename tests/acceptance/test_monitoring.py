"""What people and machines around a node are told: RIS, Prometheus, mail and webhook, by the installed command."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicom_node import resources
from pipeline import RESEARCH_USE_ONLY, phantom
from tests.fixtures import ris as ris_fixture
from tests.fixtures import told
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc, free_port
from tests.fixtures.ris import Ris, ack, read
from tests.fixtures.served import Served, series_uid

SMALL = phantom.PhantomSpec(slices=24, rows=128, columns=128, slice_spacing_mm=9.0)
NAME, PATIENT_ID, ACCESSION = "Müller|^Jörg & Söhne~", "PID^Quux|1", "ACC&Quux"
SECRETS = ("ller", "Söhne", "Quux")
TRIES, PAUSE_S = 600, 0.1


@dataclass
class Site:
    """A node between its neighbours."""

    node: Served
    orthanc: Orthanc
    ris: Ris
    box: told.Mailbox
    hook: told.Hook
    folder: Path

    def figures(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """What Prometheus is told."""
        text = get(f"{self.address}metrics")
        assert not any(secret in text for secret in (*SECRETS, "1.2.826", "2.25."))
        families = text_string_to_metric_families(text)
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    address: str = ""

    def start(self) -> None:
        self.node.start()
        self.address = self.node.page()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content = answer.read()
        assert isinstance(content, bytes)
        return content.decode("utf-8")


def until(seen: Callable[[], Any]) -> Any:
    """What it gives, as soon as it gives something."""
    pause = threading.Event()
    for _ in range(TRIES):
        if found := seen():
            return found
        pause.wait(PAUSE_S)
    raise AssertionError("it did not come")


@pytest.fixture
def site(tmp_path: Path, tool: Callable[[str], str]) -> Iterator[Site]:
    tool("/usr/sbin/Orthanc")
    with ExitStack() as stack:
        orthanc = Orthanc(tmp_path / "orthanc")
        orthanc.start()
        stack.callback(orthanc.kill)
        ris = stack.enter_context(ris_fixture.serve(Ris()))
        box, hook = stack.enter_context(told.mailbox()), stack.enter_context(told.webhook())
        entry = {
            "name": "ris",
            "protocol": "hl7",
            "host": "127.0.0.1",
            "port": ris.port,
            "receiving_application": "RIS",
        }
        node = Served(tmp_path / "node", [orthanc.destination(), entry], analysis={"device": "cpu"})
        mail = {
            "by": "mail",
            "host": "127.0.0.1",
            "port": box.port,
            "security": "none",
            "sender": "node@example.org",
        }
        node.config["notifications"] = [
            {"name": "chat", "by": "webhook", "url": hook.url},
            {"name": "admin", **mail, "recipients": ["admin@example.org"]},
        ]
        stack.callback(node.kill)
        found = Site(node, orthanc, ris, box, hook, tmp_path)
        found.start()
        orthanc.know("DICOMNODE", node.port)
        yield found


@pytest.mark.pacs
def test_one_series_told_to_everybody(site: Site, dcmtk: Dcmtk, tool: Callable[[str], str]) -> None:
    site.ris.answer = lambda control_id: ack(control_id, "AE", "unknown patient")
    who = {"PatientName": NAME, "PatientID": PATIENT_ID, "AccessionNumber": ACCESSION}
    options = phantom.SeriesOptions(uid_seed="monitoring", attributes={**who, "SpecificCharacterSet": "ISO_IR 192"})
    ct = site.folder / "ct"
    phantom.write_series(phantom.make(SMALL), ct, options)
    assert dcmtk.dcmsend(site.node.port, [ct], "DICOMNODE").returncode == 0

    details = site.node.settled(series_uid(ct))
    assert details["series"]["state"] == "failed"  # the RIS does not know the patient
    assert "unknown patient" in details["series"]["reason"]
    figures = site.figures()
    assert figures["dicomnode_instances_received_total", frozenset({("result", "stored")})] == SMALL.slices
    assert figures["dicomnode_failures_total", frozenset({("subject", "delivery"), ("reason", "refused")})] == 1
    assert figures["dicomnode_worker_resident_bytes", frozenset({("worker", "0")})] > 100 << 20
    scores = {name: value for (name, _), value in figures.items() if name == "dicomnode_severity_score_count"}
    assert scores == {"dicomnode_severity_score_count": 1}
    prometheus_fires(site, tool)

    site.node.kill()  # no chance to say goodbye
    site.start()
    crash, failures = until(lambda: len(site.hook.posts) >= 2 and sorted(site.hook.posts, key=lambda p: p["kind"]))
    assert (crash["kind"], failures["kind"]) == ("crash", "failures")
    assert failures["lines"] == ["1 deliveries failed: refused", "1 series are in state FAILED"]
    subjects = until(lambda: len(site.box.letters) >= 2 and {letter["Subject"] for letter in site.box.letters})
    assert "[dicomnode DICOMNODE] something failed" in subjects
    bodies = [letter.get_payload(decode=True) for letter in site.box.letters]
    written = json.dumps([site.hook.posts, *(body.decode() for body in bodies if isinstance(body, bytes))])
    assert written.count("What to do") == len(site.box.letters)
    for secret in (*SECRETS, details["series"]["identity"]["study_uid"]):
        assert secret not in written.replace(socket.gethostname(), ""), secret

    site.ris.answer = ack
    assert site.node.command("retry", series_uid(ct)).returncode == 0
    assert site.node.settled(series_uid(ct))["series"]["state"] == "delivered"
    message = read(site.ris.messages[-1])
    assert message.msh.msh_5.value == "RIS"
    pid = message.oru_r01_patient_result.oru_r01_patient.pid
    assert pid.pid_3.cx_1.value == PATIENT_ID.replace("^", "\\S\\").replace("|", "\\F\\")
    assert RESEARCH_USE_ONLY in site.ris.messages[-1]
    assert len(set(site.ris.control_ids)) == 1


def prometheus_fires(site: Site, tool: Callable[[str], str]) -> None:
    """Prometheus itself loads the rules, scrapes the node and finds what is wrong; with shorter waits."""
    rules = (resources.monitoring_folder() / "alerts.yml").read_text().replace("for: 2m", "for: 0s")
    (site.folder / "alerts.yml").write_text(rules)
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(site.folder / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "dicomnode", "static_configs": [{"targets": [site.address.split("/")[2], "127.0.0.1:1"]}]}
        ],
    }
    (site.folder / "prometheus.yml").write_text(json.dumps(settings))
    port = free_port()
    command = [tool("/usr/bin/prometheus"), f"--config.file={site.folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={site.folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (site.folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:

        def asked(path: str) -> Any:
            try:
                return json.loads(get(f"http://127.0.0.1:{port}/api/v1/{path}"))["data"]
            except OSError:  # it does not listen yet, or is not ready
                return {}

        def firing() -> set[tuple[str, str]]:
            alerts = [alert for alert in asked("alerts").get("alerts", ()) if alert["state"] == "firing"]
            return {(alert["labels"]["alertname"], alert["labels"].get("instance", "")) for alert in alerts}

        def states() -> dict[str, str]:
            rows = asked("query?query=dicomnode_series").get("result", ())
            return {row["metric"]["state"]: row["value"][1] for row in rows}

        # Either target may be scraped first: nothing here follows from the other's being there.
        until(lambda: ("DicomnodeDown", "127.0.0.1:1") in firing())
        assert until(states)["failed"] == "1"
        assert {target["health"] for target in asked("targets")["activeTargets"]} == {"up", "down"}
    finally:
        server.kill()
        server.wait()
