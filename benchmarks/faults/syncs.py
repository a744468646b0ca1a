"""The power cut: from a trace of the system calls, what a disk may have lost at the moment of each answer.

    python -m benchmarks.faults.syncs [--instances 50]

A receiver with its ledger (SQLite) runs under strace while instances are sent to it. The trace is read as a disk
that loses everything that it may: a file's bytes count once it was synced after its last write, a name counts once
its folder was synced after the name was made, and a name that was removed is gone at once. Whenever the receiver
answers 0x0000, that many instances must be there; no file leaves ``incoming/`` before the ledger's log was synced.
Exit status 1 where one is not.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.ingest import Ingest
from dicom_node.ledger import Ledger
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from tests.fixtures import reception
from tests.fixtures.ct import encode, slice_of

CALLS = "openat,write,fsync,fdatasync,rename,link,unlink,sendto,pwrite64,close"
CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
UNFINISHED = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
FD_PATH = re.compile(r"^\d+<([^>]*)>")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
RESPONSE = '"\\4\\0'  # a P-DATA-TF PDU (PS3.8 9.3.5): all that this receiver says in one is a C-STORE response


@dataclass(frozen=True)
class Call:
    """One system call, in the order in which they took effect."""

    name: str
    text: str

    @property
    def fd_path(self) -> str:
        """Path of the descriptor that is its first argument."""
        found = FD_PATH.match(self.text)
        return found[1] if found else ""

    @property
    def paths(self) -> list[str]:
        """Its quoted arguments."""
        return QUOTED.findall(self.text)


def calls(trace: Iterable[str]) -> Iterator[Call]:
    """The calls that succeeded. An answer counts from its beginning, everything else from its end."""
    begun: dict[str, str] = {}
    for line in trace:
        if (found := UNFINISHED.match(line)) is not None:
            name, text = found[2].split("(", 1)
            if name == "sendto":
                yield Call(name, text)
            else:
                begun[found[1]] = f"{found[1]} {found[2]}"
            continue
        if (found := RESUMED.match(line)) is not None:
            line = begun.pop(found[1], "") + found[2]
        if (found := CALL.match(line)) is not None and int(found[4]) >= 0:
            yield Call(found[2], found[3])


@dataclass
class WorstDisk:
    """What is there for certain.

    Attributes:
        file_of: name → the file that it was given to first, which link and rename carry along.
        faults: what was wrong, in words.
    """

    file_of: dict[str, str] = field(default_factory=dict)
    synced: set[str] = field(default_factory=set)  # files of which every byte is on the disk
    lasting: set[str] = field(default_factory=set)  # names that are
    log_synced: set[str] = field(default_factory=set)  # files since whose arrival the ledger's log was synced
    answers: int = 0
    faults: list[str] = field(default_factory=list)

    def take(self, call: Call) -> None:
        """One call further."""
        handler = getattr(self, f"_{call.name}", None)
        if handler is not None:
            handler(call)

    def _write(self, call: Call) -> None:
        path = call.fd_path
        if "/partial/" in path:
            self.file_of.setdefault(path, path)
            self.synced.discard(self.file_of[path])

    def _fsync(self, call: Call) -> None:
        path = call.fd_path
        if path in self.file_of:
            self.synced.add(self.file_of[path])
        self.lasting |= {name for name in self.file_of if str(Path(name).parent) == path}
        if path.endswith("-wal"):
            self.log_synced |= {self.file_of[name] for name in self.file_of if "/incoming/" in name}

    _fdatasync = _fsync

    def _rename(self, call: Call) -> None:
        source, target = call.paths
        if source in self.file_of:
            self.file_of[target] = self.file_of.pop(source)
            self.lasting.discard(source)

    def _link(self, call: Call) -> None:
        source, target = call.paths
        self.file_of[target] = self.file_of[source]

    def _unlink(self, call: Call) -> None:
        (path,) = call.paths
        if "/incoming/" in path and self.file_of.get(path) not in self.log_synced:
            self.faults.append(f"{Path(path).name} left incoming/ before the ledger's log was synced")
        self.file_of.pop(path, None)
        self.lasting.discard(path)

    def _sendto(self, call: Call) -> None:
        if RESPONSE not in call.text:
            return
        self.answers += 1
        there = self.certain()
        if there < self.answers:
            self.faults.append(f"answer {self.answers}: {there} instances are on the disk for certain")

    def certain(self) -> int:
        """Instances that no power cut takes."""
        kept = {
            file
            for name, file in self.file_of.items()
            if name in self.lasting and file in self.synced and ("/incoming/" in name or "/archive/" in name)
        }
        return len(kept)


def traced(folder: Path, instances: int, *child: str) -> WorstDisk:
    """Send so many instances to a traced receiver; the disk as it was in the end."""
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-s", "256", "-e", f"trace={CALLS}", "-o", str(trace)]
    command += [sys.executable, "-m", "benchmarks.faults.syncs", "--child", str(folder / "state"), *child]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        node = reception.Node(Spool(folder / "elsewhere"), port, None)  # type: ignore[arg-type]  # only its port
        with reception.calling(node) as assoc:
            for number in range(instances):
                ds = slice_of(number + 1)
                response = reception.store(assoc, encode(ds), ds.SOPInstanceUID)
                assert reception.status(response) == 0x0000
        process.communicate("")
    disk = WorstDisk()
    for call in calls(trace.read_text(errors="replace").splitlines()):
        disk.take(call)
    if disk.answers != instances:
        disk.faults.append(f"{instances} instances were answered, {disk.answers} answers are in the trace")
    return disk


def child(state_dir: Path) -> None:
    """Reception and ingest of a node; ends with its standard input."""
    spool = Spool(state_dir)
    ledger = Ledger(f"sqlite:///{state_dir / 'ledger.sqlite'}")
    ingest = Ingest(spool, ledger, lambda: datetime.now(UTC))
    receiver = Receiver(
        reception.settings(state_dir, max_associations=120, max_associations_per_peer=120), spool, ingest.submit
    )
    ingest.start()
    print(receiver.start(), flush=True)
    sys.stdin.read()
    receiver.stop()
    ingest.stop()
    ledger.close()


def main() -> int:
    """Trace, read, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--careless", action="store_true", help=argparse.SUPPRESS)  # to show that it would be seen
    arguments = parser.parse_args()
    if arguments.child:
        if arguments.careless:
            os.fsync = lambda _fd: None  # type: ignore[assignment]
        child(arguments.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        disk = traced(Path(folder), arguments.instances)
    print(f"{disk.answers} answers, {disk.certain()} instances on the disk for certain, {len(disk.faults)} faults")
    for fault, times in Counter(disk.faults).items():
        print(f"  {times} × {fault}")
    return 1 if disk.faults else 0


if __name__ == "__main__":
    sys.exit(main())
