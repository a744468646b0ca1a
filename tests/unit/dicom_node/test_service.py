"""One node per state folder; the watchdog is told that all is well only while every thread lives."""

from __future__ import annotations

import shutil
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from dicom_node import service
from dicom_node.config import Config, parse
from dicom_node.errors import ConfigError, NodeError
from dicom_node.ledger import Ledger
from dicom_node.node import Node
from tests.fixtures.certificates import Authority


def test_a_second_node_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        service.only_one(tmp_path),
        pytest.raises(NodeError, match="another dicomnode"),
        service.only_one(tmp_path),
    ):
        pass
    with service.only_one(tmp_path):  # the lock went with its holder
        pass


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NodeError, match=r"file/state.*state_dir"), service.only_one(tmp_path / "file" / "state"):
        pass


class FakeNotifier:
    """Collects what systemd would be told; stops the loop after some messages."""

    def __init__(self, stop: threading.Event, after: int) -> None:
        self.messages: list[str] = []
        self._stop, self._after = stop, after

    def notify(self, message: str) -> None:
        self.messages.append(message)
        if len(self.messages) >= self._after:
            self._stop.set()


class FakeNode:
    """A node whose threads die after some looks."""

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self.reasons: list[str] = []
        self.lost = ""

    def ledger_lost(self) -> str:
        return self.lost

    def give_up(self, reason: str) -> None:
        self.reasons.append(reason)

    def dead_threads(self) -> list[str]:
        self._looks -= 1
        return ["ingest"] if self._looks < 0 else []


def test_the_watchdog_is_fed_while_all_threads_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    stop = threading.Event()
    notifier = FakeNotifier(stop, after=3)
    service._watch(FakeNode(looks=10), Config(), stop, notifier)  # type: ignore[arg-type]
    assert notifier.messages == ["WATCHDOG=1"] * 3


def test_certificates_that_end_soon_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    node = Authority(tmp_path).issue("node", days=10)
    config = parse({"tls": {"certificate": str(node.certificate), "key": str(node.key)}})
    stop = threading.Event()
    service._watch(FakeNode(looks=10), config, stop, FakeNotifier(stop, after=3))  # type: ignore[arg-type]
    assert caplog.text.count("expires in 9 days") == 1  # and not with every look


def test_a_dead_thread_ends_the_service_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    stop = threading.Event()
    notifier = FakeNotifier(stop, after=100)
    node = FakeNode(looks=2)
    with pytest.raises(NodeError, match="ingest"):
        service._watch(node, Config(), stop, notifier)  # type: ignore[arg-type]
    assert notifier.messages == ["WATCHDOG=1"] * 2
    assert "ingest" in node.reasons[0]  # the next start tells of it


def test_a_ledger_that_was_taken_away_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    stop = threading.Event()
    node = FakeNode(looks=100)
    node.lost = "ledger.sqlite was removed while the node ran"
    with pytest.raises(NodeError, match="was removed"):
        service._watch(node, Config(), stop, FakeNotifier(stop, after=100))  # type: ignore[arg-type]


def test_another_node_on_the_database_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    stop = threading.Event()
    notifier = FakeNotifier(stop, after=100)
    with pytest.raises(NodeError, match=r"because dicomnode on elsewhere has taken.*node\.database"):
        service._watch(FakeNode(looks=100), Config(), stop, notifier, lambda: "dicomnode on elsewhere has taken it")  # type: ignore[arg-type]


def test_a_node_sees_that_its_ledger_was_removed_or_replaced(tmp_path: Path) -> None:
    node = Node(parse({"node": {"state_dir": str(tmp_path), "port": 0}}))
    try:
        assert not node.ledger_lost()
        assert not node.database_fault()
        for path in tmp_path.glob("ledger.sqlite*"):
            path.rename(path.with_name(f"old-{path.name}"))
        assert "removed" in node.ledger_lost()
        assert "removed" in node.database_fault()  # /healthz
        shutil.copy(tmp_path / "old-ledger.sqlite", tmp_path / "ledger.sqlite")
        assert "replaced" in node.ledger_lost()
    finally:
        node.stop()


def test_a_ledger_in_a_file_is_watched_wherever_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "ledger.db"
    file.parent.mkdir()
    content = {"state_dir": str(tmp_path), "port": 0, "database": f"sqlite:///{file}"}
    node = Node(parse({"node": content}))
    try:
        file.rename(file.with_suffix(".old"))
        assert "ledger.db was removed" in node.ledger_lost()
    finally:
        node.stop()
    (tmp_path / "archive").mkdir(exist_ok=True)
    (tmp_path / "archive" / "file.dcm").touch()
    with pytest.raises(ConfigError, match="ledger that knew them is not in node.database"):
        service.refuse_faults(parse({"node": content}))
    assert not file.exists()  # the look makes none


@pytest.mark.parametrize("folder", ["archive", "results"])
def test_a_new_ledger_beside_files_that_another_knew_is_refused(tmp_path: Path, folder: str) -> None:
    config = parse({"node": {"state_dir": str(tmp_path)}})
    known = tmp_path / folder / "0f1e" / "file.dcm"
    known.parent.mkdir(parents=True)
    service.refuse_faults(config)  # nothing is there yet
    known.touch()
    for left in (None, b""):  # removed, or what a full disk left of it
        if left is not None:
            (tmp_path / "ledger.sqlite").write_bytes(left)
        with pytest.raises(ConfigError, match="ledger that knew them is not in"):
            service.refuse_faults(config)
    with closing(Ledger(config.database_url)):
        pass
    service.refuse_faults(config)


def test_a_taken_port_ends_the_start_and_leaves_nothing_running(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        before = set(threading.enumerate())
        config = parse({"node": {"state_dir": str(tmp_path), "port": taken.getsockname()[1]}})
        with pytest.raises(NodeError, match="cannot listen"):
            Node(config).start()
        assert {thread for thread in threading.enumerate() if not thread.daemon} <= before


def test_a_revocation_list_that_is_over_is_said_and_does_not_keep_the_plain_port_shut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = Authority(tmp_path)
    over = {**ca.listener(), "crl": str(ca.revoke(days=0.01))}
    service.refuse_faults(parse({"node": {"state_dir": str(tmp_path)}, "tls": over}))
    assert "tls.crl: the revocation list of CN=ca" in caplog.text


def test_what_is_wrong_with_a_peer_is_said_and_does_not_stop_reception(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    peer = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    absent = str(tmp_path / "absent.pem")
    content = {"node": {"state_dir": str(tmp_path)}, "destinations": [{**peer, "tls": True, "tls_ca": absent}]}
    service.refuse_faults(parse(content))
    assert "absent.pem" in caplog.text
    with pytest.raises(ConfigError, match="absent.pth"):
        service.refuse_faults(parse({**content, "lungs": {"weights": str(tmp_path / "absent.pth")}}))
