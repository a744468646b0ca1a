"""A small hospital on loopback for the campaign: the installed node, Debian's Orthanc, senders, and who counts.

Series are small and the model package is tiny and random, so that many rounds fit into an hour; every part is the
real one.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pydicom
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from dicom_node.ledger import Ledger, SeriesDetails
from dicom_node.states import DeliveryState, SeriesState
from pipeline import phantom
from tests.fixtures import packages
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.served import Served, series_uid

SLICES = 14
SPEC = phantom.PhantomSpec(slices=SLICES, rows=48, columns=48, slice_spacing_mm=9.0)
PAUSE_S = 0.3  # of a sender before it calls again
START_S, SEND_S, SETTLE_S = 300.0, 600.0, 900.0  # a busy machine takes long to load torch
UNDER_WAY = frozenset({SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.QUEUED, SeriesState.ANALYSED})
MANNERS = ("plain", "repeats", "aborts", "closes", "backwards")  # of senders


@dataclass
class Sending:
    """One series on its way, by a sender that deletes what was answered with success.

    Attributes:
        manner: how it behaves: repeats every instance, aborts or closes half way, sends the last slice first.
        answered: files that were answered 0x0000; never sent again, except by one that repeats.
    """

    paths: Sequence[Path]
    manner: str
    port: int
    answered: set[Path] = field(default_factory=set)
    associations: int = 0

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return series_uid(self.paths[0].parent)

    def run(self) -> None:
        """Call until everything is answered."""
        pause = threading.Event()
        order = sorted(self.paths, reverse=self.manner == "backwards")
        for _ in range(int(SEND_S / PAUSE_S)):
            rest = [path for path in order if path not in self.answered]
            if not rest:
                return
            self._call(rest)
            pause.wait(PAUSE_S)

    def _call(self, rest: Sequence[Path]) -> None:
        ae = AE("CAMPAIGN")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 20
        ae.add_requested_context(CTImageStorage)
        assoc = ae.associate("127.0.0.1", self.port, ae_title="DICOMNODE")
        if not assoc.is_established:
            return
        self.associations += 1
        half = len(self.paths) // 2 if self.associations == 1 and self.manner in {"aborts", "closes"} else None
        for path in rest[:half]:
            for _ in range(2 if self.manner == "repeats" else 1):
                try:
                    status = assoc.send_c_store(path)
                except (RuntimeError, ValueError):  # the association is over
                    return
                if "Status" in status and status.Status == 0x0000:
                    self.answered.add(path)
        if half is None:
            assoc.release()
        elif self.manner == "aborts":
            assoc.abort()
        else:
            assoc.dul.socket.close()  # the connection, without a word


class Site:
    """Node, PACS and senders.

    Attributes:
        sendings: every series that was sent.
    """

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        self.pacs = Orthanc(folder / "pacs")
        self.sendings: list[Sending] = []
        self._threads: list[threading.Thread] = []
        self._drawn = phantom.make(SPEC)
        self._sections = sections

    def start(self) -> None:
        """PACS first: the node's config names its port."""
        self.pacs.start()
        model = packages.write(self.folder / "model")
        analysis = {"device": "cpu", "model": str(model), "max_attempts": 10, "threads": 1}
        self.node = Served(self.folder / "node", [self.pacs.destination()], analysis=analysis, **self._sections)
        self.node.start_s = START_S
        self.pacs.know("DICOMNODE", self.node.start())

    def stop(self) -> None:
        """End everything."""
        self.node.kill()
        self.pacs.kill()

    def make_series(self, seed: str) -> list[Path]:
        """A new study of one series as files."""
        return phantom.write_series(self._drawn, self.folder / "sources" / seed, uid_seed=seed)

    def send(self, seed: str, manner: str = "plain") -> Sending:
        """Begin to send a new series."""
        sending = Sending(self.make_series(seed), manner, self.node.port)
        self.sendings.append(sending)
        self._threads.append(threading.Thread(target=sending.run, daemon=True))
        self._threads[-1].start()
        return sending

    def workers(self) -> list[psutil.Process]:
        """The node's analysis processes."""
        assert self.node.process is not None
        try:
            children = psutil.Process(self.node.process.pid).children(recursive=True)
            return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        except psutil.Error:
            return []

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """What the node knows."""
        opened = Ledger(f"sqlite:///{self.node.state_dir / 'ledger.sqlite'}", migrate=False)
        try:
            yield opened
        finally:
            opened.close()

    def settle(self) -> None:
        """Wait for the senders, then until nothing is under way."""
        for thread in self._threads:
            thread.join(SEND_S)
        pause = threading.Event()
        with self.ledger() as ledger:
            for _ in range(int(SETTLE_S)):
                counts = ledger.counts()
                known = sum(counts.values()) >= len(self.sendings)
                if known and not any(counts[state] for state in UNDER_WAY):
                    return
                pause.wait(1.0)


