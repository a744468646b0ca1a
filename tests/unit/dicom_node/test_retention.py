"""Retention: what goes and what stays, a crash at every step, what comes again later, and a disk that runs low."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from sqlalchemy import select

from dicom_node import completion
from dicom_node import retention as retention_module
from dicom_node.config import Config, parse
from dicom_node.ingest import Ingest
from dicom_node.ledger import Ledger
from dicom_node.retention import GRACE, Disk, Retention, RetentionService
from dicom_node.spool import Spool, results_folder
from dicom_node.states import SeriesState
from dicom_node.tables import InstanceRow, SeriesRow
from tests.fixtures.ct import SERIES, slice_of, spooled
from tests.fixtures.samples import START, analyse, at, complete, deliver, queue, receive

S = SeriesState
OTHER = "1.2.3.2"
DAY = 86400.0
LATER = at(20 * DAY)  # sources are due, results are not
MUCH_LATER = at(400 * DAY)
NUMBERS = range(1, 13)
ROOMY = Disk(1 << 40, 1 << 30)


class Bench:
    """Spool, ingest and retention on one ledger, at a time that the test sets."""

    def __init__(self, folder: Path, ledger: Ledger, **rules: Any) -> None:
        self.now = START
        self.ledger = ledger
        self.spool = Spool(folder / "state")
        self.ingest = Ingest(self.spool, ledger, lambda: self.now)
        self.config: Config = parse({"node": {"state_dir": str(folder / "state")}, "retention": rules})

    def send(self, *datasets: Dataset, syntax: str = ExplicitVRLittleEndian) -> None:
        self.ingest.process([spooled(self.spool, ds, syntax) for ds in datasets])

    def slices(self, series_uid: str = SERIES, **attributes: Any) -> list[Dataset]:
        return [slice_of(number, series_uid, **attributes) for number in NUMBERS]

    def delivered(self) -> None:
        """A series from its first instance to committed results, with a file for each object."""
        self.send(*self.slices())
        complete(self.ledger)
        analyse(self.ledger)
        for result in self.ledger.details(SERIES).results:
            self.keep(result.path, result.kind.encode())
        deliver(self.ledger)

    def keep(self, name: str, content: bytes) -> None:
        """A file of a result, as a worker writes it."""
        path = self.spool.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def purge(self, now: datetime = LATER) -> list[str]:
        self.now = now
        return [item.series_uid for item in Retention(self.config, self.ledger, self.spool).purge(now)]

    def files(self) -> tuple[int, int]:
        """How many lie in the archive and among the results."""
        return tuple(  # type: ignore[return-value]  # two of them
            sum(path.is_file() for path in folder.rglob("*")) for folder in (self.spool.archive, self.spool.results)
        )

    def judged(self, uid: str = SERIES) -> completion.Wait | completion.Ending:
        series = self.ledger.series(uid)
        return completion.judge(series, self.ledger.current_instances(uid), self.now, self.config.completion)


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger) -> Bench:
    """On both databases."""
    return Bench(tmp_path, ledger)


@pytest.fixture
def desk(tmp_path: Path, book: Ledger) -> Bench:
    """Where the kind of database does not matter."""
    return Bench(tmp_path, book)


# --- what goes ---


def test_sources_go_first_and_results_later(bench: Bench) -> None:
    bench.delivered()
    assert bench.purge(at(13 * DAY)) == []
    assert bench.files() == (12, 3)
    assert bench.purge(LATER) == [SERIES]
    assert bench.files() == (0, 3)
    assert bench.purge(LATER) == []
    assert bench.purge(MUCH_LATER) == [SERIES]
    assert bench.files() == (0, 0)
    assert list(bench.spool.archive.glob("*/*")) == [], "empty folders stay"
    details = bench.ledger.details(SERIES)
    assert details.series.state is S.DELIVERED
    assert details.series.sources_purged_at == LATER
    assert details.series.results_purged_at == MUCH_LATER
    assert details.instances["current"] == 12, "rows stay"
    assert all(result.purged and result.current for result in details.results)
    assert [event.reason for event in details.events[-2:]] == [
        "purged by retention: 12 received file(s)",
        "purged by retention: 3 result object(s)",
    ]


def test_a_dry_run_says_the_same_and_leaves_everything(desk: Bench) -> None:
    desk.delivered()
    (item,) = Retention(desk.config, desk.ledger, desk.spool).due(LATER)
    assert (item.series_uid, item.sources, item.results) == (SERIES, 12, 0)
    assert item.source_bytes == sum(path.stat().st_size for path in desk.spool.archive.rglob("*.dcm"))
    assert desk.files() == (12, 3)


def _received(ledger: Ledger) -> None:
    receive(ledger)


def _complete(ledger: Ledger) -> None:
    receive(ledger)
    complete(ledger)


def _queued(ledger: Ledger) -> None:
    _complete(ledger)
    queue(ledger)


def _running(ledger: Ledger) -> None:
    _queued(ledger)
    assert ledger.claim_job(START)


def _analysed(ledger: Ledger) -> None:
    _complete(ledger)
    analyse(ledger)


def _kept_here(ledger: Ledger) -> None:
    _complete(ledger)
    analyse(ledger, destinations={})


def _sent(ledger: Ledger) -> None:
    _analysed(ledger)
    for delivery in ledger.due_deliveries("pacs", START):
        ledger.delivery_sent(delivery.id, START)


def _partly_committed(ledger: Ledger) -> None:
    _sent(ledger)
    ledger.delivery_committed(ledger.details(SERIES).deliveries[0].id, START)


def _refused(ledger: Ledger) -> None:
    _analysed(ledger)
    for delivery in ledger.due_deliveries("pacs", START):
        ledger.delivery_failed(delivery.id, START, "refused")


def _failed(ledger: Ledger) -> None:
    _queued(ledger)
    claimed = ledger.claim_job(START)
    assert claimed is not None
    ledger.job_failed(claimed[0], "no model", START)


NOT_OVER = [
    _received,
    _complete,
    _queued,
    _running,
    _analysed,
    _kept_here,
    _sent,
    _partly_committed,
    _refused,
    _failed,
]


@pytest.mark.parametrize("story", NOT_OVER)
def test_nothing_goes_that_is_not_delivered_and_committed(bench: Bench, story: Callable[[Ledger], None]) -> None:
    story(bench.ledger)
    rules = parse({"retention": {"source_days": 0, "result_days": 0}})
    assert Retention(rules, bench.ledger, bench.spool).purge(MUCH_LATER) == []
    full = Retention(rules, bench.ledger, bench.spool, lambda _: Disk(0, 1 << 30))
    assert full.purge_early(MUCH_LATER) == []


@pytest.mark.parametrize("story", NOT_OVER[:3])
def test_nor_another_series_of_its_study(bench: Bench, story: Callable[[Ledger], None]) -> None:
    receive(bench.ledger, OTHER)
    bench.ledger.settle(bench.ledger.series(OTHER), S.NOT_ANALYSED, "no chest", START)
    assert [item.series_uid for item in bench.ledger.purgeable(_any_age())] == [OTHER]
    story(bench.ledger)
    assert bench.ledger.purgeable(_any_age()) == []


def _any_age() -> Any:
    from dicom_node.ledger import Ages

    return Ages(MUCH_LATER, MUCH_LATER)


def test_until_committed_is_not_before_files_are_put_away(desk: Bench) -> None:
    desk.config = parse({"retention": {"source_days": 0}})
    desk.delivered()
    assert desk.purge(START + GRACE / 2) == []
    assert desk.purge(START + GRACE) == [SERIES]


def test_a_superseded_result_that_is_still_on_its_way_stays(bench: Bench) -> None:
    bench.delivered()
    analysed_again = [*bench.slices()[1:], slice_of(1, PatientName="Right^Name")]
    bench.send(*analysed_again)
    complete(bench.ledger)
    analyse(bench.ledger)
    first, *rest = bench.ledger.due_deliveries("pacs", START)
    bench.ledger.delivery_sent(first.id, START)
    bench.ledger.cancel(SERIES, START)
    bench.purge(MUCH_LATER)
    assert not any(result.purged for result in bench.ledger.details(SERIES).results)
    bench.ledger.delivery_committed(first.id, START)
    bench.purge(MUCH_LATER)
    assert all(result.purged for result in bench.ledger.details(SERIES).results)


# --- what comes again ---


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_same_again_is_kept_again_and_nothing_is_analysed(bench: Bench, syntax: str) -> None:
    bench.delivered()
    bench.purge()
    bench.now = at(21 * DAY)
    bench.send(*bench.slices()[:5], syntax=syntax)
    details = bench.ledger.details(SERIES)
    assert details.series.state is S.DELIVERED
    assert details.series.revision == 1 and len(details.jobs) == 1
    assert [record.purged for record in bench.ledger.current_instances(SERIES)].count(False) == 5
    assert details.instances["current"] == 12
    assert bench.files() == (5, 3)
    assert bench.purge(at(22 * DAY)) == [], "its time counts anew"
    assert bench.purge(at(40 * DAY)) == [SERIES]
    assert bench.files() == (0, 3)


def test_a_header_that_an_older_version_wrote_counts_as_far_as_it_goes(bench: Bench) -> None:
    """The same again, in another transfer syntax, is no correction because a tag is read now that was not then."""
    bench.delivered()
    bench.purge()
    with bench.ledger._write(LATER) as writer:
        for row in writer.session.query(InstanceRow):
            row.header = {keyword: value for keyword, value in row.header.items() if keyword != "SeriesNumber"}
    bench.send(*bench.slices(), syntax=ImplicitVRLittleEndian)
    details = bench.ledger.details(SERIES)
    assert (details.series.state, details.series.revision, len(details.jobs)) == (S.DELIVERED, 1, 1)


def test_a_late_slice_asks_for_the_series_again_and_is_analysed_with_it(bench: Bench) -> None:
    bench.delivered()
    bench.purge()
    bench.send(slice_of(13))
    assert bench.ledger.series(SERIES).state is S.RECEIVING
    waiting = bench.judged()
    assert isinstance(waiting, completion.Wait)
    assert "12 of 13 instances were purged from this node: send the series again" in waiting.reason
    bench.now += timedelta(seconds=bench.config.completion.incomplete_after_s)
    ending = bench.judged()
    assert isinstance(ending, completion.Ending)
    assert ending.state is S.INCOMPLETE and "send the series again" in ending.reason
    bench.ledger.settle(bench.ledger.series(SERIES), ending.state, ending.reason, bench.now)

    bench.send(*bench.slices())
    series = bench.ledger.series(SERIES)
    assert (series.state, series.revision, series.instances) == (S.RECEIVING, 2, 13)
    whole = bench.judged()
    assert isinstance(whole, completion.Ending) and whole.state is S.COMPLETE, whole


def test_a_purged_series_that_a_person_retries_asks_for_itself(bench: Bench) -> None:
    bench.delivered()
    bench.purge(MUCH_LATER)
    bench.ledger.retry(SERIES, MUCH_LATER)
    ending = bench.judged()
    assert isinstance(ending, completion.Ending) and "12 of 12 instances were purged" in ending.reason
    bench.ledger.settle(bench.ledger.series(SERIES), ending.state, ending.reason, MUCH_LATER)
    bench.send(*bench.slices())
    whole = bench.judged()
    assert isinstance(whole, completion.Ending) and whole.state is S.COMPLETE, whole
    complete(bench.ledger)
    analyse(bench.ledger)
    details = bench.ledger.details(SERIES)
    assert [result.purged for result in details.results if result.current] == [False] * 3
    assert details.series.results_purged_at is None


def test_a_correction_of_a_purged_series_is_analysed_once_all_of_it_has_come(bench: Bench) -> None:
    bench.delivered()
    bench.purge()
    corrected = bench.slices(PatientID="P2")
    bench.send(*corrected[:11])
    assert isinstance(bench.judged(), completion.Wait)
    bench.send(corrected[11])
    assert isinstance(bench.judged(), completion.Ending)
    assert bench.ledger.series(SERIES).identity.patient_id == "P2"
    assert bench.files() == (12, 3)


def test_compressed_pixels_cannot_be_compared_with_purged_ones(desk: Bench) -> None:
    desk.delivered()
    desk.purge()
    desk.send(slice_of(1), syntax=RLELossless)
    ending = desk.judged()
    assert isinstance(ending, completion.Ending) and "conflicting instance" in ending.reason


def test_a_purged_rival_is_not_chosen_and_says_what_to_do(bench: Bench) -> None:
    """It lost in selection, was purged, and the series that came later fails."""
    bench.send(*bench.slices(), *bench.slices(OTHER))
    complete(bench.ledger)
    complete(bench.ledger, OTHER)
    analyse(bench.ledger)
    deliver(bench.ledger)
    assert set(bench.purge()) == {SERIES, OTHER}
    bench.send(slice_of(13))  # reopens the one that was chosen
    series = bench.ledger.series(SERIES)
    bench.ledger.settle(series, S.INCOMPLETE, "purged", bench.now)
    rival = bench.ledger.series(OTHER)
    assert rival.state is S.NOT_ANALYSED
    assert "the files of this one were purged: send it again, then `dicomnode retry`" in rival.reason


# --- a crash at every step ---


class Crash(BaseException):
    """The process ends here."""


def test_a_crash_at_any_step_is_made_good_by_the_next_run(tmp_path: Path, book: Ledger, monkeypatch: Any) -> None:
    bench = Bench(tmp_path, book)
    bench.delivered()
    real_unlink, count = Path.unlink, 0

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise Crash
        real_unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(Crash):
            bench.purge()
    assert bench.files() == (9, 3)
    assert all(record.purged for record in book.current_instances(SERIES)), "the rows said so first"
    bench.send(slice_of(12), slice_of(1))  # both come again: one is still there, one is gone
    bench.purge()
    kept = [record for record in book.current_instances(SERIES) if not record.purged]
    assert [record.sop_instance_uid for record in kept] == [f"{SERIES}.1", f"{SERIES}.12"]
    assert all((bench.spool.archive / record.path).is_file() for record in kept)
    assert bench.files() == (2, 3)


def test_rows_say_so_before_a_file_goes(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.delivered()
    seen: list[bool] = []

    def remove(archived: Any, results: Any) -> None:
        with desk.ledger._read() as session:  # what another process sees at this moment
            seen.extend(row.purged_at is not None for row in session.query(InstanceRow))

    monkeypatch.setattr(desk.spool, "remove", remove)
    desk.purge()
    assert seen == [True] * 12


def test_a_disk_that_does_not_let_go_is_asked_again(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.delivered()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", _raise(PermissionError("read-only")))
        with pytest.raises(PermissionError):
            desk.purge()
    assert desk.files() == (12, 3)
    desk.purge()
    assert desk.files() == (0, 3)


def test_a_series_that_cannot_be_removed_keeps_no_other(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.delivered()
    with desk.ledger._write(START) as writer:  # an earlier one, whose files nobody may remove
        row = writer.session.scalar(select(SeriesRow))
        assert row is not None
        stuck = SeriesRow(
            **{
                c.name: getattr(row, c.name)
                for c in SeriesRow.__table__.columns
                if c.name not in ("id", "series_uid")
            },
            series_uid="1.2.99",
        )
        stuck.purging = True
        writer.session.add(stuck)
    remove = desk.spool.remove

    def refuse(archived: Any, results: Any) -> None:
        if not archived and not results:
            raise PermissionError("not ours")
        remove(archived, results)

    monkeypatch.setattr(desk.spool, "remove", refuse)
    with pytest.raises(PermissionError):
        desk.purge()
    assert desk.files() == (0, 3)


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return fail


def test_nothing_outside_the_state_folder_goes(desk: Bench) -> None:
    for archived, results in ((["../x"], []), ([], ["../../x/y"]), (["/etc/passwd"], [])):
        with pytest.raises(ValueError, match="does not lie below"):
            desk.spool.remove(archived, results)


def test_of_results_the_folder_of_the_revision_goes(desk: Bench) -> None:
    for name in ("a/0001/default/sr.dcm", "a/0001/default/picture.png", "a/0002/default/sr.dcm"):
        desk.keep(name, b"x")
    desk.spool.remove([], ["a/0001/default/sr.dcm"])
    assert [path.name for path in (desk.spool.results / "a").iterdir()] == ["0002"]
    desk.spool.remove([], ["a/0001/default/sr.dcm"])
    desk.spool.remove([], ["a/0002/default/sr.dcm"])
    assert list(desk.spool.results.iterdir()) == []


def test_a_time_that_is_meant_as_for_ever_keeps_for_ever(tmp_path: Path, book: Ledger) -> None:
    desk = Bench(tmp_path, book, source_days=1e6, result_days=1e10)
    desk.delivered()
    service = RetentionService(desk.config, book, desk.spool, lambda: MUCH_LATER, lambda _: ROOMY)
    service.look()
    assert desk.files() == (12, 3)


# --- a disk that runs low ---


def _several(desk: Bench) -> list[str]:
    """Three series of three studies, delivered one after the other."""
    uids = [f"1.2.{number}.1" for number in (7, 3, 5)]
    for place, uid in enumerate(uids):
        desk.now = at(3600 * place)
        desk.send(*desk.slices(uid, StudyInstanceUID=f"{uid}.0"))
        complete(desk.ledger, uid, desk.now)
        analyse(desk.ledger, uid, desk.now)
        deliver(desk.ledger, now=desk.now)
    return uids


def test_sources_go_early_oldest_first_until_there_is_room(desk: Bench) -> None:
    uids = _several(desk)
    now = at(2 * 3600 + 601)
    free = iter([Disk(10, 10), Disk(10, 10), Disk(20, 10)])
    retention = Retention(desk.config, desk.ledger, desk.spool, lambda _: next(free))
    assert [item.series_uid for item in retention.purge_early(now)] == uids[:2]
    assert desk.files()[0] == 12


def test_files_that_cannot_be_removed_are_not_given_up_one_series_after_the_other(
    desk: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored by root, say: all series lost their files by name, and none was gone."""
    uids = _several(desk)
    monkeypatch.setattr(retention_module, "MOST_STUCK", 2)
    retention = Retention(desk.config, desk.ledger, desk.spool, lambda _: Disk(0, 10))
    now = at(2 * 3600 + 601)
    with monkeypatch.context() as denied:
        denied.setattr(desk.spool, "remove", Mock(side_effect=PermissionError(13, "Permission denied")))
        given_up = [[item.series_uid for item in retention.purge_early(now)] for _ in range(4)]
    assert given_up == [uids[:1], uids[1:2], [], []]
    assert desk.files()[0] == 36
    assert [item.series_uid for item in retention.purge_early(now)] == uids[2:]
    assert desk.files()[0] == 0


