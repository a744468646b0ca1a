"""Spooled file → ledger row → archive. May stop at any moment and begin again: nothing is lost or counted twice.

The order makes it so: the row is committed before the file leaves ``incoming/``, and a file that the ledger knows
already is only put away. What is done with a SOP instance that came before (dicom.md, "Receiving"), beside the
version of it that counts:

- the same data set: nothing changes
- equal header and pixels in another transfer syntax: nothing changes, the file is kept
- a data set that was purged: it is kept again, and nothing is analysed for it
- another header, equal pixels: the new one counts, the series is judged again under the new identity; also where
  it is an earlier version that comes again: who corrects wrongly and takes it back sends that
- other pixels, or compressed ones that cannot be compared: both are kept, the series is not analysed until a person
  decides

No single file may hold up the others: see `Ingest._insist`.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from pydicom.uid import UID, ExplicitVRBigEndian

from dicom_node.errors import LowDisk, NodeError, NotParsable, PermanentError, TransientError
from dicom_node.ledger import Filing, InstanceRecord, Ledger, SeriesIdentity, Verdict
from dicom_node.malformed import brief
from dicom_node.received import Received, is_compressed, read, same_header, same_pixels
from dicom_node.spool import Spool
from dicom_node.states import InstanceState

LOGGER = logging.getLogger(__name__)
BATCH = 200  # files per transaction: one fsync of the database for all of them
PAUSES_S = (1.0, 5.0, 30.0)  # before the next try, while database or disk do not let us work
TRIES = 3  # again, of a file that fails by itself
# These concern every file, not the one at which they show.
_OF_ALL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.ESTALE})


class Ingest:
    """Files received instances, in a thread of its own or by `process`.

    Args:
        spool: where received files lie.
        ledger: where they are to be known.
        clock: the present, time zone aware.
        on_filed: called by the thread after each batch, so that whoever waits for instances may look.
        ledger_lost: why nothing that the ledger takes would be found again; empty where it would.
    """

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        clock: Callable[[], datetime],
        on_filed: Callable[[], None] = lambda: None,
        ledger_lost: Callable[[], str] = lambda: "",
    ) -> None:
        self._spool = spool
        self._ledger = ledger
        self._clock = clock
        self._on_filed = on_filed
        self._ledger_lost = ledger_lost
        self._queue: queue.Queue[Path | None] = queue.Queue()
        self._stopped = threading.Event()
        self._left: set[str] = set()  # SOP instances, as `_instance` names them, of which a file was given up
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
        """Process a batch; again and again while database or disk do not let us, until the node stops.

        A batch that fails by something else is tried again file by file. A file that goes on to fail by itself is
        left in ``incoming/`` for the next start, and so are later versions of it: of two versions the later counts.
        """
        waiting: list[Sequence[Path]] = [batch]
        failures: Counter[Path] = Counter()
        rounds = 0
        while waiting := self._try_each(waiting, failures):
            pause = PAUSES_S[min(rounds, len(PAUSES_S) - 1)]
            LOGGER.error("%d received files wait %g s to be filed", sum(map(len, waiting)), pause)
            rounds += 1
            if self._stopped.wait(pause):
                return

    def _try_each(self, groups: Sequence[Sequence[Path]], failures: Counter[Path]) -> list[Sequence[Path]]:
        """Process each group; returns what is to be tried again. `failures` counts those of single files."""
        again: list[Sequence[Path]] = []
        behind: set[str] = set()  # SOP instances of which an earlier file is to be tried again
        for number, group in enumerate(groups):
            if not behind.isdisjoint(map(_instance, group)):
                again.append(group)
                continue
            error = self._attempt(group)
            if error is None:
                continue
            if _is_of_all(error):
                return [*again, *groups[number:]]
            if len(group) > 1:
                again += self._try_each([[path] for path in group], failures)
            elif failures[group[0]] < TRIES:
                failures[group[0]] += 1
                again.append(group)
            else:
                self._leave(group[0], error)
            behind.update(_instance(path) for left in again for path in left)
        return again

    def _attempt(self, group: Sequence[Path]) -> Exception | None:
        """Process a group; what stopped it, if anything did."""
        try:
            if lost := self._ledger_lost():  # what it would record is forgotten with the process: the files wait
                raise TransientError(lost)
            self.process(path for path in group if not self._is_behind_one_left(path))
        except (TransientError, LowDisk, OSError) as error:
            LOGGER.error("%d received files cannot be filed: %s", len(group), error)
            return error
        # The border at which no file may end the thread, with all that is still to come: whatever nobody thought of
        # that a file off the network can bring about, it is tried again alone, then left, and the log shows where.
        except Exception as error:
            LOGGER.exception("%d received files cannot be filed", len(group))
            return error
        return None

    def _leave(self, path: Path, error: Exception) -> None:
        """Give a file up until the next start: it stays in ``incoming/``."""
        self._left.add(_instance(path))
        self._tell_left(path, f"cannot be filed: {brief(error)}")

    def _is_behind_one_left(self, path: Path) -> bool:
        if _instance(path) not in self._left:
            return False
        self._tell_left(path, "an earlier file of the same SOP instance was left")
        return True

    def _tell_left(self, path: Path, why: str) -> None:
        reason = f"{path.name} stays in incoming/ until the next start: {why}"
        LOGGER.error("%s", reason)
        try:
            self._ledger.note(reason, self._clock(), subject="instance")
        except NodeError as error:
            LOGGER.error("no event could be left of that: %s", error)

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
            known = filing.path in {record.path for record in kept.get(item.sop_instance_uid, [])}
            if filing.verdict is Verdict.CONFLICTING and not known:
                self._tell_of_compressed(item, kept[item.sop_instance_uid])
            self._put_away(item.path, filing.path, known)

    def _judge(self, item: Received, kept: Sequence[InstanceRecord]) -> Filing:
        """What this file is beside what is kept of the same SOP instance: beside the version that counts."""
        same = next((record for record in kept if record.dataset_sha256 == item.dataset_sha256), None)
        path = same.path if same else archive_path(item)
        current = next((record for record in kept if record.state is InstanceState.CURRENT), None)
        if current is None:
            return _filing(item, Verdict.NEW, path)
        if current is same:
            return _filing(item, Verdict.KNOWN, path)
        return _filing(item, self._compare(item, current), path, replaces=current.id)

    def _compare(self, item: Received, current: InstanceRecord) -> Verdict:
        """Against the instance that counts; only where digests differ are files looked into."""
        syntaxes = (item.transfer_syntax_uid, current.transfer_syntax_uid)
        equal = item.pixel_sha256 == current.pixel_sha256
        if current.purged and equal and syntaxes[0] != syntaxes[1] and _read_alike(*syntaxes):
            # The file that it could be compared with is gone: the tags in the ledger have to do. Those that an
            # older version wrote are fewer.
            known = {keyword: item.header.get(keyword) for keyword in current.header}
            return Verdict.RESTORED if known == current.header else Verdict.CORRECTED
        if equal and syntaxes[0] == syntaxes[1]:
            return Verdict.CORRECTED
        before = self._spool.archive / current.path
        if not (equal and _read_alike(*syntaxes)) and not same_pixels(item.path, before):
            return Verdict.CONFLICTING
        return Verdict.RECODED if same_header(item.path, before) else Verdict.CORRECTED

    def _tell_of_compressed(self, item: Received, kept: Sequence[InstanceRecord]) -> None:
        """An event that says so where the conflict may be none: pixels are not decompressed to compare them."""
        current = next(record.transfer_syntax_uid for record in kept if record.state is InstanceState.CURRENT)
        syntaxes = (item.transfer_syntax_uid, current)
        if syntaxes[0] == syntaxes[1] or not any(map(is_compressed, syntaxes)):
            return
        new, old = (UID(syntax).name for syntax in syntaxes)
        self._ledger.note(
            f"conflicting instance {item.sop_instance_uid} came in another transfer syntax ({new}) than the one "
            f"kept ({old}): pixels are not decompressed to compare them. Send it again in that of the one kept, or "
            "have `dicomnode retry` take what was received last",
            self._clock(),
            series_uid=item.series_uid,
            subject="instance",
        )

    def _put_away(self, path: Path, relative: str, known: bool) -> None:
        """Into the archive; a copy of what lies there already is removed."""
        if known and (self._spool.archive / relative).exists():
            path.unlink(missing_ok=True)
            return
        try:
            self._spool.file_away(path, relative)
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


def _is_of_all(error: Exception) -> bool:
    """Whether an error says something about database or disk, not about the file at which it showed."""
    return isinstance(error, TransientError | LowDisk) or (isinstance(error, OSError) and error.errno in _OF_ALL)


def _instance(path: Path) -> str:
    """The part of a spooled file's name that all versions of one SOP instance share; see `Spool.write`."""
    return path.stem.split("-")[1] if path.stem.count("-") == 2 else path.stem


def _read_alike(one: str, other: str) -> bool:
    """Whether equal bytes are equal pixels in both transfer syntaxes: all little endian, or all compressed."""
    return is_compressed(one) == is_compressed(other) and ExplicitVRBigEndian not in (one, other)


def _filing(item: Received, verdict: Verdict, path: str, replaces: int | None = None) -> Filing:
    return Filing(
        identity=SeriesIdentity.of(item.header, item.series_uid, item.calling_ae, item.peer_address),
        sop_instance_uid=item.sop_instance_uid,
        sop_class_uid=str(item.header["SOPClassUID"]),
        transfer_syntax_uid=item.transfer_syntax_uid,
        path=path,
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
