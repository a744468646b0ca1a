"""What an analysis costs on a machine that has other work, by how torch's threads wait for each other.

    python benchmarks/busy.py [--slices 64] [--rounds 5]

`dicomnode process` on one phantom series, alone and beside a process that wants a whole core, as a PACS or a second
worker would. "asleep" is the program as it is (`pipeline/__init__.py`); the rival is GNU OpenMP's own default,
which spins. They take turns within each round, so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import phantom
from tests.fixtures.served import COMMAND

CORES = 2  # threads of the analysis; the machine of docs/performance.md has as many
SPINS = {"GOMP_SPINCOUNT": "300000"}  # what libgomp takes where OMP_WAIT_POLICY is not set
RIVALS = {"asleep": dict[str, str](), "spinning (OpenMP's default)": SPINS}


@contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """A process that wants one core, if wanted."""
    if not wanted:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def analysis(ct: Path, out: Path, extra: dict[str, str]) -> tuple[float, float]:
    """Seconds of wall and of processor for one series."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [COMMAND, "process", str(ct), "--out", str(out), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": str(CORES), **extra},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    seconds: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = phantom.PhantomSpec(slices=arguments.slices, slice_spacing_mm=320 / arguments.slices)
        phantom.write_series(phantom.make(spec), folder / "ct")
        for number in range(arguments.rounds):
            for beside in (False, True):
                for rival, extra in RIVALS.items():
                    # The neighbour's own processor time must not count: it is waited for after the analysis is.
                    with neighbour(beside):
                        found = analysis(folder / "ct", folder / f"{number}-{beside}-{len(extra)}", extra)
                    seconds.setdefault((rival, beside), []).append(found)
    table = Table("threads wait", "beside", "wall, s", "processor, s")
    for (rival, beside), found in sorted(seconds.items(), key=lambda item: item[0][1]):
        walls, cpus = zip(*found, strict=True)
        table.add_row(rival, "a busy core" if beside else "nothing", _spread(walls), _spread(cpus))
    Console(width=110).print(table)


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