def test_one_series_that_cannot_be_removed_keeps_no_other(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = _several(desk)
    retention = Retention(desk.config, desk.ledger, desk.spool, lambda _: Disk(0, 10))
    now, remove = at(2 * 3600 + 601), desk.spool.remove
    stuck = [instance.path for instance in desk.ledger.current_instances(uids[0])]

    def all_but_the_first(archived: list[str], results: list[str]) -> None:
        if set(stuck) & set(archived):
            raise PermissionError(13, "Permission denied")
        remove(archived, results)

    monkeypatch.setattr(desk.spool, "remove", all_but_the_first)
    assert [item.series_uid for item in retention.purge_early(now)] == uids[:1]
    assert [item.series_uid for item in retention.purge_early(now)] == uids[1:]
    assert desk.files()[0] == 12


def test_not_where_the_config_forbids_it_or_there_is_room(desk: Bench) -> None:
    _several(desk)
    now = at(2 * 3600 + 601)
    strict = parse({"retention": {"early_when_low": False}})
    assert Retention(strict, desk.ledger, desk.spool, lambda _: Disk(0, 10)).purge_early(now) == []
    assert Retention(desk.config, desk.ledger, desk.spool, lambda _: ROOMY).purge_early(now) == []


def test_the_service_tells_when_the_disk_is_low_and_when_it_is_not_any_more(desk: Bench) -> None:
    disks = iter(Disk(megabytes << 20, 1 << 30) for megabytes in (4096, 4096, 1, 1, 1, 1, 2048, 2048))
    service = RetentionService(desk.config, desk.ledger, desk.spool, lambda: desk.now, lambda _: next(disks))
    service.look()
    assert desk.ledger.recent_events() == []
    for _ in range(3):
        service.look()  # the disk is looked at twice: for what to purge, and for what to tell
    told = [event.reason for event in desk.ledger.recent_events()]
    assert told == [
        "there is room on the disk again (2048 MB free, reserve 1024 MB): reception and analysis go on",
        "the disk is low (1 MB free, reserve 1024 MB): nothing is received or analysed until there "
        "is room; see `dicomnode purge`",
    ]


def test_the_service_purges_what_is_due_also_when_the_clock_is_put_back(desk: Bench) -> None:
    service = RetentionService(desk.config, desk.ledger, desk.spool, lambda: desk.now, lambda _: ROOMY)
    desk.now = MUCH_LATER
    service.look()
    desk.now = START
    desk.delivered()
    desk.now = LATER  # long before the last look
    service.look()
    assert desk.files() == (0, 3)


def test_the_service_leaves_it_to_the_command_where_the_config_says_so(desk: Bench) -> None:
    desk.delivered()
    desk.now = MUCH_LATER
    manual = parse({"retention": {"automatic": False}})
    RetentionService(manual, desk.ledger, desk.spool, lambda: desk.now, lambda _: Disk(0, 10)).look()
    assert desk.files() == (12, 3)


def test_results_outlive_their_sources() -> None:
    from dicom_node.errors import ConfigError

    with pytest.raises(ConfigError, match="retention.result_days: less than source_days"):
        parse({"retention": {"source_days": 30, "result_days": 20}})


# --- the audit trail ---


def _audit(desk: Bench, *names: str) -> Path:
    folder = desk.config.node.state_dir / "audit"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("x")
    return folder


def _days_ago(days: int) -> str:
    return f"{(LATER.astimezone() - timedelta(days=days)).date()}.log"


def test_the_audit_trail_is_kept_for_ever_unless_a_time_is_set(tmp_path: Path, book: Ledger) -> None:
    desk = Bench(tmp_path, book)
    folder = _audit(desk, "1999-12-31.log")
    assert Retention(desk.config, book, desk.spool).purge_audit(MUCH_LATER) == []
    assert (folder / "1999-12-31.log").exists()


def test_files_of_the_audit_trail_go_after_their_days_and_nothing_else_does(tmp_path: Path, book: Ledger) -> None:
    desk = Bench(tmp_path, book, audit_days=30)
    others = {"notes.log", "19991231.log", "1999-12-31.log.gz", "1999-13-31.log"}
    folder = _audit(desk, *others, *map(_days_ago, (32, 31, 30, 0)))
    retention = Retention(desk.config, book, desk.spool)
    due = [_days_ago(32), _days_ago(31)]
    assert [path.name for path in retention.audit_due(LATER)] == due
    service = RetentionService(desk.config, book, desk.spool, lambda: LATER, lambda _: ROOMY)
    service.look()
    assert {path.name for path in folder.iterdir()} == others | {_days_ago(30), _days_ago(0)}
    assert retention.purge_audit(LATER) == []


def test_a_file_of_the_audit_trail_that_cannot_be_removed_stops_nothing(
    tmp_path: Path, book: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Bench(tmp_path, book, audit_days=30)
    desk.delivered()
    caplog.set_level("INFO")
    folder = _audit(desk, "1999-12-30.log")
    (folder / "1999-12-31.log").mkdir()
    RetentionService(desk.config, book, desk.spool, lambda: LATER, lambda _: ROOMY).look()
    assert desk.files() == (0, 3)
    assert "files of the audit trail that are due cannot be removed" in caplog.text
    assert not (folder / "1999-12-30.log").exists()
    assert "1 files of the audit trail, up to 1999-12-30" in caplog.text


def test_only_the_command_removes_them_where_retention_is_not_automatic(tmp_path: Path, book: Ledger) -> None:
    desk = Bench(tmp_path, book, audit_days=30, automatic=False)
    folder = _audit(desk, "1999-12-31.log")
    RetentionService(desk.config, book, desk.spool, lambda: LATER, lambda _: ROOMY).look()
    assert (folder / "1999-12-31.log").exists()
    assert len(Retention(desk.config, book, desk.spool).purge_audit(LATER)) == 1


def test_what_an_analysis_that_did_not_count_has_written_goes_too(bench: Bench) -> None:
    """Of a revision that was superseded while it was analysed, or of a worker that was killed, no row tells."""
    bench.send(*bench.slices())
    bench.delivered()
    folder = bench.spool.results / results_folder(SERIES)
    for name in ("0007/default/sr.dcm", "0007/default/.draft-x/seg.dcm"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"P1 Test^Patient")
    other = bench.spool.results / results_folder("1.2.3.99") / "0001" / "sr.dcm"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of another series")
    bench.purge(LATER)
    assert folder.exists()
    bench.purge(MUCH_LATER)
    assert not folder.exists()
    assert other.is_file()
