"""A soak: senders of every manner for an hour, and what grows meanwhile: memory, threads, file descriptors.

    python -m benchmarks.faults.soak [--minutes 60] [--at-once 8] [--seed 1] [--csv FILE]

A receiver with its ledger runs in a process of its own. So many senders call it at the same time, again and again:
good series, repeated ones, data sets that do not parse, command sets that lie, damaged PDUs, connections that
abort, stall or say nothing. Once a minute 100 associations are opened at once. Every ten seconds the process is
looked at, when nobody is calling: what it holds is compared between the first quarter, when caches have filled, and
the last. In the end every instance answered 0x0000 must be in the ledger. Exit status 1 where something is lost or
leaks.
"""

from __future__ import annotations

import argparse
import csv
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from dicom_node.ledger import Ledger
from tests.fixtures import reception
from tests.fixtures.ct import encode, slice_of

LOOK_S = 10.0
MANY = 100
TOGETHER_S = 60.0  # an answer may take, when so many ask
ASSOCIATE_AC, P_DATA_TF = 0x02, 0x04  # PDU types, PS3.8 9.3
MEMORY_MB, THREADS, DESCRIPTORS = 32.0, 2, 4  # more than so much more in the end than in the beginning is a leak


@dataclass(frozen=True)
class Look:
    """The process at one moment, with nobody calling."""

    second: float
    memory_mb: float
    threads: int
    descriptors: int


class Senders:
    """Everybody who calls; what was answered 0x0000 is remembered."""

    def __init__(self, port: int, folder: Path, seed: int) -> None:
        self.node = reception.Node(None, port, None)  # type: ignore[arg-type]  # only its port is used
        self.answered: set[str] = set()
        self.done: Counter[str] = Counter()
        self._pdus = reception.recorded(folder / "recorded")
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.manners: Sequence[Callable[[random.Random], None]] = (
            *(self.good, self.good, self.repeats, self.lies, self.unreadable),
            *(self.damaged, self.aborts, self.hangs_up, self.stalls),
        )

    def call_at_once(self, number: int) -> None:
        """So many senders at the same time, each in its manner."""
        with self._lock:
            chances = [random.Random(self._chance.random()) for _ in range(number)]
        threads = [threading.Thread(target=self._one, args=(chance,)) for chance in chances]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _one(self, chance: random.Random) -> None:
        manner = chance.choice(self.manners)
        with suppress(
            OSError, RuntimeError, AssertionError, ValueError, LookupError
        ):  # the node ended it, or refused
            manner(chance)
        with self._lock:
            self.done[manner.__name__] += 1

    def _store(self, chance: random.Random, times: int = 1, **attributes: str) -> None:
        series_uid = f"1.2.3.{chance.getrandbits(64)}"  # short: SOP Instance UIDs are made of it
        with reception.calling(self.node, calling_ae=f"SOAK{chance.randrange(9)}") as assoc:
            for number in range(1, chance.randint(2, 12)):
                ds = slice_of(number, series_uid, StudyInstanceUID=f"{series_uid}.0", **attributes)
                ds.file_meta = FileMetaDataset()
                ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                for _ in range(times):
                    if assoc.send_c_store(ds).get("Status") == 0x0000:
                        with self._lock:
                            self.answered.add(ds.SOPInstanceUID)

    def good(self, chance: random.Random) -> None:
        """A short series."""
        self._store(chance)

    def repeats(self, chance: random.Random) -> None:
        """Every instance twice."""
        self._store(chance, times=2)

    def lies(self, chance: random.Random) -> None:
        """Another SOP instance in the command set than in the data set."""
        with reception.calling(self.node) as assoc:
            reception.store(assoc, encode(slice_of(chance.randrange(99))), str(generate_uid()))

    def unreadable(self, chance: random.Random) -> None:
        """A data set of noise."""
        with reception.calling(self.node) as assoc:
            reception.store(assoc, chance.randbytes(chance.randrange(1, 5000)), str(generate_uid()))

    def damaged(self, chance: random.Random) -> None:
        """PDUs with some bytes changed."""
        stream = bytearray(b"".join(self._pdus))
        for _ in range(chance.randint(1, 6)):
            stream[chance.randrange(len(stream))] = chance.randrange(256)
        self._say(bytes(stream))

    def hangs_up(self, chance: random.Random) -> None:
        """In the middle of a PDU."""
        stream = b"".join(self._pdus)
        self._say(stream[: chance.randrange(len(stream))])

    def stalls(self, chance: random.Random) -> None:
        """Half a request, then nothing for a while."""
        with socket.create_connection(("127.0.0.1", self.node.port), reception.SECONDS) as peer:
            peer.sendall(self._pdus[0][: chance.randrange(len(self._pdus[0]))])
            threading.Event().wait(chance.uniform(0.0, 1.0))

    def aborts(self, chance: random.Random) -> None:
        """A-ABORT after some instances."""
        ae = AE("ABORTS")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        assoc = ae.associate("127.0.0.1", self.node.port, ae_title=reception.AE_TITLE)
        if assoc.is_established:
            assoc.abort()

    def _say(self, stream: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.node.port), reception.SECONDS) as peer:
            peer.sendall(stream)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass

    def open_many(self) -> int:
        """100 associations that all stand at the same time; how many of them answer an echo while they do.

        Plain sockets that send recorded PDUs: 100 requestors in one process keep each other waiting.
        """
        request, echo, *_, release = self._pdus
        address = ("127.0.0.1", self.node.port)
        with ExitStack() as stack:
            peers = [stack.enter_context(socket.create_connection(address, TOGETHER_S)) for _ in range(MANY)]
            accepted = [peer for peer in peers if _answer(peer, request) == ASSOCIATE_AC]
            echoed = sum(_answer(peer, echo) == P_DATA_TF for peer in accepted)
            for peer in accepted:
                _answer(peer, release)
            return echoed


