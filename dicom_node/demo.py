"""`dicomnode demo`: the main job on a synthetic chest CT, with everything it needs on free loopback ports."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dicom_node import config as configuration
from dicom_node import scu
from dicom_node.archive import Address, Archive
from dicom_node.config import Config, Destination
from dicom_node.ledger import SeriesDetails
from dicom_node.node import Node
from dicom_node.states import DeliveryState, SeriesState
from pipeline import RESEARCH_USE_ONLY, notation, phantom
from pipeline.types import Lung, Region, ResultKind

Truth = Mapping[Region, Mapping[str, float]]

ARCHIVE, NODE = "ARCHIVE", "DICOMNODE"
GIVE_UP_S = 600.0
LOOK_EVERY_S = 0.2
SETTLED = frozenset(
    {
        SeriesState.DELIVERED,
        SeriesState.NOT_ANALYSED,
        SeriesState.INCOMPLETE,
        SeriesState.FAILED,
        SeriesState.CANCELLED,
    }
)


@dataclass(frozen=True)
class Shown:
    """What came of it; `report` is empty where nothing was analysed."""

    folder: Path
    state: SeriesState
    reason: str
    objects: Sequence[ResultKind]
    report: Mapping[str, Any]
    truth: Truth

    @property
    def delivered(self) -> bool:
        """Every object is committed in the archive."""
        return self.state is SeriesState.DELIVERED


def run(console: Console, folder: Path | None) -> Shown:
    """Phantom → C-STORE → node → SEG, SR and picture committed in an archive.

    Args:
        console: where progress and figures go.
        folder: what is made lies here afterwards; None makes a new temporary folder.
    """
    folder = folder or Path(tempfile.mkdtemp(prefix="dicomnode-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"dicomnode demo. {RESEARCH_USE_ONLY}.")
    chest = phantom.make()
    files = phantom.write_series(chest, folder / "ct", uid_seed=folder.name)
    console.print(f"1. a synthetic chest CT: {len(files)} slices in {folder / 'ct'}")
    with _archive(folder / "archive") as (archive, port), _node(folder / "node", port) as (node, node_port):
        archive.peers[NODE] = Address("127.0.0.1", node_port)
        console.print(
            f"2. an archive (AE {ARCHIVE}, port {port}) and the node (AE {NODE}, port {node_port}) are up"
        )
        uid = _send(files, node_port)
        console.print(f"3. C-STORE of {len(files)} instances: every one answered 0x0000")
        details = _wait(console, node, uid)
    shown = _shown(folder, details, _truth(chest))
    _tell(console, shown)
    return shown


@contextmanager
def _archive(folder: Path) -> Iterator[tuple[Archive, int]]:
    archive = Archive(folder, ARCHIVE)
    port = archive.start()
    try:
        yield archive, port
    finally:
        archive.stop()


@contextmanager
def _node(state_dir: Path, archive_port: int) -> Iterator[tuple[Node, int]]:
    node = Node(demo_config(state_dir, archive_port))
    port = node.start()
    try:
        yield node, port
    finally:
        node.stop()


def demo_config(state_dir: Path, archive_port: int) -> Config:
    """The defaults, with short quiet times, a free port and the archive as destination."""
    return configuration.parse(
        {
            "node": {"state_dir": str(state_dir.resolve()), "port": 0, "ae_title": NODE},
            "reception": {"min_free_disk_mb": 100},
            "completion": {"series_quiet_s": 1.0, "study_quiet_s": 1.0},
            "destinations": [{"name": "archive", "ae_title": ARCHIVE, "host": "127.0.0.1", "port": archive_port}],
        }
    )


def _send(files: Sequence[Path], port: int) -> str:
    """Send the phantom as a modality would; its SeriesInstanceUID."""
    import pydicom

    node = Destination(name="node", ae_title=NODE, host="127.0.0.1", port=port)
    for result in scu.store(node, files, "MODALITY"):
        if result.error is not None:
            raise result.error
    return str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def _wait(console: Console, node: Node, uid: str) -> SeriesDetails:
    """Until the series is settled, showing its state."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    pause = threading.Event()
    deadline = time.monotonic() + GIVE_UP_S
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("4. receiving", total=None)
        while True:
            details = node.details(uid)
            if details is not None:
                progress.update(task, description=f"4. {_where(details)}")
                if details.series.state in SETTLED or time.monotonic() > deadline:
                    return details
            pause.wait(LOOK_EVERY_S)


def _where(details: SeriesDetails) -> str:
    done = sum(delivery.state is DeliveryState.COMMITTED for delivery in details.deliveries)
    committed = f", {done} of {len(details.deliveries)} objects committed" if details.deliveries else ""
    return f"{details.series.state}{committed}"


def _truth(chest: phantom.Phantom) -> Truth:
    """Severity and consolidation score of the phantom's own masks, fractions of 1."""
    labels = chest.lungs.labels
    regions = {
        Region.BOTH: labels > 0,
        Region.RIGHT: labels == Lung.RIGHT,
        Region.LEFT: labels == Lung.LEFT,
    }
    return {
        region: {
            "severity_score": float((chest.lesions.infection & lung).sum() / lung.sum()),
            "consolidation_score": float((chest.lesions.consolidation & lung).sum() / lung.sum()),
        }
        for region, lung in regions.items()
    }


def _shown(folder: Path, details: SeriesDetails, truth: Truth) -> Shown:
    series = details.series
    report = details.jobs[-1].report if details.jobs else None
    objects = [delivery.kind for delivery in details.deliveries]
    return Shown(folder, series.state, series.reason, objects, report or {}, truth)


def _tell(console: Console, shown: Shown) -> None:
    if not shown.delivered:
        console.print(f"[bold red]not delivered[/]: {shown.state} {shown.reason}")
        return
    report = shown.report
    console.print(f"4. analysed, and the archive has committed: {', '.join(map(str, shown.objects))}")
    table = Table(title="scores beside the known truth")
    for heading in ("", "severity", "truth", "consolidation", "truth "):
        table.add_column(heading, justify="left" if not heading else "right")
    for region, known in shown.truth.items():
        found = report if region is Region.BOTH else report[region]
        cells = [
            notation.percent(values[key])
            for key in ("severity_score", "consolidation_score")
            for values in (found, known)
        ]
        table.add_row(str(region), *cells)
    console.print(table)
    console.print(f"severity class {report['severity_class']}; lungs: {report['lungs_method']}", highlight=False)
    folder = shown.folder
    results = folder / "node" / "results"
    console.print(f"the objects lie in {results}, the archive's copies in {folder / 'archive'}", highlight=False)
    for picture in sorted(results.rglob("picture.png")):
        console.print(f"the picture: {picture}", highlight=False, soft_wrap=True)
