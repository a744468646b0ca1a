"""Any story of faults, crashes and lost objects ends with everything committed once the peer behaves."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dicom_node import carrier as carrier_module
from dicom_node import dicomweb
from dicom_node.commitment import CommitmentReport
from dicom_node.courier import Courier
from dicom_node.errors import TransientError
from dicom_node.ledger import Ledger
from dicom_node.scu import Begin, StoreResult
from dicom_node.states import SeriesState
from pipeline.types import ObjectReference
from tests.fixtures import stow
from tests.fixtures.outbox import Outbox
from tests.fixtures.part10 import reference
from tests.fixtures.samples import SERIES
from tests.fixtures.stow import Part, Reply, StowServer

STORING = ["stores", "warns", "is down", "is out of resources", "breaks off", "dies with us"]
ANSWERING = ["commits", "is silent", "commits later", "has lost it", "is busy", "breaks off", "dies with us"]
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # these stories crash no disks
FAILURE_REASONS = {"has lost it": 0x0112, "is busy": 0x0213}


class Crash(BaseException):
    """The node dies here; a new courier takes over."""


@dataclass
class Peer:
    """Stands for `dicom_node.scu`: an archive in memory that misbehaves by plan."""

    storing: str = "stores"
    answering: str = "commits"
    kept: dict[str, str] = field(default_factory=dict)  # SOP Instance UID → hash of the bytes
    overwritten: list[str] = field(default_factory=list)
    late: list[CommitmentReport] = field(default_factory=list)
    StoreResult = StoreResult

    def store(
        self,
        peer: Any,
        files: Sequence[Path],
        calling_ae: str,
        on_result: Callable[[StoreResult], None],
        begin: Begin,
    ) -> None:
        for number, path in enumerate(files):
            uid = reference(path).sop_instance_uid
            assert begin(path)
            down = self.storing == "is down" or (self.storing == "breaks off" and number > 0)
            if down or self.storing == "is out of resources":
                on_result(StoreResult(path, uid, TransientError(self.storing)))
                continue
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if self.kept.setdefault(uid, digest) != digest:
                self.overwritten.append(uid)
            if self.storing == "dies with us":
                raise Crash
            on_result(StoreResult(path, uid, warning="B000" if self.storing == "warns" else ""))

    def request_commitment(
        self,
        peer: Any,
        references: Sequence[ObjectReference],
        transaction_uid: str,
        calling_ae: str,
        on_report: Callable[[CommitmentReport], None],
        answered: Any,
        stay_s: float,
    ) -> None:
        if self.answering == "breaks off":
            raise TransientError("breaks off")
        if self.answering == "has lost it":
            del self.kept[references[0].sop_instance_uid]
        report = self._honest([each.sop_instance_uid for each in references], transaction_uid)
        if self.answering == "is busy":
            failed = tuple((uid, FAILURE_REASONS["is busy"]) for uid in report.committed)
            report = CommitmentReport(transaction_uid, (), failed)
        if self.answering == "dies with us":
            self.late.append(report)
            raise Crash
        if self.answering == "commits later":
            self.late.append(report)
        elif self.answering != "is silent":
            on_report(report)

    def find_instances(self, peer: Any, references: Iterable[ObjectReference], calling_ae: str) -> set[str]:
        if self.answering == "breaks off":
            raise TransientError("breaks off")
        return {each.sop_instance_uid for each in references} & self.kept.keys()

    def _honest(self, uids: Sequence[str], transaction_uid: str) -> CommitmentReport:
        failed = tuple((uid, FAILURE_REASONS["has lost it"]) for uid in uids if uid not in self.kept)
        return CommitmentReport(transaction_uid, tuple(uid for uid in uids if uid in self.kept), failed)


class WebPeer:
    """Stands before `dicom_node.dicomweb`: its functions, against a server that misbehaves by plan."""

    late: tuple[CommitmentReport, ...] = ()

    def __init__(self, server: StowServer) -> None:
        self._server = server
        self.storing, self.answering = "stores", "commits"
        self._stored = 0
        server.answer = self._answer

    @property
    def kept(self) -> dict[str, str]:
        return self._server.kept

    @property
    def overwritten(self) -> list[str]:
        return self._server.overwritten

    def _answer(self, part: Part) -> Reply | None:
        self._stored += 1
        if self.storing == "is down":
            return 503, None
        if self.storing == "is out of resources":
            return 409, stow.refused(part, 0xA700)
        if self.storing == "breaks off" and self._stored > 1:
            raise ConnectionError
        self._server.keep(part)
        return (202, stow.stored(part, 0xB000)) if self.storing == "warns" else (200, stow.stored(part))

    def store(
        self, peer: Any, files: Sequence[Path], on_result: Callable[[StoreResult], None], begin: Begin
    ) -> None:
        def note(result: StoreResult) -> None:
            if self.storing == "dies with us":
                raise Crash
            on_result(result)

        self._stored = 0
        dicomweb.store(peer, files, note, begin)

    def find_instances(self, peer: Any, references: Iterable[ObjectReference]) -> set[str]:
        asked = list(references)
        if self.answering == "dies with us":
            raise Crash
        if self.answering == "has lost it":
            self._server.lose(asked[0].sop_instance_uid)
        self._server.lists = self.answering not in {"is silent", "commits later"}
        self._server.breaks_off = self.answering in {"breaks off", "is busy"}
        return dicomweb.find_instances(peer, asked)


@pytest.fixture(scope="module")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: migrating one for each story takes longer than the stories."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    Ledger(f"sqlite:///{path}").close()
    return path


steps = st.lists(st.tuples(st.sampled_from(STORING), st.sampled_from(ANSWERING), st.booleans()), max_size=8)


EXAMPLES = {"max_examples": 30, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
Story = list[tuple[str, str, bool]]


@settings(**EXAMPLES)
@given(steps, st.sampled_from(["commitment", "find", "none"]))
@example([("stores", "has lost it", False), ("dies with us", "commits later", True)], "commitment")
def test_every_story_ends_well(
    empty_ledger: Path, monkeypatch: pytest.MonkeyPatch, story: Story, verify: str
) -> None:
    peer = Peer()
    monkeypatch.setattr(carrier_module, "scu", peer)
    monkeypatch.setattr(carrier_module, "query", peer)
    with story_outbox(empty_ledger) as outbox:
        play(outbox, peer, story, lambda: outbox.courier(1, verify=verify))


@settings(**{**EXAMPLES, "max_examples": 12})  # HTTP takes its time
@given(steps, st.sampled_from(["find", "none"]))
@example([("dies with us", "has lost it", False), ("breaks off", "is silent", False)], "find")
def test_every_story_ends_well_with_dicomweb(
    empty_ledger: Path, monkeypatch: pytest.MonkeyPatch, story: Story, verify: str
) -> None:
    """The same stories over HTTP, with a server that misbehaves."""
    with stow.serve(StowServer()) as server, story_outbox(empty_ledger) as outbox:
        peer = WebPeer(server)
        monkeypatch.setattr(carrier_module, "dicomweb", peer)
        play(outbox, peer, story, lambda: outbox.courier_of(outbox.web_config(server.url, verify=verify)))


@contextmanager
def story_outbox(empty_ledger: Path) -> Iterator[Outbox]:
    """A new ledger and a set of results to deliver."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        shutil.copy(empty_ledger, folder / "ledger.sqlite")
        yield Outbox(folder, stack)


def play(outbox: Outbox, peer: Any, story: Story, new_courier: Callable[[], Courier]) -> None:
    """Live through a story; then the peer behaves, and everything must come right."""
    paths = outbox.fill()
    courier = new_courier()
    for peer.storing, peer.answering, report_comes in story:
        try:
            again = courier.run_once()
            outbox.clock.now = max(outbox.clock.now, again or outbox.clock.now)
        except Crash:
            courier = new_courier()
        if report_comes and peer.late:
            report = peer.late.pop()
            courier.take_report(report, outbox.ledger.deliveries_of_transaction(report.transaction_uid))
    peer.storing, peer.answering = "stores", "commits"
    for _ in range(20):
        again = courier.run_once()
        if again is None:
            break
        outbox.clock.now = max(again, outbox.clock() + timedelta(minutes=10))  # what is held back is due already
    assert outbox.states() == {"committed"}
    assert outbox.series(SERIES).state is SeriesState.DELIVERED
    wanted = {reference(path).sop_instance_uid: _digest(path) for path in paths.values()}
    assert wanted == peer.kept
    assert peer.overwritten == []


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
