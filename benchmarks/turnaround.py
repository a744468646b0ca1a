"""From the last instance to committed results in a real PACS, stage by stage, and the memory of the whole node.

usage: turnaround.py [--slices 64] [--rows 512] [--rounds 3] [--folder DICOM_FOLDER]

dcmsend sends a series to `dicomnode serve`; Orthanc receives and commits the results. The rival in the same run is
the pipeline alone (`dicomnode process` on the same folder): what is above it is the price of the node.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pydicom
from rich.console import Console
from rich.table import Table

from pipeline import phantom
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.served import COMMAND, Served

QUIET_S = 2.0
LIMIT_S = 900.0
SAMPLE_S = 0.05


class PeakMemory(threading.Thread):
    """Largest sum over a process and its children of their proportional set size."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._stopped = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
                self.peak_bytes = max(self.peak_bytes, sum(p.memory_full_info().pss for p in tree))
            except psutil.NoSuchProcess:
                continue

    def stop(self) -> float:
        """End; the peak in GiB."""
        self._stopped.set()
        self.join()
        return self.peak_bytes / 2**30


@contextmanager
def node_and_pacs(folder: Path) -> Iterator[tuple[Served, Orthanc]]:
    """A node with quiet times of `QUIET_S`, and its PACS."""
    orthanc = Orthanc(folder / "orthanc")
    orthanc.start()
    quiet = {"series_quiet_s": QUIET_S, "study_quiet_s": QUIET_S}
    node = Served(folder / "node", [orthanc.destination()], completion=quiet)
    try:
        orthanc.know("DICOMNODE", node.start())
        yield node, orthanc
    finally:
        node.stop()
        orthanc.stop()


def one_round(folder: Path, ct: Path, uid: str) -> dict[str, float]:
    """Send and wait; seconds since the last instance for each stage, and the peak memory."""
    with node_and_pacs(folder) as (node, _):
        time.sleep(5)  # a node that has been up for a while: its worker is warm
        assert node.process is not None
        memory = PeakMemory(node.process.pid)
        memory.start()
        target = ["-aec", "DICOMNODE", "127.0.0.1", str(node.port)]
        subprocess.run(["/usr/bin/dcmsend", *target, "+sd", "+r", str(ct)], check=True)
        details = wait(node, uid)
        peak_gib = memory.stop()
    last = moment(details["series"]["last_instance_at"])
    job = details["jobs"][-1]
    committed = max(moment(row["committed_at"]) for row in details["deliveries"])
    return {
        "quiet times and selection, s": moment(job["started_at"]) - last,
        "analysis and result objects, s": moment(job["finished_at"]) - moment(job["started_at"]),
        "delivery and commitment, s": committed - moment(job["finished_at"]),
        "last instance to committed, s": committed - last,
        "peak memory of the node, GiB": peak_gib,
    }


def wait(node: Served, uid: str) -> dict[str, Any]:
    """The series once it is delivered."""
    begun = time.monotonic()
    while time.monotonic() - begun < LIMIT_S:
        details = node.show(uid)
        if details is not None and details["series"]["state"] == "delivered":
            return details
        if details is not None and details["series"]["state"] in {"failed", "not_analysed", "incomplete"}:
            raise SystemExit(f"not delivered: {details['series']['reason']}")
        time.sleep(1.0)
    raise SystemExit("not delivered in time:\n" + "".join(node.log[-30:]))


def moment(text: str) -> float:
    """ISO 8601 → seconds."""
    return datetime.fromisoformat(text).timestamp()


def pipeline_alone(ct: Path, out: Path) -> float:
    """Seconds of `dicomnode process`, a cold start included."""
    begun = time.monotonic()
    subprocess.run([str(COMMAND), "process", str(ct), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="a real series instead of a phantom")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnaround-") as name:
        folder = Path(name)
        ct = arguments.folder or folder / "ct"
        if arguments.folder is None:
            height_mm = 320.0
            spec = phantom.PhantomSpec(
                arguments.slices, arguments.rows, arguments.rows, height_mm / arguments.slices
            )
            phantom.write_series(phantom.make(spec), ct)
        files = sorted(path for path in ct.rglob("*") if path.is_file())
        uid = str(pydicom.dcmread(files[0], stop_before_pixels=True, force=True).SeriesInstanceUID)
        rounds = [one_round(folder / f"round{number}", ct, uid) for number in range(arguments.rounds)]
        alone = [pipeline_alone(ct, folder / f"out{number}") for number in range(arguments.rounds)]
    table = Table(title=f"{len(files)} files, quiet times {QUIET_S:g} s each, {arguments.rounds} rounds")
    for heading in ("", "min", "median", "max"):
        table.add_column(heading, justify="right" if heading else "left")
    figures = {key: [r[key] for r in rounds] for key in rounds[0]} | {"dicomnode process, cold start, s": alone}
    for key, values in figures.items():
        table.add_row(key, *(f"{value:.2f}" for value in (min(values), statistics.median(values), max(values))))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
