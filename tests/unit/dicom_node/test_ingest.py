"""Spool → ledger → archive: re-sent, recoded, corrected and conflicting instances, and a crash at every point."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from dicom_node import ingest as ingest_module
from dicom_node import received
from dicom_node.errors import LowDisk, PermanentError, TransientError
from dicom_node.ingest import Ingest
from dicom_node.ledger import Filing, Ledger
from dicom_node.part10 import FileMeta
from dicom_node.received import read
from dicom_node.spool import Spool
from dicom_node.states import InstanceState, SeriesState
from tests.fixtures.ct import SERIES, slice_of, spooled
from tests.fixtures.samples import START, analyse, complete, deliver

S, N = SeriesState, InstanceState
OTHER = "1.2.3.2"


def _clock() -> datetime:
    return START


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "state")


@pytest.fixture
def ingest(spool: Spool, book: Ledger) -> Ingest:
    return Ingest(spool, book, _clock)


def _archived(spool: Spool) -> list[Path]:
    return sorted(path for path in spool.archive.rglob("*") if path.is_file())


def _kept(book: Ledger, series_uid: str = SERIES) -> dict[InstanceState, int]:
    return {state: n for state, n in book.details(series_uid).instances.items() if n}


def _delivered(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    ingest.process([spooled(spool, slice_of(n)) for n in (1, 2, 3)])
    complete(book)
    analyse(book)
    deliver(book)
    assert book.series(SERIES).state is S.DELIVERED


def test_a_received_file_is_recorded_and_archived(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    path = spooled(spool, slice_of(1))
    content = path.read_bytes()
    ingest.process([path])
    (record,) = book.current_instances(SERIES)
    assert spool.pending() == []
    assert (spool.archive / record.path).read_bytes() == content
    assert SERIES not in record.path
    assert record.size_bytes == len(content)
    assert record.header["ImagePositionPatient"] == [-100, -100, 2]
    identity = book.series(SERIES).identity
    assert (identity.patient_id, identity.accession_number, identity.modality) == ("P1", "A1", "CT")
    assert (identity.calling_ae, identity.peer_address) == ("CT1", "192.0.2.7")
    assert book.series(SERIES).last_instance_at == START


def test_several_series_in_one_batch(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    paths = [spooled(spool, slice_of(n, uid)) for n in (1, 2) for uid in (SERIES, OTHER)]
    ingest.process(paths)
    assert [book.series(uid).instances for uid in (SERIES, OTHER)] == [2, 2]


@pytest.mark.parametrize("calling_ae", ["CT1", "ARCHIVE"])
@pytest.mark.parametrize("together", [True, False])
def test_the_same_bytes_change_nothing(
    spool: Spool, book: Ledger, ingest: Ingest, calling_ae: str, together: bool
) -> None:
    """Also from another sender, whose file differs in the file meta information alone."""
    paths = [spooled(spool, slice_of(1)), spooled(spool, slice_of(1), calling_ae=calling_ae)]
    for batch in [paths] if together else [[path] for path in paths]:
        ingest.process(batch)
    assert _kept(book) == {N.CURRENT: 1}
    assert len(_archived(spool)) == 1
    assert spool.pending() == []
    assert len(book.details(SERIES).events) == 1


def test_the_same_bytes_after_delivery_change_nothing(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    _delivered(spool, book, ingest)
    before = book.details(SERIES)
    ingest.process([spooled(spool, slice_of(n)) for n in (1, 2, 3)])
    assert book.details(SERIES) == before


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_another_transfer_syntax_with_equal_pixels_is_no_conflict(
    spool: Spool, book: Ledger, ingest: Ingest, syntax: str
) -> None:
    _delivered(spool, book, ingest)
    ingest.process([spooled(spool, slice_of(2), syntax)])
    assert book.series(SERIES).state is S.DELIVERED
    assert _kept(book) == {N.CURRENT: 3, N.SUPERSEDED: 1}
    assert len(_archived(spool)) == 4
    ingest.process([spooled(spool, slice_of(2), syntax)])
    assert _kept(book) == {N.CURRENT: 3, N.SUPERSEDED: 1}, "and known from now on"


CORRECTIONS: dict[str, dict[str, str]] = {
    "patient": {"PatientID": "P2", "PatientName": "Right^Patient"},
    "study": {"StudyInstanceUID": "1.2.9"},
    "accession": {"AccessionNumber": "A2"},
    "another tag": {"SeriesDescription": "Thorax, corrected"},
}


@pytest.mark.parametrize("syntax", [None, ExplicitVRBigEndian])
@pytest.mark.parametrize("change", CORRECTIONS.values(), ids=CORRECTIONS)
def test_a_corrected_header_makes_a_new_revision(
    spool: Spool, book: Ledger, ingest: Ingest, change: dict[str, str], syntax: str | None
) -> None:
    _delivered(spool, book, ingest)
    options = {"syntax": syntax} if syntax else {}
    ingest.process([spooled(spool, slice_of(n, **change), **options) for n in (1, 2, 3)])
    series = book.series(SERIES)
    assert (series.state, series.revision) == (S.RECEIVING, 2)
    assert _kept(book) == {N.CURRENT: 3, N.SUPERSEDED: 3}
    told = {
        "PatientID": series.identity.patient_id,
        "PatientName": series.identity.patient_name,
        "StudyInstanceUID": series.study_uid,
        "AccessionNumber": series.identity.accession_number,
        "SeriesDescription": series.identity.description,
    }
    assert {keyword: told[keyword] for keyword in change} == change
    for record in book.current_instances(SERIES):
        ds = dcmread(spool.archive / record.path)
        assert {keyword: str(ds[keyword].value) for keyword in change} == change


@pytest.mark.parametrize("calling_ae", ["CT1", "ARCHIVE"])
def test_a_wrong_correction_that_is_taken_back_is_taken_back(
    spool: Spool, book: Ledger, ingest: Ingest, calling_ae: str
) -> None:
    """Otherwise results would stay on the wrong patient. No file is kept twice."""
    _delivered(spool, book, ingest)
    for patient, revision in (("P2", 2), ("P1", 2)):
        ingest.process([spooled(spool, slice_of(n, PatientID=patient), calling_ae=calling_ae) for n in (1, 2, 3)])
        series = book.series(SERIES)
        assert (series.state, series.revision, series.identity.patient_id) == (S.RECEIVING, revision, patient)
        assert _kept(book) == {N.CURRENT: 3, N.SUPERSEDED: 3}
        for record in book.current_instances(SERIES):
            assert dcmread(spool.archive / record.path).PatientID == patient
    assert len(_archived(spool)) == 6
    assert (spool.pending(), list(spool.quarantine.iterdir())) == ([], [])


def test_an_earlier_version_with_other_pixels_is_a_conflict_again(
    spool: Spool, book: Ledger, ingest: Ingest
) -> None:
    """A person took the second one; the first comes once more."""
    ingest.process([spooled(spool, slice_of(n)) for n in (1, 2)])
    ingest.process([spooled(spool, slice_of(2, pixels=5))])
    book.settle(book.series(SERIES), S.NOT_ANALYSED, "conflicting instance", START)
    book.retry(SERIES, START)
    (taken,) = [record for record in book.current_instances(SERIES) if record.sop_instance_uid.endswith(".2")]
    assert _kept(book) == {N.CURRENT: 2, N.SUPERSEDED: 1}
    for _ in range(2):
        ingest.process([spooled(spool, slice_of(2))])
        assert _kept(book) == {N.CURRENT: 2, N.CONFLICTING: 1}
        assert taken.id in {record.id for record in book.current_instances(SERIES)}
    assert len(_archived(spool)) == 3
    assert (spool.pending(), list(spool.quarantine.iterdir())) == ([], [])


def test_a_conflicting_instance_that_comes_again_is_the_one_received_last(
    spool: Spool, book: Ledger, ingest: Ingest
) -> None:
    """A, B, A, B: a person who takes what was received last gets B."""
    for pixels in (0, 5, 0, 5):
        ingest.process([spooled(spool, slice_of(1, pixels=pixels))])
        assert len(_archived(spool)) <= 2
    kept = book.kept_instances([f"{SERIES}.1"])[f"{SERIES}.1"]
    last = max(kept, key=lambda record: record.received_at)
    assert (len(kept), last.state) == (2, N.CONFLICTING)
    assert spool.pending() == []


@pytest.mark.parametrize("first", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_compressed_pixels_are_not_compared_and_an_event_says_so(
    spool: Spool, book: Ledger, ingest: Ingest, first: str
) -> None:
    second = RLELossless
    ingest.process([spooled(spool, slice_of(1), first)])
    ingest.process([spooled(spool, slice_of(1), second)])
    assert _kept(book) == {N.CURRENT: 1, N.CONFLICTING: 1}
    (told,) = [event.reason for event in book.details(SERIES).events if "another transfer syntax" in event.reason]
    assert told.startswith(f"conflicting instance {SERIES}.1 came in another transfer syntax (RLE Lossless)")
    assert UID(first).name in told


def test_nothing_is_said_of_transfer_syntaxes_where_pixels_were_compared(
    spool: Spool, book: Ledger, ingest: Ingest
) -> None:
    ingest.process([spooled(spool, slice_of(1)), spooled(spool, slice_of(1, pixels=5), ExplicitVRBigEndian)])
    assert _kept(book) == {N.CURRENT: 1, N.CONFLICTING: 1}
    assert not any("another transfer syntax" in event.reason for event in book.details(SERIES).events)


def test_the_same_bytes_under_another_byte_order_are_other_pixels(
    spool: Spool, book: Ledger, ingest: Ingest
) -> None:
    swapped = slice_of(1)
    swapped.PixelData = np.frombuffer(swapped.PixelData, "<u2").byteswap().tobytes()
    ingest.process([spooled(spool, slice_of(1)), spooled(spool, swapped, ExplicitVRBigEndian)])
    assert _kept(book) == {N.CURRENT: 1, N.CONFLICTING: 1}


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_other_pixels_are_a_conflict_and_both_are_kept(
    spool: Spool, book: Ledger, ingest: Ingest, syntax: str | None
) -> None:
    _delivered(spool, book, ingest)
    options = {"syntax": syntax} if syntax else {}
    ingest.process([spooled(spool, slice_of(2, pixels=5), **options)])
    assert (book.series(SERIES).state, book.series(SERIES).revision) == (S.RECEIVING, 2)
    assert _kept(book) == {N.CURRENT: 3, N.CONFLICTING: 1}
    assert len(_archived(spool)) == 4


def test_pixels_that_are_cut_off_are_a_conflict(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    ingest.process([spooled(spool, slice_of(1))])
    broken = slice_of(1)
    broken.PixelData = broken.PixelData[:100]
    ingest.process([spooled(spool, broken)])
    assert _kept(book) == {N.CURRENT: 1, N.CONFLICTING: 1}


def test_an_instance_may_be_corrected_into_another_series(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    ingest.process([spooled(spool, slice_of(n)) for n in (1, 2)])
    ingest.process([spooled(spool, slice_of(1, SeriesInstanceUID=OTHER))])
    assert _kept(book) == {N.CURRENT: 1, N.SUPERSEDED: 1}
    assert _kept(book, OTHER) == {N.CURRENT: 1}


def test_what_does_not_parse_is_set_aside_with_an_event(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    bad = spool.write(FileMeta("1.2", "1.2.3", "1.2.840.10008.1.2.1", "CT1", "192.0.2.7"), b"\x08\x00")
    good = spooled(spool, slice_of(1))
    ingest.process([bad, good])
    assert (spool.quarantine / bad.name).exists()
    event = next(event for event in book.recent_events() if event.subject == "instance")
    assert event.reason.startswith(f"{bad.name} was set aside: ")
    assert book.series(SERIES).instances == 1
    assert spool.pending() == []


def test_one_refused_file_does_not_hold_up_the_others(
    spool: Spool, book: Ledger, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = book.file_instances

    def picky(filings: Sequence[Filing], now: datetime) -> None:
        if any(filing.sop_instance_uid.endswith(".2") for filing in filings):
            raise PermanentError("the database refuses: no twos")
        original(filings, now)

    monkeypatch.setattr(book, "file_instances", picky)
    paths = [spooled(spool, slice_of(n)) for n in (1, 2, 3)]
    ingest.process(paths)
    assert book.series(SERIES).instances == 2
    assert [path.name for path in spool.quarantine.glob("*.dcm")] == [paths[1].name]
    assert any("no twos" in event.reason for event in book.recent_events())


def test_files_that_are_gone_were_filed_before(ingest: Ingest, tmp_path: Path, book: Ledger) -> None:
    ingest.process([tmp_path / "gone.dcm"])
    assert book.recent_events() == []


def test_a_lost_archive_file_is_restored_when_it_is_sent_again(spool: Spool, book: Ledger, ingest: Ingest) -> None:
    ingest.process([spooled(spool, slice_of(1))])
    (archived,) = _archived(spool)
    archived.unlink()
    ingest.process([spooled(spool, slice_of(1))])
    assert _archived(spool) == [archived]


def test_a_full_disk_keeps_the_file_until_there_is_room(
    spool: Spool, book: Ledger, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spooled(spool, slice_of(1))
    with monkeypatch.context() as patch:
        patch.setattr(spool, "file_away", _raiser(LowDisk("the disk is full")))
        with pytest.raises(LowDisk):
            ingest.process([path])
    assert spool.pending() == [path]
    ingest.process(spool.pending())
    assert _kept(book) == {N.CURRENT: 1}
    assert len(_archived(spool)) == 1


def _raiser(error: Exception) -> Callable[..., Any]:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return fail


# --- the thread ---


def test_the_thread_files_what_lies_there_and_what_comes(spool: Spool, book: Ledger) -> None:
    spooled(spool, slice_of(1))
    filed = threading.Semaphore(0)
    ingest = Ingest(spool, book, _clock, on_filed=filed.release)
    assert ingest.idle
    ingest.start()
    assert filed.acquire(timeout=10)
    assert ingest.idle
    assert book.series(SERIES).instances == 1
    ingest.submit(spooled(spool, slice_of(2)))
    ingest.stop()
    assert book.series(SERIES).instances == 2, "what was submitted before the stop is filed"
    assert not ingest.thread.is_alive()


def test_the_thread_insists_while_the_database_is_away(
    spool: Spool, book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "PAUSES_S", (0.0,))
    original, failures = book.kept_instances, iter([TransientError("gone"), OSError("io"), LowDisk("full")])

    def flaky(uids: Sequence[str]) -> Any:
        for error in failures:
            raise error
        return original(uids)

    monkeypatch.setattr(book, "kept_instances", flaky)
    filed = threading.Event()
    ingest = Ingest(spool, book, _clock, on_filed=filed.set)
    ingest.submit(spooled(spool, slice_of(1)))
    ingest.start()
    assert filed.wait(10)
    ingest.stop()
    assert book.series(SERIES).instances == 1


def _unreadable(monkeypatch: pytest.MonkeyPatch, bad: Collection[Path], error: Exception, good_again: int) -> None:
    """Reading these files fails so often."""
    left = dict.fromkeys(bad, good_again)

    def flaky(path: Path) -> Any:
        if left.get(path, 0) > 0:
            left[path] -= 1
            raise error
        return read(path)

    monkeypatch.setattr(ingest_module, "read", flaky)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "PAUSES_S", (0.0,))


FOREVER = 1 << 30
ODD = [OSError(errno.EIO, "Input/output error"), OSError("odd"), RuntimeError("nobody thought of that")]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("error", ODD, ids=repr)
@pytest.mark.parametrize("alone", [True, False])
def test_a_file_that_goes_on_to_fail_is_left_and_holds_up_nothing(
    spool: Spool,
    book: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    alone: bool,
) -> None:
    bad = spooled(spool, slice_of(1))
    good = [] if alone else [spooled(spool, slice_of(n)) for n in (2, 3)]
    later = spooled(spool, slice_of(1, PatientID="P2"))
    filed = threading.Event()
    ingest = Ingest(spool, book, _clock, on_filed=filed.set)
    with monkeypatch.context() as patch:
        _unreadable(patch, [bad], error, FOREVER)
        ingest.start()
        assert filed.wait(10)
        assert ingest.idle
        ingest.submit(spooled(spool, slice_of(4)))
        ingest.stop()
    assert spool.pending() == [bad, later], "what came later of the same instance must not be filed before"
    assert book.series(SERIES).instances == len(good) + 1
    told = [event.reason for event in book.recent_events() if event.subject == "instance"]
    assert sum(reason.startswith(f"{bad.name} stays in incoming/ until the next start: ") for reason in told) == 1
    assert any(reason.startswith(f"{later.name} stays in incoming/") for reason in told)
    assert f"{bad.name} stays in incoming/" in caplog.text
    assert "Traceback" in caplog.text or isinstance(error, OSError)
    following = Ingest(spool, book, _clock)
    following.start()
    following.stop()
    assert spool.pending() == []
    assert book.series(SERIES).identity.patient_id == "P2"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("error", ODD, ids=repr)
def test_a_file_that_fails_for_a_while_keeps_its_place(
    spool: Spool, book: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bad = spooled(spool, slice_of(1))
    for ds in (slice_of(2), slice_of(1, PatientID="P2"), slice_of(3)):
        spooled(spool, ds)
    _unreadable(monkeypatch, [bad], error, ingest_module.TRIES)
    filed = threading.Event()
    ingest = Ingest(spool, book, _clock, on_filed=filed.set)
    ingest.start()
    assert filed.wait(10)
    ingest.stop()
    assert spool.pending() == []
    assert _kept(book) == {N.CURRENT: 3, N.SUPERSEDED: 1}
    (first,) = [record for record in book.current_instances(SERIES) if record.sop_instance_uid.endswith(".1")]
    assert first.header["PatientID"] == "P2"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("code", sorted(ingest_module._OF_ALL))
def test_what_concerns_every_file_is_waited_for(
    spool: Spool, book: Ledger, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    paths = [spooled(spool, slice_of(n)) for n in (1, 2)]
    _unreadable(monkeypatch, paths[:1], OSError(code, os.strerror(code)), 10 * ingest_module.TRIES)
    filed = threading.Event()
    ingest = Ingest(spool, book, _clock, on_filed=filed.set)
    ingest.start()
    assert filed.wait(10)
    ingest.stop()
    assert book.series(SERIES).instances == 2
    assert not any("stays in incoming/" in event.reason for event in book.recent_events())


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep")], ids=repr)
def test_what_no_memory_or_stack_holds_is_set_aside(
    spool: Spool, book: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_args: Any) -> Any:
        raise error

    bad = spooled(spool, slice_of(1))
    monkeypatch.setattr(received, "_head", fail)
    ingest = Ingest(spool, book, _clock)
    ingest.start()
    ingest.stop()
    assert [path.name for path in spool.quarantine.glob("*.dcm")] == [bad.name]
    assert spool.pending() == []
    assert any(bad.name in event.reason for event in book.recent_events())


def test_nothing_is_filed_into_a_ledger_that_was_taken_away(spool: Spool, book: Ledger) -> None:
    """It would be forgotten with the process; in incoming/ the next start finds it."""
    lost, tried = ["ledger.sqlite was removed while the node ran"], threading.Event()

    def fault() -> str:
        tried.set()
        return lost[0]

    worker = Ingest(spool, book, _clock, ledger_lost=fault)
    worker.start()
    path = spooled(spool, slice_of(1))
    worker.submit(path)
    assert tried.wait(30)
    worker.stop()
    assert path.exists()
    assert _archived(spool) == []
    lost[0] = ""
    after = Ingest(spool, book, _clock, ledger_lost=fault)
    after.start()
    after.stop()
    assert not path.exists()
    assert len(_archived(spool)) == 1


def test_a_stop_leaves_what_cannot_be_filed_for_the_next_start(
    spool: Spool, book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def away(_uids: Sequence[str]) -> Any:
        tried.set()
        raise TransientError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(book, "kept_instances", away)
        ingest = Ingest(spool, book, _clock)
        ingest.submit(spooled(spool, slice_of(1)))
        assert not ingest.idle
        ingest.start()
        assert tried.wait(10)
        assert not ingest.idle
        ingest.stop()
    assert len(spool.pending()) == 1
    Ingest(spool, book, _clock).process(spool.pending())
    assert book.series(SERIES).instances == 1


# --- a crash at every point ---


class Crash(BaseException):
    """The process ends here. Not an Exception: nothing may handle it."""


class Saboteur:
    """Ends the process at the n-th step: before or after any call of ledger and spool, and inside `file_away`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.monkeypatch, self.at, self.steps = monkeypatch, at, 0

    def step(self) -> None:
        if self.steps == self.at:
            self.steps += 1
            raise Crash
        self.steps += 1

    def watch(self, owner: object, name: str) -> None:
        original = getattr(owner, name)

        def around(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = original(*args, **kwargs)
            self.step()
            return result

        self.monkeypatch.setattr(owner, name, around)


def _story() -> list[Any]:
    """Everything that can happen to a series, in the order of arrival."""
    return [
        *[slice_of(n) for n in (1, 2, 3)],
        slice_of(1),
        slice_of(2, PatientID="P2"),
        slice_of(3, pixels=9),
        slice_of(4, OTHER),
        slice_of(2, SeriesInstanceUID=OTHER),
    ]


def _end_state(spool: Spool, book: Ledger) -> Any:
    """What must not depend on crashes: rows, files and their content, quarantine."""
    instances = [
        (record.sop_instance_uid, record.state, record.path, (spool.archive / record.path).read_bytes()[144:])
        for uid in (SERIES, OTHER)
        for record in book.current_instances(uid)
    ]
    series = [(record.series_uid, record.state, record.identity) for record in book.list_series()]
    names = [str(path.relative_to(spool.archive)) for path in _archived(spool)]
    return instances, sorted(series, key=str), names, _kept(book), _kept(book, OTHER), spool.pending()


def _run(template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int) -> tuple[Any, bool]:
    """The story with one crash and a restart; the end state, and whether the crash happened."""
    folder.mkdir()
    shutil.copy(template, folder / "ledger.sqlite")  # quicker than the migrations
    spool, book = Spool(folder / "state"), Ledger(f"sqlite:///{folder / 'ledger.sqlite'}", migrate=False)
    for ds in _story():
        spooled(spool, ds)
    crashed = False
    with monkeypatch.context() as patch:
        saboteur = Saboteur(patch, crash_at)
        for owner, name in (
            (book, "kept_instances"),
            (book, "file_instances"),
            (spool, "file_away"),
            (Path, "unlink"),
        ):
            saboteur.watch(owner, name)
        try:
            Ingest(spool, book, _clock).process(spool.pending())
        except Crash:
            crashed = True
    book.close()
    spool, restarted = Spool(folder / "state"), Ledger(f"sqlite:///{folder / 'ledger.sqlite'}", migrate=False)
    Ingest(spool, restarted, _clock).process(spool.pending())
    state = _end_state(spool, restarted)
    restarted.close()
    return state, crashed


def test_a_crash_at_any_point_changes_nothing_in_the_end(
    migrated_sqlite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # the process dies here, not the power
    expected, crashed = _run(migrated_sqlite, tmp_path / "whole", monkeypatch, crash_at=-1)
    assert not crashed
    assert expected[-1] == []
    points = 0
    while True:
        state, crashed = _run(migrated_sqlite, tmp_path / f"crash{points}", monkeypatch, crash_at=points)
        assert state == expected, f"crash point {points}"
        if not crashed:
            break
        points += 1
    assert points >= 40, "the crashes were where things happen"