@dataclass
class Count:
    """What is there in the end, and what is not as it must be."""

    series: int = 0
    answered: int = 0
    revisions: int = 0
    results: int = 0
    faults: list[str] = field(default_factory=list)


def count(site: Site) -> Count:
    """Every instance that was answered is there, and every series has one current result set, committed."""
    total = Count(series=len(site.sendings))
    in_pacs = {
        str(ds.SOPInstanceUID): ds
        for row in site.pacs.instances()
        for ds in [pydicom.dcmread(pydicom.filebase.DicomBytesIO(site.pacs.file(row["id"])))]
    }
    known: set[str] = set()
    with site.ledger() as ledger:
        for sending in site.sendings:
            total.answered += len(sending.answered)
            if len(sending.answered) < len(sending.paths):
                total.faults.append(f"{sending.uid}: {len(sending.answered)} of {len(sending.paths)} answered")
            if not ledger.list_series(text=sending.uid):
                total.faults.append(f"{sending.uid}: unknown, {len(sending.answered)} answered")
                continue
            details = ledger.details(sending.uid)
            total.faults += _lost(site, sending, ledger) + _wrong(site, details, in_pacs)
            total.revisions += details.series.revision - 1
            known |= {result.sop_instance_uid for result in details.results}
    total.results = len(known)
    total.faults += [f"{uid}: in the PACS, not in the ledger" for uid in in_pacs.keys() - known]
    return total


def _lost(site: Site, sending: Sending, ledger: Ledger) -> list[str]:
    """Answered instances that are not in the archive as they were sent."""
    kept = {record.sop_instance_uid: record for record in ledger.current_instances(sending.uid)}
    faults = []
    for path in sorted(sending.answered):
        sent = pydicom.dcmread(path)
        record = kept.get(str(sent.SOPInstanceUID))
        archived = site.node.state_dir / "archive" / record.path if record else None
        if archived is None or not archived.is_file() or pydicom.dcmread(archived) != sent:
            faults.append(f"{sending.uid}: answered instance {path.name} is lost")
    return faults


def _wrong(site: Site, details: SeriesDetails, in_pacs: dict[str, Any]) -> list[str]:
    """What is wrong with the results of one series."""
    uid, faults = details.series.series_uid, []
    if details.series.state is not SeriesState.DELIVERED:
        faults.append(f"{uid}: {details.series.state}: {details.series.reason}")
    current = [result for result in details.results if result.current]
    kinds = sorted(result.kind for result in current)
    if len(set(kinds)) < len(kinds) or not {"sr", "picture"} <= set(kinds):
        faults.append(f"{uid}: current results are {kinds}")
    states = {row.state for row in details.deliveries if row.current}
    if states != {DeliveryState.COMMITTED}:
        faults.append(f"{uid}: deliveries are {sorted(states)}")
    for result in current:
        kept = pydicom.dcmread(site.node.state_dir / "results" / result.path)
        if in_pacs.get(result.sop_instance_uid) != kept:
            faults.append(f"{uid}: {result.kind} is not in the PACS as it was made")
    return faults


def manner_of(chance: random.Random) -> str:
    """How the next sender behaves."""
    return chance.choice(MANNERS)
