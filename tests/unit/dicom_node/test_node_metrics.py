"""What Prometheus is told: true figures, in bounded number, and nothing about patients, whatever comes in."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from dicom_node import config
from dicom_node.errors import TransientError
from dicom_node.failure_classes import CLASSES, classify
from dicom_node.ledger import Ledger
from dicom_node.machine import Gpus
from dicom_node.metrics import Metrics
from dicom_node.metrics_families import FAMILIES
from dicom_node.metrics_labels import MAX_VALUES, Labels, clean
from dicom_node.states import SeriesState
from dicom_node.traffic import Traffic
from dicom_node.web import metrics as endpoint
from pipeline.types import AnalysisOutcome
from tests.fixtures.certificates import Authority
from tests.fixtures.outbox import Clock
from tests.fixtures.reception import calling, ct, receiving, rejection, status, store_dataset
from tests.fixtures.samples import (
    RESULTS,
    START,
    analysed,
    at,
    complete,
    deliver,
    filing,
    outcome,
    queue,
)

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}


@dataclass
class Reception:
    traffic: Traffic = field(default_factory=Traffic)
    open_associations: int = 0


@pytest.fixture
def settings(tmp_path: Path) -> config.Config:
    for name in ("incoming", "quarantine"):
        (tmp_path / name).mkdir()
    certificate = str(Authority(tmp_path).issue("node").certificate)
    tls = {"certificate": certificate, "key": certificate}
    node = {"state_dir": str(tmp_path)}
    return config.parse({"node": node, "tls": tls, "destinations": [PACS], "sources": [PACS]})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(settings: config.Config, ledger: Ledger, clock: Clock) -> Metrics:
    found = Metrics(settings, ledger, Reception(), list, clock, Gpus(Nvml(devices=1)))
    found.begin()
    return found


class Nvml(SimpleNamespace):
    """NVIDIA's library as far as it is used."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801  # as it is called there
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801  # as it is called there
        pass

    def nvmlInit(self) -> None:
        if not self.devices:
            raise self.NVMLError_LibraryNotFound("no driver")

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetMemoryInfo(self, _: int) -> Any:
        return SimpleNamespace(used=3 << 30, total=80 << 30)

    def nvmlDeviceGetUtilizationRates(self, number: int) -> Any:
        if number:
            raise self.NVMLError_NotSupported("Not Supported")
        return SimpleNamespace(gpu=42)


def samples(found: Metrics) -> Samples:
    parsed = text_string_to_metric_families(found.exposition().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in parsed for s in family.samples}


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"dicomnode_{name}", frozenset(labels.items())]


def scored(ledger: Ledger, number: int, header: Mapping[str, Any], severity: float = 0.3) -> None:
    """An analysis of a series from a scanner."""
    uid = f"1.2.3.{number}"
    ledger.file_instances([filing(1, uid, f"{uid}.0", header={"StudyInstanceUID": f"{uid}.0", **header})], START)
    complete(ledger, uid)
    queue(ledger, uid)
    claimed = ledger.claim_job(START)
    assert claimed is not None
    report = {
        "severity_score": severity,
        "consolidation_score": 0.02,
        "severity_class": "25-50 %",
        "model": {"name": "demo", "version": "0.2.0"},
    }
    made = outcome(1, series_uid=uid)
    done = AnalysisOutcome(report=report, objects=made.objects)
    assert ledger.job_done(claimed[0], done, RESULTS, {"pacs": "default"}, START)


def test_every_family_is_described_and_none_is_there_that_the_table_lacks(metrics: Metrics, ledger: Ledger) -> None:
    for number in range(3):
        scored(ledger, number, {"Manufacturer": "SIEMENS", "ManufacturerModelName": "Emotion 16"})
    text = metrics.exposition().decode()
    named = {
        line.split()[2]: (line.split()[3] if line.startswith("# TYPE") else "")
        for line in text.splitlines()
        if line[0] == "#"
    }
    assert {f.exposed.removesuffix("_bucket") for f in FAMILIES} == {
        name for name in named if not name.startswith("dicomnode_process_")
    }
    assert {name for name, _ in samples(metrics)} >= {
        f.exposed for f in FAMILIES if f.name != "dicomnode_worker_resident_bytes"
    }


