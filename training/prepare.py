"""A cohort → arrays on disk that training maps: every case verified first, by any number of processes or hosts.

A case is prepared by the pipeline's own code and written whole or not at all, under a mark of its inputs, so that
an interrupted command goes on where it was. At most a few cases are on their way at a time: memory does not grow
with their number.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from dicom_node.errors import NodeError
from dicom_node.worker_pool import WorkerPool
from pipeline import __version__, preprocess
from pipeline.arrays import HuArray, LabelArray
from pipeline.lung_network import LungNetwork
from pipeline.lungs import MIN_LUNGS_ML, builtin
from pipeline.preprocess import Preprocessing
from pipeline.segment import Room
from training import cohort, images, lung_origin, prepared, verify
from training.cohort import Case
from training.data import LungSource
from training.errors import CohortError
from training.images import Image
from training.prepared import About, Entry

DEADLINE_S = 3600.0  # for one case
BATCH = 8  # slices per pass of the lung network
AHEAD = 2  # cases handed out per worker
VOLUME_SLICES = 10  # as many slices are a volume, in which lungs must be found


@dataclass(frozen=True)
class Lungs:
    """What finds the lungs, as training will be told.

    Attributes:
        origin: run or package that the network of the source "network" is taken from, None for the shipped package.
        network: what tells it from others (`LungOrigin.mark`), once `resolved`.
    """

    source: LungSource
    origin: Path | None = None
    network: str = ""

    def resolved(self) -> Lungs:
        """With the mark of the network, which every worker must find."""
        if self.source != "network":
            return self
        return replace(self, network=lung_origin.read(self.origin).mark)


@dataclass(frozen=True)
class Job:
    """One case, for a worker process. `mark` changes with everything that the arrays follow from."""

    case: Case
    out: Path
    preprocessing: Preprocessing
    lungs: Lungs
    mark: str


@dataclass(frozen=True)
class Done:
    """A prepared case, or why it is rejected."""

    entry: Entry | None
    rejected: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a cohort: cases by name, reasons by case, and how many were prepared already."""

    entries: Sequence[Entry]
    rejected: Mapping[str, str]
    kept: int


