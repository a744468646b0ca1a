"""What a disk may have lost at the moment of an answer, read from a trace of the system calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.syncs import WorstDisk, calls, traced

Tool = Callable[[str], str]


def test_what_was_answered_is_on_the_disk_for_certain(tmp_path: Path, tool: Tool) -> None:
    tool("/usr/bin/strace")
    disk = traced(tmp_path, 12)
    assert disk.faults == []
    assert disk.certain() == 12


def test_a_missing_sync_would_be_seen(tmp_path: Path, tool: Tool) -> None:
    tool("/usr/bin/strace")
    disk = traced(tmp_path, 3, "--careless")
    assert disk.certain() == 0
    assert any("answer 1: 0 instances" in fault for fault in disk.faults)


def test_a_file_that_leaves_before_the_log_is_synced_would_be_seen() -> None:
    trace = """
1 write(3</s/partial/a>, "x", 1) = 1
1 fsync(3</s/partial/a>) = 0
1 rename("/s/partial/a", "/s/incoming/b") = 0
1 fsync(4</s/incoming>) = 0
1 link("/s/incoming/b", "/s/archive/c") = 0
2 fsync(5</s/archive> <unfinished ...>
1 unlink("/s/incoming/b") = 0
2 <... fsync resumed>) = 0
""".splitlines()
    disk = WorstDisk()
    for call in calls(trace):
        disk.take(call)
    assert disk.faults == ["b left incoming/ before the ledger's log was synced"]
    assert disk.certain() == 1