def test_promtool_finds_no_fault(metrics: Metrics, tool: Callable[[str], str]) -> None:
    text = metrics.exposition()
    checked = subprocess.run([tool("/usr/bin/promtool"), "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stderr, checked.stdout) == (0, b"", b"")


def test_a_series_from_its_last_instance_to_its_committed_results(
    metrics: Metrics, ledger: Ledger, clock: Clock
) -> None:
    analysed(ledger)
    clock.advance(100)
    before = samples(metrics)
    assert value(before, "series", state="analysed") == 1
    assert value(before, "oldest_waiting_seconds", state="analysed") == 100
    assert value(before, "deliveries", destination="pacs", state="pending") == 3
    assert value(before, "oldest_delivery_seconds", destination="pacs") == 100
    deliver(ledger, now=at(90))
    after = samples(metrics)
    assert value(after, "series", state="delivered") == 1
    assert value(after, "deliveries", destination="pacs", state="pending") == 0
    assert value(after, "oldest_delivery_seconds", destination="pacs") == 0
    assert value(after, "turnaround_seconds_sum") == 90
    assert value(after, "turnaround_seconds_bucket", le="60.0") == 0
    assert value(after, "turnaround_seconds_bucket", le="120.0") == 1
    assert samples(metrics)["dicomnode_turnaround_seconds_count", frozenset()] == 1  # counted once


def test_what_happened_before_the_start_does_not_count_again(
    settings: config.Config, ledger: Ledger, clock: Clock
) -> None:
    analysed(ledger)
    deliver(ledger, now=at(90))
    restarted = Metrics(settings, ledger, Reception(), list, clock, Gpus(Nvml(devices=0)))
    restarted.begin()
    found = samples(restarted)
    assert value(found, "turnaround_seconds_count") == 0
    assert value(found, "series", state="delivered") == 1
    assert not any("gpu" in name for name, _ in found)


def test_scores_by_scanner_and_model(metrics: Metrics, ledger: Ledger) -> None:
    for number, severity in enumerate((0.02, 0.3, 0.3, 0.6)):
        scored(ledger, number, {"Manufacturer": "SIEMENS", "ManufacturerModelName": "Emotion 16"}, severity)
    found = samples(metrics)
    named = {"scanner": "SIEMENS Emotion 16", "model": "demo 0.2.0"}
    assert value(found, "severity_score_count", **named) == 2  # shown from the third one on
    assert value(found, "severity_score_bucket", **named, le="0.5") == 1
    assert value(found, "severity_class_total", **named, severity_class="25-50 %") == 2
    assert value(found, "severity_score_count", scanner="other", model="other") == 2


HOSTILE = (
    "MUSTERFRAU^ERIKA",
    "ERIKA MUSTERFRAU",
    "4711-PID-0815",
    "PID4711081512",
    "1.2.840.113619.2.55",
    "ACC.1.2.840.7",
    'x"} 1\nevil_metric{a="',
    "évil\x00",
    "A" * 300,
    "",
)


def test_nothing_that_comes_in_gets_out(metrics: Metrics, ledger: Ledger) -> None:
    for number, text in enumerate(HOSTILE):
        header = {
            "Manufacturer": text,
            "ManufacturerModelName": text,
            "PatientName": text,
            "PatientID": text,
            "AccessionNumber": text,
        }
        scored(ledger, number, header)
        uid = f"1.2.3.9{number}"
        ledger.file_instances([filing(1, uid, f"{uid}.0", header=header)], START)
        seen = ledger.series(uid)
        assert ledger.settle(seen, SeriesState.NOT_ANALYSED, f"{text} is not analysable", START)
    said = metrics.exposition().decode()
    assert value(samples(metrics), "failures_total", subject="series", reason="not_analysable") == len(HOSTILE)
    assert value(samples(metrics), "severity_score_count", scanner="other", model="other") >= 2
    for text in (*filter(None, HOSTILE), "MUSTERFRAU", "4711", "evil", "1.2.3", "1.2.840", "AAAA"):
        assert text not in said, text


def test_labels_are_bounded_whatever_scanners_call_themselves() -> None:
    labels = Labels()
    shown = {
        labels.of(f"Scanner {chr(65 + a)}{chr(65 + b)}") for _ in range(3) for a in range(26) for b in range(26)
    }
    assert len(shown) == MAX_VALUES + 1
    assert clean("SOMATOM Definition AS+") == "SOMATOM Definition AS+"
    assert clean("LightSpeed  VCT") == "LightSpeed VCT"
    assert {clean(text) for text in ("1.2.840", "DOE^JOHN", "P123456", "a.1.2.3.4", "", "x", "é")} == {"other"}


def test_only_figures_leave_the_database(metrics: Metrics, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger is asked with names no column that holds an identity."""
    from sqlalchemy import event

    asked: list[str] = []
    event.listen(ledger._engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    scored(ledger, 1, {"Manufacturer": "SIEMENS"})
    del asked[:]
    metrics.exposition()
    selected = [statement.split("FROM")[0] for statement in asked if statement.startswith("SELECT")]
    assert len(selected) > 5
    for column in ("patient_", "accession", "description", "_uid", "peer_address", "calling_ae"):
        assert not [statement for statement in selected if column in statement], column


@pytest.mark.parametrize(
    ("subject", "state", "reason", "expected"),
    [
        ("job", "failed", "given up after 3 attempt(s), the last: the node stopped while it ran", "interrupted"),
        (
            "job",
            "failed",
            "given up after 3 attempt(s), the last: the worker process died",
            "worker_died",
        ),
        (
            "job",
            "failed",
            "given up …, the last: it took longer than 900 s and was stopped",
            "deadline",
        ),
        ("job", "failed", "given up …: unexpected error in the analysis: ValueError: x", "unexpected"),
        ("job", "failed", "Quarantined, not sent: SR of 1.2: a unit. It lies in /x.", "result_check"),
        ("job", "failed", 'device "cuda:3" is not here: 0 CUDA devices are visible', "model_or_device"),
        ("job", "failed", "the results could not be recorded: x", "not_recorded"),
        ("job", "failed", "something new", "other"),
        ("job", "done", "", None),
        ("delivery", "failed", "pacs: Given up after 12 attempts. PACS at h:1 refuses", "given_up"),
        ("delivery", "failed", "pacs: Quarantined, not sent: The result file x", "damaged_file"),
        ("delivery", "failed", "pacs: Stored, but it could not be confirmed that PACS keeps it", "unconfirmed"),
        ("delivery", "failed", "x: config.toml has no destination 'x' any more", "no_destination"),
        ("delivery", "failed", "pacs: PACS refused SEG with 0122", "refused"),
        ("series", "not_analysed", 'another series of this study was chosen ("x"): slices', None),
        ("series", "not_analysed", "Modality is MR", "not_analysable"),
        ("series", "incomplete", "waited an hour: a gap", "incomplete"),
        ("series", "failed", "not delivered to pacs: x", None),  # counted with the delivery or the job
    ],
)
def test_reasons_fall_into_classes(subject: str, state: str, reason: str, expected: str | None) -> None:
    found = classify(subject, state, reason)
    assert found == expected
    assert found is None or found in CLASSES[subject, state]


def test_without_a_database_the_rest_is_there(
    metrics: Metrics, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise TransientError("host db user x password y")

    monkeypatch.setattr(ledger, "changes_after", away)
    found = samples(metrics)
    assert value(found, "database_up") == 0
    assert ("dicomnode_disk_free_bytes", frozenset()) in found
    assert not any(name == "dicomnode_series" for name, _ in found)


def test_certificates_disk_and_gpus(metrics: Metrics, settings: config.Config) -> None:
    (settings.node.state_dir / "quarantine" / "x.reason.txt").touch()
    found = samples(metrics)
    assert value(found, "certificate_expiry_timestamp_seconds", setting="tls.certificate") > START.timestamp()
    assert value(found, "quarantined_files") == 1
    assert value(found, "disk_reserve_bytes") == 2048 << 20
    assert value(found, "gpu_memory_used_bytes", gpu="0") == 3 << 30
    assert value(found, "gpu_utilization_ratio", gpu="0") == 0.42


def test_a_gpu_that_does_not_tell_its_use_is_there_with_its_memory(
    settings: config.Config, ledger: Ledger, clock: Clock
) -> None:
    """As one that is shared out (MIG); the figures of the others are not lost with it."""
    found = samples(Metrics(settings, ledger, Reception(), list, clock, Gpus(Nvml(devices=2))))
    assert {gpu: value(found, "gpu_memory_used_bytes", gpu=gpu) for gpu in "01"} == dict.fromkeys("01", 3 << 30)
    assert value(found, "gpu_utilization_ratio", gpu="0") == 0.42
    assert ("dicomnode_gpu_utilization_ratio", frozenset({("gpu", "1")})) not in found


def test_reception_is_counted(tmp_path: Path) -> None:
    with receiving(tmp_path / "state", calling_ae_titles=["CT1"], max_associations=1) as node:
        counted = node.receiver.traffic
        with calling(node, calling_ae="CT1") as assoc:
            assert status(store_dataset(assoc, ct())) == 0x0000
            assert node.receiver.open_associations == 1
            assert rejection(node, calling_ae="CT1") is not None
        node.ended.get(timeout=10)
        rejection(node, calling_ae="STRANGER")
    assert counted.accepted_count == 1
    assert counted.rejected_counts == {
        "called_ae_title": 0,
        "calling_ae_title": 1,
        "no_place": 1,
        "low_disk": 0,
        "network_or_tls": 0,
    }
    assert counted.instance_counts["stored"] == 1
    assert counted.received_bytes > 64 * 64 * 2
    assert node.receiver.open_associations == 0


def test_a_database_that_hangs_is_not_waited_for() -> None:
    node, going_on = SimpleNamespace(), threading.Event()
    threads: list[threading.Thread] = []
    node.exposition = lambda: (threads.append(threading.current_thread()), going_on.wait(), b"")[-1]
    page = Starlette(routes=[Route("/metrics", endpoint.endpoint(node, answer_s=0.05))])
    with TestClient(page, base_url="http://127.0.0.1") as asking:
        assert [asking.get("/metrics").status_code for _ in range(3)] == [503] * 3
        going_on.set()
    assert len(threads) == 1
