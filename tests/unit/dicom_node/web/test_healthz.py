"""What monitoring is told: whether the node does its work, and nothing about patients."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.testclient import TestClient

from dicom_node import config
from dicom_node.errors import TransientError
from dicom_node.health import Watched
from dicom_node.node import Node
from dicom_node.web import healthz
from dicom_node.web.shield import Shield, known_host
from tests.fixtures.inline import Inline
from tests.fixtures.page import FakeNode

HERE = "http://127.0.0.1"


def client(node: Watched) -> TestClient:
    page = Starlette(routes=[Route("/healthz", healthz.endpoint(node))], middleware=[Middleware(Shield, hosts=[])])
    return TestClient(page, base_url=HERE)


def test_all_is_well() -> None:
    answer = client(FakeNode()).get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "checks": dict.fromkeys(("database", "disk", "listener", "worker", "threads"), "ok"),
        "reasons": [],
    }


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (FakeNode(database=TransientError("host db.example.org user x")), "database: does not answer"),
        (FakeNode(disk="less than 2048 MB are free"), "disk: less than 2048 MB are free"),
        (FakeNode(listener="a port for DICOM is closed"), "listener: a port for DICOM is closed"),
        (FakeNode(worker="no worker process lives"), "worker: no worker process lives"),
        (FakeNode(dead=["ingest"]), "threads: ended: ingest"),
    ],
)
def test_what_is_wrong_is_said_with_503(node: FakeNode, reason: str) -> None:
    answer = client(node).get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
    assert [said.startswith(reason) for said in answer.json()["reasons"]] == [True]
    assert "db.example.org" not in answer.text


def test_a_database_that_hangs_holds_up_nobody() -> None:
    answers, threads = threading.Event(), []
    node = FakeNode(wait=lambda: (threads.append(threading.current_thread()), answers.wait()))
    page = Starlette(routes=[Route("/healthz", healthz.endpoint(node, answer_s=0.05))])
    with TestClient(page, base_url=HERE) as asking:
        for _ in range(3):
            answer = asking.get("/healthz")
            assert answer.status_code == 503
            assert answer.json()["reasons"] == ["database: has not answered for 0.05 s"]
        answers.set()
    assert len(threads) == 1  # who asks again and again costs no more than that


def test_a_running_node_is_well_and_one_that_is_stopped_is_not(tmp_path: Path) -> None:
    settings = config.parse({"node": {"state_dir": str(tmp_path), "port": 0}, "reception": {"min_free_disk_mb": 0}})
    node = Node(settings, executor=Inline)
    node.start()
    try:
        assert client(node).get("/healthz").json()["reasons"] == []
    finally:
        node.stop()
    reasons = client(node).get("/healthz").json()["reasons"]
    assert "listener: a port for DICOM is closed" in reasons
    assert "worker: the workers are stopped" in reasons


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8104", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("192.0.2.7:8104", True),
        ("[::1]:8104", True),
        ("[::1]", True),
        ("dicomnode.example.org:8104", True),
        ("attacker.example", False),
        ("127.0.0.1.attacker.example:8104", False),
        ("localhost.attacker.example", False),
        ("[::1].attacker.example", False),
        ("", False),
    ],
)
def test_only_names_of_the_page_may_call_it(host: str, known: bool) -> None:
    assert known_host(host, {"dicomnode.example.org"}) is known


def test_every_answer_has_strict_headers() -> None:
    calling = client(FakeNode())
    for path, host, status in (
        ("/healthz", "localhost", 200),
        ("/x", "localhost", 404),
        ("/healthz", "evil.example", 421),
    ):
        answer = calling.get(path, headers={"Host": host})
        assert answer.status_code == status
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Server" not in answer.headers
