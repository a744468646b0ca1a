"""Files that are whole or not there. The only module that decides names on disk for what comes off the wire.

Below the state folder, all of it for the service's user only:

- ``incoming/``   received and answered, not yet in the ledger; start-up reads this folder and no other
- ``archive/``    known to the ledger, which holds paths relative to it
- ``quarantine/`` set aside, each file with another that says why
- ``results/``    encoded result objects
- ``partial/``    being written; what a crash leaves here was never answered and is removed at the next start

A file is written in ``partial/``, synced, renamed, and its new folder synced: after `Spool.write` returns, neither
a crash nor a power cut loses it, and whatever fails before that leaves nothing behind. One process owns a spool.
"""

from __future__ import annotations

import errno
import filecmp
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path, PurePath, PurePosixPath

from dicom_node.errors import LowDisk, NodeError
from dicom_node.part10 import FileMeta

LOGGER = logging.getLogger(__name__)
DICOM_SUFFIX = ".dcm"
REASON_SUFFIX = ".reason.txt"
Encoded = bytes | bytearray | memoryview
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NUMBERED = re.compile(r"(\d{12,})-")


class Spool:
    """The folders of one node and the moves between them; see the module's docstring.

    Args:
        state_dir: created, with its folders, if it is not there.
        min_free_bytes: nothing new is written that would leave less free space than this.
    """

    def __init__(self, state_dir: Path, min_free_bytes: int = 0) -> None:
        self.state_dir = state_dir
        self.min_free_bytes = min_free_bytes
        self.incoming = state_dir / "incoming"
        self.archive = state_dir / "archive"
        self.quarantine = state_dir / "quarantine"
        self.results = state_dir / "results"
        self.partial = state_dir / "partial"
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.incoming, self.archive, self.quarantine, self.results, self.partial):
            _make_folder(folder)
        # Names sort in the order of arrival, over restarts too: of two versions of an instance the later counts.
        self._numbers = count(1 + max(map(_number, self.pending()), default=0))

    def write(self, meta: FileMeta, data: Encoded) -> Path:
        """Keep one received instance: `meta` encoded, then `data` byte for byte. Durable when this returns.

        Raises:
            LowDisk: the disk is full, or would be left with less than the reserve.
            OSError: any other failure to write; nothing is left behind.
        """
        head = meta.encode()
        self.require_room(len(head) + len(data))
        uid_hash = sha256(meta.sop_instance_uid.encode()).hexdigest()[:16]
        path = self.incoming / f"{next(self._numbers):012d}-{uid_hash}-{secrets.token_hex(4)}{DICOM_SUFFIX}"
        self._write_whole(path, head, data)
        return path

    def pending(self) -> list[Path]:
        """Files of ``incoming/`` in the order of their arrival."""
        return sorted(self.incoming.glob(f"*{DICOM_SUFFIX}"))

    def file_away(self, path: Path, relative: str | PurePath) -> None:
        """Move a file of ``incoming/`` to `relative` in the archive. May be repeated after a crash at any moment.

        Raises:
            NodeError: another file has that place in the archive.
            LowDisk, OSError: the file is still in ``incoming/``.
        """
        target = _inside(self.archive, relative)
        with _disk_full_is_low_disk():
            _make_folder(target.parent)
            try:
                os.link(path, target)  # unlike a rename it never replaces
            except FileNotFoundError:
                if not target.exists():
                    raise
            except FileExistsError:
                if not filecmp.cmp(path, target, shallow=False):
                    raise NodeError(f"the archive holds another file as {relative}") from None
            _sync_folder(target.parent)
            path.unlink(missing_ok=True)

    def set_aside(self, path: Path, reason: str, name: str = "") -> Path:
        """Move a file to ``quarantine/``, by its own or another name, and the reason beside it; may be repeated.

        Raises:
            LowDisk, OSError: the file is still where it was.
        """
        target = self.quarantine / (name or path.name)
        self._write_whole(target.with_name(target.name + REASON_SUFFIX), f"{reason}\n".encode())
        try:
            path.rename(target)
        except FileNotFoundError:
            if not target.exists():
                raise
        _sync_folder(self.quarantine)
        LOGGER.warning("%s set aside: %s", path.name, reason)
        return target

    def remove_leftovers(self) -> int:
        """Remove what a killed process was writing; call it before anything is received. Returns how many files."""
        leftovers = list(self.partial.iterdir())
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    def remove(self, archived: Iterable[str], results: Iterable[str]) -> None:
        """Remove files of the archive and folders of results; may be repeated.

        `results`: paths of results, whose revision's folder goes, and names of whole series' folders.

        Durable when this returns. What is not there is no error.

        Raises:
            ValueError: a path leads out of its folder.
            OSError: something could not be removed.
        """
        paths = [_inside(self.archive, relative) for relative in archived]
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in paths}:
            _sync_removal(folder, self.archive)
        revisions = {_inside(self.results, PurePosixPath(*PurePosixPath(name).parts[:2])) for name in results}
        for revision in revisions:
            if revision.is_dir():
                shutil.rmtree(revision)
            else:
                revision.unlink(missing_ok=True)
            _sync_removal(revision.parent, self.results)

    def free_bytes(self) -> int:
        """Free space of the state folder's disk that the service's user may write."""
        return free_bytes(self.state_dir)

    def shortage(self) -> str:
        """What keeps from writing: too little is free, or the disk does not answer; empty where nothing does."""
        try:
            free_bytes = self.free_bytes()
        except OSError as error:
            return f"the disk does not answer: {error.strerror}"
        return "" if free_bytes >= self.min_free_bytes else f"less than {self.min_free_bytes >> 20} MB are free"

    def has_room(self) -> bool:
        """Whether more than the reserve is free, as far as the disk answers."""
        return not self.shortage()

    def require_room(self, needed_bytes: int = 0) -> None:
        """Raise `LowDisk` if writing so much would leave less than the reserve."""
        if self.free_bytes() - needed_bytes < self.min_free_bytes:
            raise LowDisk(f"less than {self.min_free_bytes >> 20} MB of the disk would be left free")

    def _write_whole(self, path: Path, *chunks: Encoded) -> None:
        """All of `chunks` under the name `path`, durable, or nothing."""
        part = self.partial / secrets.token_hex(12)
        with _disk_full_is_low_disk(), ExitStack() as undo:
            undo.callback(part.unlink, missing_ok=True)
            _write_synced(part, *chunks)
            part.rename(path)
            undo.callback(path.unlink, missing_ok=True)
            _sync_folder(path.parent)
            undo.pop_all()


def free_bytes(folder: Path) -> int:
    """Free space of a folder's disk that a user other than root may write."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _write_synced(path: Path, *chunks: Encoded) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename alone may be lost with the power."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def results_folder(series_uid: str) -> str:
    """Name of the folder of a series' results, in it one for each revision; no part of it is from the wire."""
    return sha256(series_uid.encode()).hexdigest()[:32]


def _sync_removal(folder: Path, stays: Path) -> None:
    """Make what is gone from a folder durable; the folder goes too where nothing is left in it."""
    if folder != stays:
        try:
            folder.rmdir()
            folder = folder.parent
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    _sync_folder(folder)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _inside(folder: Path, relative: str | PurePath) -> Path:
    """`relative` below `folder`, and not by way of anything above it."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise ValueError(f"{relative} does not lie below {folder.name}")
    return folder / parts


def _number(path: Path) -> int:
    match = _NUMBERED.match(path.name)
    return int(match[1]) if match else 0


@contextmanager
def _disk_full_is_low_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise LowDisk("the disk is full; free some space, then send again") from error
        raise