def _answer(peer: socket.socket, pdu: bytes) -> int:
    """The type of the PDU that answers (PS3.8 9.3); -1 where the connection ends instead."""
    try:
        peer.sendall(pdu)
        head = peer.recv(6, socket.MSG_WAITALL)
        peer.recv(int.from_bytes(head[2:]), socket.MSG_WAITALL)
        return head[0]
    except (OSError, IndexError):
        return -1


def soak(folder: Path, minutes: float, at_once: int, seed: int) -> tuple[list[Look], Senders, list[str]]:
    """Run it; looks at the process, the senders, and what is wrong."""
    command = [sys.executable, "-m", "benchmarks.faults.syncs", "--child", str(folder / "state")]
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        senders = Senders(int(process.stdout.readline()), folder, seed)
        watched = psutil.Process(process.pid)
        began, looks, most = time.monotonic(), [], 0
        while time.monotonic() < began + 60 * minutes:
            until = time.monotonic() + LOOK_S
            while time.monotonic() < until:
                senders.call_at_once(at_once)
            most = max(most, senders.open_many()) if len(looks) % 6 == 0 else most
            looks.append(_look(watched, time.monotonic() - began))
        process.communicate("")
    senders.done["associations open at once"] = most
    unplanned = log.read_text(errors="replace").count("Traceback")
    faults = [f"{unplanned} errors that nobody planned, in the log"] if unplanned else []
    return looks, senders, [*faults, *leaks(looks), *_lost(folder, senders)]


def _look(process: psutil.Process, second: float) -> Look:
    """Once the threads of associations that are over have ended."""
    pause = threading.Event()
    for _ in range(50):
        if process.num_threads() <= 8:
            break
        pause.wait(0.1)
    memory = process.memory_full_info().uss / 2**20
    return Look(round(second, 1), round(memory, 1), process.num_threads(), process.num_fds())


def leaks(looks: Sequence[Look]) -> list[str]:
    """What is more in the last quarter than in the first, beyond what caches need."""
    quarter = max(1, len(looks) // 4)
    first, last = looks[:quarter], looks[-quarter:]
    faults = []
    for name, limit in (("memory_mb", MEMORY_MB), ("threads", THREADS), ("descriptors", DESCRIPTORS)):
        before, after = (median(getattr(look, name) for look in part) for part in (first, last))
        if after - before > limit:
            faults.append(f"{name}: {before:g} in the first quarter, {after:g} in the last")
    return faults


def _lost(folder: Path, senders: Senders) -> list[str]:
    ledger = Ledger(f"sqlite:///{folder / 'state' / 'ledger.sqlite'}", migrate=False)
    answered = sorted(senders.answered)
    kept: set[str] = set()
    for first in range(0, len(answered), 500):
        kept |= ledger.kept_instances(answered[first : first + 500]).keys()
    ledger.close()
    return [f"answered instance {uid} is lost" for uid in answered if uid not in kept]


def main() -> int:
    """Soak and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="every look")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        looks, senders, faults = soak(Path(folder), arguments.minutes, arguments.at_once, arguments.seed)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(looks[0])))
            writer.writeheader()
            writer.writerows(asdict(look) for look in looks)
    for name, times in senders.done.most_common():
        print(f"{times:7d}  {name}")
    print(f"{len(senders.answered)} instances answered 0x0000 in {looks[-1].second / 60:.0f} minutes")
    for look in (looks[0], looks[len(looks) // 4], looks[len(looks) // 2], looks[-1]):
        print(f"  {look}")
    print(f"{len(faults)} faults")
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
