"""The spool: whole files or none, whatever fails; faults are put into the system calls themselves."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_node.errors import LowDisk, NodeError
from dicom_node.part10 import FileMeta
from dicom_node.spool import REASON_SUFFIX, Spool

DATA = bytes.fromhex("08001600") + bytes(range(256)) * 40


def meta(instance: str = "1.2.3.4") -> FileMeta:
    return FileMeta("1.2.840.10008.5.1.4.1.1.2", instance, "1.2.840.10008.1.2", "MODALITY", "127.0.0.1")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "state")


def files(spool: Spool) -> set[Path]:
    """Every file below the state folder."""
    return {path for path in spool.state_dir.rglob("*") if path.is_file()}


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, nth: int = 1) -> Iterator[None]:
    """Have the nth call of os.<name> fail."""
    real: Callable[..., Any] = getattr(os, name)
    calls = 0

    def fake(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fake)
        yield
    assert calls >= nth, f"os.{name} was not reached"


# Each step of a write, in its order; the last two are the folder's.
STEPS = [("open", 1), ("write", 1), ("write", 2), ("fsync", 1), ("rename", 1), ("open", 2), ("fsync", 2)]


def test_a_written_file_is_meta_and_the_data_set_byte_for_byte(spool: Spool) -> None:
    path = spool.write(meta(), memoryview(DATA))
    content = path.read_bytes()
    assert content == meta().encode() + DATA
    assert path.parent == spool.incoming
    assert files(spool) == {path}


def test_everything_is_for_the_service_alone(spool: Spool) -> None:
    path = spool.write(meta(), DATA)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (spool.state_dir, *(path for path in spool.state_dir.iterdir())):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_names_do_not_come_from_the_wire(spool: Spool) -> None:
    path = spool.write(meta("../../../tmp/1.2.3"), DATA)
    assert path.parent == spool.incoming
    assert "1.2.3" not in path.name
    assert len(path.name) < 64


def test_two_versions_of_an_instance_are_two_files_in_their_order(spool: Spool) -> None:
    first, second = spool.write(meta(), DATA), spool.write(meta(), DATA + b"\x00")
    assert first != second
    assert spool.pending() == [first, second]


def test_order_of_arrival_survives_a_restart(spool: Spool) -> None:
    before = [spool.write(meta(f"1.2.{number}"), DATA) for number in range(12)]
    after = Spool(spool.state_dir)
    later = after.write(meta("1.1"), DATA)
    assert after.pending() == [*before, later]


def test_a_file_put_there_by_hand_does_not_stop_the_node(spool: Spool) -> None:
    (spool.incoming / "mine.dcm").write_bytes(DATA)
    path = Spool(spool.state_dir).write(meta(), DATA)
    assert set(spool.pending()) == {path, spool.incoming / "mine.dcm"}


def test_synced_before_renamed_and_the_folder_after(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    real_write, real_fsync, real_rename = os.write, os.fsync, os.rename

    def what(fd: int) -> str:
        return Path(f"/proc/self/fd/{fd}").readlink().parent.name if not _is_folder(fd) else "folder"

    def write(fd: int, data: bytes) -> int:
        names.append(f"write {what(fd)}")
        return real_write(fd, data)

    def fsync(fd: int) -> None:
        names.append(f"fsync {what(fd)}")
        real_fsync(fd)

    def rename(source: Path, target: Path) -> None:
        names.append(f"rename to {Path(target).parent.name}")
        real_rename(source, target)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    spool.write(meta(), DATA)
    assert names == ["write partial", "write partial", "fsync partial", "rename to incoming", "fsync folder"]


def _is_folder(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


@pytest.mark.parametrize(("name", "nth"), STEPS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_at_any_step_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, code: int
) -> None:
    with failing(monkeypatch, name, code, nth), pytest.raises(LowDisk, match="disk is full"):
        spool.write(meta(), DATA)
    assert files(spool) == set()


@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_any_other_fault_leaves_nothing_either(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str, nth: int
) -> None:
    with failing(monkeypatch, name, errno.EIO, nth), pytest.raises(OSError, match="Input/output error"):
        spool.write(meta(), DATA)
    assert files(spool) == set()


@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_after_a_fault_the_next_write_succeeds(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str, nth: int
) -> None:
    with failing(monkeypatch, name, errno.ENOSPC, nth), pytest.raises(LowDisk):
        spool.write(meta(), DATA)
    assert spool.write(meta(), DATA).read_bytes().endswith(DATA)


def test_short_writes_are_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[:1000]))
    assert spool.write(meta(), DATA).read_bytes() == meta().encode() + DATA


def test_the_reserve_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, min_free_bytes=1_000_000)
    free = SimpleNamespace(f_bavail=1100, f_frsize=1000)
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    spool.require_room(100_000)
    with pytest.raises(LowDisk, match="left free"):
        spool.require_room(100_001)
    spool.write(meta(), bytes(90_000))
    with pytest.raises(LowDisk):
        spool.write(meta(), bytes(110_000))
    free.f_bavail = 2000  # recovers by itself
    assert spool.write(meta(), bytes(110_000)).exists()


def test_leftovers_of_a_killed_process_are_removed(spool: Spool) -> None:
    kept = spool.write(meta(), DATA)
    (spool.partial / "abc").write_bytes(DATA[:100])
    (spool.partial / "def").write_bytes(b"")
    assert Spool(spool.state_dir).remove_leftovers() == 2
    assert files(spool) == {kept}


class TestFileAway:
    """Moves into the archive."""

    def test_moves_the_same_bytes(self, spool: Spool) -> None:
        path = spool.write(meta(), DATA)
        spool.file_away(path, "ab/cd/1.dcm")
        assert files(spool) == {spool.archive / "ab/cd/1.dcm"}
        assert (spool.archive / "ab/cd/1.dcm").read_bytes() == meta().encode() + DATA
        assert spool.pending() == []

    def test_may_be_repeated(self, spool: Spool) -> None:
        path = spool.write(meta(), DATA)
        spool.file_away(path, "1.dcm")
        spool.file_away(path, "1.dcm")
        assert files(spool) == {spool.archive / "1.dcm"}

    def test_continues_after_a_crash_in_the_middle(self, spool: Spool) -> None:
        path = spool.write(meta(), DATA)
        os.link(path, spool.archive / "1.dcm")
        spool.file_away(path, "1.dcm")
        assert files(spool) == {spool.archive / "1.dcm"}

    def test_the_same_bytes_received_again_are_kept_once(self, spool: Spool) -> None:
        first, second = spool.write(meta(), DATA), spool.write(meta(), DATA)
        spool.file_away(first, "1.dcm")
        spool.file_away(second, "1.dcm")
        assert files(spool) == {spool.archive / "1.dcm"}

    def test_never_replaces_another_file(self, spool: Spool) -> None:
        first, second = spool.write(meta(), DATA), spool.write(meta(), DATA[:-1] + b"!")
        spool.file_away(first, "1.dcm")
        with pytest.raises(NodeError, match=r"another file as 1\.dcm"):
            spool.file_away(second, "1.dcm")
        assert files(spool) == {spool.archive / "1.dcm", second}
        assert (spool.archive / "1.dcm").read_bytes().endswith(DATA)

    def test_a_file_that_is_nowhere_is_an_error(self, spool: Spool) -> None:
        with pytest.raises(FileNotFoundError):
            spool.file_away(spool.incoming / "gone.dcm", "1.dcm")

    @pytest.mark.parametrize("name", ["link", "mkdir", "fsync"])
    def test_a_fault_keeps_it_in_incoming(self, spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        path = spool.write(meta(), DATA)
        with failing(monkeypatch, name, errno.ENOSPC), pytest.raises(LowDisk):
            spool.file_away(path, "ab/1.dcm")
        assert spool.pending() == [path]
        spool.file_away(path, "ab/1.dcm")
        assert files(spool) == {spool.archive / "ab/1.dcm"}

    @given(
        relative=st.text(max_size=30) | st.sampled_from(["..", "../x", "a/../../x", "/etc/x", "", ".", "a/./.."])
    )
    def test_nothing_leads_out_of_the_archive(self, relative: str) -> None:
        from dicom_node.spool import _inside

        try:
            path = _inside(Path("/state/archive"), relative)
        except ValueError:
            return
        assert Path(os.path.normpath(path)).is_relative_to("/state/archive")
        assert os.path.normpath(path) != "/state/archive"


class TestSetAside:
    """Moves into quarantine."""

    def test_the_reason_lies_beside_it(self, spool: Spool) -> None:
        path = spool.write(meta(), DATA)
        target = spool.set_aside(path, "no StudyInstanceUID")
        assert target.parent == spool.quarantine
        assert target.read_bytes().endswith(DATA)
        assert target.with_name(target.name + REASON_SUFFIX).read_text() == "no StudyInstanceUID\n"
        assert spool.pending() == []

    def test_may_be_repeated(self, spool: Spool) -> None:
        path = spool.write(meta(), DATA)
        assert spool.set_aside(path, "broken") == spool.set_aside(path, "broken")
        assert len(files(spool)) == 2

    def test_a_file_that_is_nowhere_is_an_error(self, spool: Spool) -> None:
        with pytest.raises(FileNotFoundError):
            spool.set_aside(spool.incoming / "gone.dcm", "broken")


def test_what_is_spooled_names_its_sender(spool: Spool) -> None:
    path = spool.write(meta("1.2.3.4"), b"")
    file_meta = dcmread(path).file_meta
    assert file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert file_meta.SourcePresentationAddress == "dicom://127.0.0.1"