@contextmanager
def executor(workers: int, scheduler: str = "") -> Iterator[tuple[Executor, int]]:
    """Worker processes as the node uses them, or those of a dask.distributed scheduler; and how many there are.

    Raises:
        CohortError: dask.distributed is not installed, or the scheduler does not answer.
    """
    if scheduler:
        with _dask(scheduler) as made:
            yield made
        return
    pool = WorkerPool(workers, DEADLINE_S, partial(_warm_up, 1))
    try:
        yield pool, workers
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _dask(scheduler: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError as error:
        raise CohortError("a scheduler needs dask.distributed: pip install 'dicomnode[dask]'") from error
    try:
        client = Client(scheduler, timeout=30)
    except (OSError, ValueError) as error:
        raise CohortError(f"the scheduler {scheduler} does not answer: {error}") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise CohortError(f"the scheduler {scheduler} has no workers yet")
        yield client.get_executor(pure=False, retries=1), threads


def _warm_up(threads: int, _number: int) -> None:
    torch.set_num_threads(threads)


def prepare(
    folder: Path,
    out: Path,
    preprocessing: Preprocessing,
    lungs: Lungs,
    workers: tuple[Executor, int],
    on_done: Callable[[int, int], None] = lambda done, total: None,
    labels: str = "label",
) -> Outcome:
    """Prepare every case of a cohort that is fit for it; rejections are written to rejected.csv.

    Args:
        folder: the cohort.
        out: of the prepared cohort; what is there already and still fits is kept.
        preprocessing, lungs: as training will be told.
        workers: who does it, as `executor` gives them.
        on_done: told how many of how many cases are done.
        labels: folder of the labels beside ct/.

    Raises:
        CohortError: the cohort cannot be used, no case is fit, or `out` holds something else.
    """
    cases, lungs = cohort.read(folder, labels), lungs.resolved()
    about = About(
        cohort=str(folder.resolve()),
        preprocessing=preprocessing,
        lungs=lungs.source,
        lung_network=lungs.network,
        labels=labels,
        software=f"dicomnode {__version__}",
    )
    prepared.write_about(out, about)
    (out / prepared.CASES).unlink(missing_ok=True)  # until it is whole again
    done: dict[str, Done] = {}
    kept = 0
    for name, one, fresh in _all(cases, out, preprocessing, lungs, workers):
        done[name] = one
        kept += not fresh
        on_done(len(done), len(cases))
    entries, rejected = _sorted_out(done)
    _remove_others(out, entries)
    prepared.write_tables(out, entries, rejected)
    if not entries:
        raise CohortError(f"no case of {folder} is fit for training: see {out / prepared.REJECTED}")
    return Outcome(entries, rejected, kept)


def _all(
    cases: Sequence[Case],
    out: Path,
    preprocessing: Preprocessing,
    lungs: Lungs,
    workers: tuple[Executor, int],
) -> Iterator[tuple[str, Done, bool]]:
    """(case, outcome, whether it was made now) in the order in which they end; few are handed out at a time."""
    pool, number = workers
    running: dict[Future[Done], str] = {}
    try:
        for case in cases:
            job = Job(case, out, preprocessing, lungs, _mark(case, preprocessing, lungs))
            if (entry := _kept(job)) is not None:
                yield case.name, Done(entry), False
                continue
            while len(running) >= AHEAD * number:
                yield from _ended(running)
            running[pool.submit(prepare_case, job)] = case.name
        while running:
            yield from _ended(running)
    finally:
        for future in running:
            future.cancel()


def _ended(running: dict[Future[Done], str]) -> Iterator[tuple[str, Done, bool]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        name = running.pop(future)
        try:
            yield name, future.result(), True
        except _deaths() as error:  # or it took too long
            yield name, Done(None, f"its preparation was stopped: {error}"), True


def _deaths() -> tuple[type[Exception], ...]:
    """What is raised where a worker died; dask.distributed, where it is in use, has an exception of its own."""
    used = sys.modules.get("distributed")
    theirs: tuple[type[Exception], ...] = () if used is None else (used.KilledWorker,)
    return (NodeError, BrokenExecutor, CancelledError, MemoryError, *theirs)


def _mark(case: Case, preprocessing: Preprocessing, lungs: Lungs) -> str:
    paths = [case.image, case.label, case.lung if lungs.source == "cohort" else None]
    stamps = [images.stamp(path) if path is not None else "" for path in paths]
    facts = [
        *stamps,
        preprocessing.model_dump_json(),
        lungs.source,
        lungs.network,
        str((case.ggo, case.consolidation)),
        __version__,
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _kept(job: Job) -> Entry | None:
    notes = prepared.notes_of(prepared.arrays_file(job.out, job.case.name))
    if notes.get("mark") != job.mark:
        return None
    return Entry(job.case, int(notes["slices"]), notes["image_sha256"], notes["label_sha256"])


def prepare_case(job: Job) -> Done:
    """Verify a case, find its lungs, bring it to the network grid and write its arrays; in a worker process."""
    case = job.case
    try:
        image, label, drawn = verify.load(case)
        hu = np.clip(np.rint(image.array), -1024, 3071).astype(np.int16)
        lung = _lungs(job, hu, image, drawn)
    except CohortError as error:
        return Done(None, str(error))
    where = preprocess.plan(len(hu), image.spacing_mm[0], job.preprocessing)
    zeros = np.zeros(hu.shape, np.uint8)
    arrays = {
        "values": preprocess.values(hu, where, job.preprocessing),
        "label": preprocess.labels(
            zeros if label is None else label.array.astype(np.uint8), where, job.preprocessing
        ),
        "lung": preprocess.labels(zeros == 0 if lung is None else lung > 0, where, job.preprocessing),
        "spacing_mm": np.array(image.spacing_mm),
    }
    if label is not None:
        arrays |= {"source_hu": hu, "source_label": label.array.astype(np.uint8)}
        arrays |= {} if lung is None else {"source_lung": lung > 0}
    entry = Entry(case, where.count, images.digest(case.image), images.digest(case.label) if case.label else "")
    notes = {"mark": job.mark, "slices": str(entry.slices)}
    notes |= {"image_sha256": entry.image_sha256, "label_sha256": entry.label_sha256}
    prepared.write_arrays(prepared.arrays_file(job.out, case.name), arrays, notes)
    return Done(entry)


def _lungs(job: Job, hu: HuArray, image: Image, drawn: Image | None) -> LabelArray | None:
    """The lung mask that the setting wants; None for whole images."""
    if job.lungs.source == "none":
        return None
    if job.lungs.source == "cohort":
        if drawn is None:
            raise CohortError("there is no lung mask in lung/")
        return drawn.array.astype(np.uint8)
    network = _lung_network(job.lungs).finds if job.lungs.source == "network" else None
    mask = builtin(hu, image.spacing_mm, network)
    found_ml = np.count_nonzero(mask) * float(np.prod(image.spacing_mm)) / 1000
    if len(hu) >= VOLUME_SLICES and found_ml < MIN_LUNGS_ML:
        raise CohortError(f"no lungs found: {found_ml:.0f} ml, at least {MIN_LUNGS_ML:.0f} are needed")
    return mask


@cache
def _lung_network(lungs: Lungs) -> LungNetwork:
    """Once per process. Raises CohortError where this host has another network than the command."""
    found = lung_origin.read(lungs.origin)
    if found.mark != lungs.network:
        where = lungs.origin or "this worker's installation"
        raise CohortError(f"another lung network lies in {where} than the command found: make both the same")
    return found.ready(Room(torch.device("cpu"), BATCH))


def _sorted_out(done: Mapping[str, Done]) -> tuple[list[Entry], dict[str, str]]:
    """Fit cases by name, and reasons; of several cases with one image the first stays, unless labels disagree."""
    rejected = {name: one.rejected for name, one in done.items() if one.entry is None}
    found = sorted((one.entry for one in done.values() if one.entry is not None), key=lambda entry: entry.case.name)
    by_image: dict[str, list[Entry]] = {}
    for entry in found:
        by_image.setdefault(entry.image_sha256, []).append(entry)
    entries = []
    for same in by_image.values():
        first, *others = same
        said = {entry.case.consolidation for entry in same} - {None}
        if others and (len(said) > 1 or len({entry.label_sha256 for entry in same}) > 1):
            names = ", ".join(entry.case.name for entry in same)
            rejected |= {entry.case.name: f"one image with different labels: {names}" for entry in same}
            continue
        entries.append(first)
        rejected |= {entry.case.name: f"the same image as {first.case.name}" for entry in others}
    return sorted(entries, key=lambda entry: entry.case.name), rejected


def _remove_others(out: Path, entries: Sequence[Entry]) -> None:
    """Arrays of cases that are rejected now, or were interrupted."""
    wanted = {prepared.arrays_file(out, entry.case.name).name for entry in entries}
    folder = out / prepared.ARRAYS
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in wanted:
            with suppress(FileNotFoundError):
                path.unlink()
