"""Spooled file → ledger row → archive. May stop at any moment and begin again: nothing is lost or counted twice.

The order makes it so: the row is committed before the file leaves ``incoming/``, and a file that the ledger knows
already is only put away. What is done with a SOP instance that came before (dicom.md, "Receiving"):

- the same data set: nothing changes
- equal header and pixels in another transfer syntax: nothing changes, the file is kept
- another header, equal pixels: the new one counts, the series is judged again under the new identity
- other pixels: both are kept, the series is not analysed until a person decides
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from dicom_node.errors import LowDisk, NodeError, NotParsable, PermanentError, TransientError
from dicom_node.ledger import Filing, InstanceRecord, Ledger, SeriesIdentity, Verdict
from dicom_node.received import Received, read, same_header, same_pixels
from dicom_node.spool import Spool
from dicom_node.states import InstanceState

LOGGER = logging.getLogger(__name__)
BATCH = 200  # files per transaction: one fsync of the database for all of them
PAUSES_S = (1.0, 5.0, 30.0)  # before the next try, while database or disk do not let us work


class Ingest:
    """Files received instances, in a thread of its own or by `process`.

    Args:
        spool: where received files lie.
        ledger: where they are to be known.
        clock: the present, time zone aware.
        on_filed: called by the thread after each batch, so that whoever waits for instances may look.
    """

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        clock: Callable[[], datetime],
        on_filed: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._ledger = ledger
        self._clock = clock
        self._on_filed = on_filed
        self._queue: queue.Queue[Path | None] = queue.Queue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest")

    @property
    def thread(self) -> threading.Thread:
        """For whoever looks after the threads of the node."""
        return self._thread

    def submit(self, path: Path) -> None:
        """Take a file that was received; returns at once. For the receiver's threads."""
        self._queue.put(path)

    @property
    def idle(self) -> bool:
        """Whether everything submitted so far is in the ledger."""
        return self._queue.unfinished_tasks == 0

    def start(self) -> None:
        """File what an earlier run left in the spool, then what is submitted."""
        for path in self._spool.pending():
            self.submit(path)
        self._thread.start()

    def stop(self) -> None:
        """File what was submitted so far, then end; what cannot be filed now is found at the next start."""
        self._stopped.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (path := self._queue.get()) is not None:
            batch = [path]
            while len(batch) < BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)  # the end is seen again after this batch
                    break
                batch.append(following)
            self._insist(batch)
            for _ in batch:
                self._queue.task_done()
            self._on_filed()

    def _insist(self, batch: Sequence[Path]) -> None:
        """Process a batch; again and again while database or disk do not let us, until the node stops."""
        tries = 0
        while True:
            try:
                self.process(batch)
            except (TransientError, LowDisk, OSError) as error:
                pause = PAUSES_S[min(tries, len(PAUSES_S) - 1)]
                LOGGER.error("%d received files wait %g s to be filed: %s", len(batch), pause, error)
                tries += 1
                if self._stopped.wait(pause):
                    return
            else:
                return

    def process(self, paths: Iterable[Path]) -> None:
        """File these, in order; those that are not there any more were filed before.

        Raises:
            TransientError, LowDisk, OSError: database or disk do not let us; nothing is lost, call it again.
        """
        received = [found for path in paths if (found := self._read(path)) is not None]
        for group in _without_repeats(received):
            self._file(group)

    def _read(self, path: Path) -> Received | None:
        """None where the file was filed before or is set aside."""
        try:
            return read(path)
        except FileNotFoundError:
            return None
        except NotParsable as error:
            self._set_aside(path, str(error))
            return None

    def _file(self, group: Sequence[Received]) -> None:
        """Judge, record, put away. Each SOP instance occurs once in the group."""
        kept = self._ledger.kept_instances([item.sop_instance_uid for item in group])
        filings = [self._judge(item, kept.get(item.sop_instance_uid, [])) for item in group]
        try:
            self._ledger.file_instances(filings, self._clock())
        except PermanentError as error:
            if len(group) == 1:
                self._set_aside(group[0].path, f"cannot be recorded: {error}")
                return
            for item in group:  # one of them is refused; the others must not suffer
                self._file([item])
            return
        for item, filing in zip(group, filings, strict=True):
            self._put_away(item.path, filing)

    def _judge(self, item: Received, kept: Sequence[InstanceRecord]) -> Filing:
        """What this file is beside what is kept of the same SOP instance."""
        for record in kept:
            if record.dataset_sha256 == item.dataset_sha256:
                return _filing(item, Verdict.KNOWN, record.path)
        current = next((record for record in kept if record.state is InstanceState.CURRENT), None)
        if current is None:
            return _filing(item, Verdict.NEW)
        return _filing(item, self._compare(item, current), replaces=current.id)

    def _compare(self, item: Received, current: InstanceRecord) -> Verdict:
        """Against the instance that counts; only where digests differ is anything decoded."""
        if item.pixel_sha256 == current.pixel_sha256 and item.transfer_syntax_uid == current.transfer_syntax_uid:
            return Verdict.CORRECTED
        before = self._spool.archive / current.path
        if item.pixel_sha256 != current.pixel_sha256 and not same_pixels(item.path, before):
            return Verdict.CONFLICTING
        return Verdict.RECODED if same_header(item.path, before) else Verdict.CORRECTED

    def _put_away(self, path: Path, filing: Filing) -> None:
        """Into the archive; a copy of what lies there already is removed."""
        if filing.verdict is Verdict.KNOWN and (self._spool.archive / filing.path).exists():
            path.unlink(missing_ok=True)
            return
        try:
            self._spool.file_away(path, filing.path)
        except NodeError as error:
            if isinstance(error, LowDisk):
                raise
            self._set_aside(path, str(error))

    def _set_aside(self, path: Path, reason: str) -> None:
        """Into quarantine, with an event: nothing that was answered vanishes silently."""
        self._ledger.note(f"{path.name} was set aside: {reason}", self._clock(), subject="instance")
        self._spool.set_aside(path, reason)


def _without_repeats(received: Sequence[Received]) -> list[list[Received]]:
    """The same order, cut where a SOP instance comes a second time: that is judged after the first is kept."""
    groups: list[list[Received]] = [[]]
    seen: set[str] = set()
    for item in received:
        if item.sop_instance_uid in seen:
            groups.append([])
            seen.clear()
        groups[-1].append(item)
        seen.add(item.sop_instance_uid)
    return [group for group in groups if group]


def _filing(item: Received, verdict: Verdict, path: str | None = None, replaces: int | None = None) -> Filing:
    return Filing(
        identity=SeriesIdentity.of(item.header, item.series_uid, item.calling_ae, item.peer_address),
        sop_instance_uid=item.sop_instance_uid,
        sop_class_uid=str(item.header["SOPClassUID"]),
        transfer_syntax_uid=item.transfer_syntax_uid,
        path=path or archive_path(item),
        size_bytes=item.size_bytes,
        dataset_sha256=item.dataset_sha256,
        pixel_sha256=item.pixel_sha256,
        header=item.header,
        verdict=verdict,
        replaces=replaces,
    )


def archive_path(item: Received) -> str:
    """Where a file lies in the archive: hashes only, no name that came off the wire."""
    series, instance = (sha256(uid.encode()).hexdigest() for uid in (item.series_uid, item.sop_instance_uid))
    return f"{series[:2]}/{series[:32]}/{instance[:32]}-{item.dataset_sha256[:16]}.dcm"
