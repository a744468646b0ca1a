"""SIGKILL of node, worker or PACS at random moments, while series come in, are analysed and go out.

    python -m benchmarks.faults.kill [--rounds 200] [--minutes 60] [--seed 1] [--folder /somewhere/on/the/disk]

Each round sends a new series, waits a random time, kills, and starts again what was killed. Senders never repeat
what was answered 0x0000, unless that is their manner. In the end it is counted: every answered instance must be in
the archive as it was sent, and every series must have exactly one current result set, committed and in the PACS.
Exit status 1 where something is lost or wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.faults.site import Count, Sending, Site, count, manner_of

VICTIMS = ("node", "node", "node", "worker", "worker", "pacs")
LONGEST_S = 9.0  # from the first slice to committed results, about


def rounds(site: Site, number: int, seed: int, minutes: float) -> Counter[str]:
    """So many, or as many as there is time for; what was killed while the newest series was in which state."""
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    pause = threading.Event()
    end = time.monotonic() + 60 * minutes
    for done in range(number):
        if time.monotonic() > end:
            break
        sending = site.send(f"kill-{seed}-{done}", manner_of(chance))
        # Reception takes a moment, analysis seconds: half of the kills fall into the first second.
        pause.wait(chance.uniform(0.0, chance.choice((1.0, LONGEST_S))))
        victim = chance.choice(VICTIMS)
        killed[f"{victim}, newest series {_state(site, sending)}"] += 1
        kill(site, victim, chance, pause)
        print(f"round {done + 1}: {victim} killed", flush=True)
    return killed


def kill(site: Site, victim: str, chance: random.Random, pause: threading.Event) -> None:
    """Kill, and start again after a moment. A worker is replaced by the node."""
    if victim == "node":
        site.node.kill()
        site.node.start()
    elif victim == "pacs":
        site.pacs.kill()
        pause.wait(chance.uniform(0.0, 3.0))
        site.pacs.start()
    else:
        for worker in chance.sample(workers := site.workers(), min(1, len(workers))):
            try:
                worker.kill()
            except psutil.NoSuchProcess:
                continue


def _state(site: Site, sending: Sending) -> str:
    with site.ledger() as ledger:
        found = ledger.list_series(text=sending.uid)
    return str(found[0].state) if found else "not yet known"


def tell(killed: Counter[str], total: Count) -> None:
    """The table for docs/reliability.md."""
    for what, times in sorted(killed.items()):
        print(f"{times:5d}  {what}")
    print(f"{sum(killed.values())} kills, {total.series} series, {total.answered} instances answered 0x0000")
    print(f"{total.results} result objects, {total.revisions} revisions because slices came late")
    print(f"{len(total.faults)} faults")
    for fault in total.faults:
        print(f"  {fault}")


def main() -> int:
    """Kill, settle, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no round after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        site = Site(arguments.folder or Path(temporary))
        site.start()
        try:
            killed = rounds(site, arguments.rounds, arguments.seed, arguments.minutes)
            site.settle()
            total = count(site)
        finally:
            site.stop()
    tell(killed, total)
    return 1 if total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
