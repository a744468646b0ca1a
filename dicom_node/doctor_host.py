"""What `dicomnode doctor` finds on this machine: files, disk, clock, database, device, model, speed."""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import certificates, worker
from dicom_node.config import Config
from dicom_node.errors import ConfigError, NodeError, TransientError
from dicom_node.findings import Finding, fault, ok, remark
from dicom_node.ledger import Ledger
from dicom_node.ledger_database import open_engine
from dicom_node.result_file import Quarantine
from dicom_node.retention import Disk
from dicom_node.states import SeriesState
from dicom_node.worker_pool import WorkerPool
from pipeline import package, phantom
from pipeline.errors import PipelineError
from pipeline.lung_builtin import METHOD, NETWORK_METHOD
from pipeline.types import AnalysisOutcome, AnalysisRequest

CLOCK_TOLERANCE = timedelta(seconds=10)
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph", "glusterfs"})
MIN_FREE_FILES = 100_000
SLOW_DATABASE_S = 1.0
FAIR = 0.5  # a severity score of the synthetic chest that is wrong by more than this share is worth a look


def state_folder(config: Config) -> Iterator[Finding]:
    """What keeps from looking into it; nothing where nothing does, or where it is not there yet."""
    state_dir = config.node.state_dir
    try:
        os.scandir(state_dir).close()
    except FileNotFoundError:
        return
    except PermissionError:
        yield fault(
            "state folder",
            f"this user may not look into {state_dir}: nothing can be said about the node",
            "ask as the service's user: `runuser -u dicomnode -- dicomnode doctor`",
        )
    except OSError as error:
        yield fault("state folder", f"{state_dir}: {error.strerror}", "look at the disk, and at the system's log")


def disk(config: Config) -> Iterator[Finding]:
    """Room, file entries, and whether the disk is one on which fsync means something."""
    state_dir = _existing(config.node.state_dir)
    found = Disk.of(config) if state_dir == config.node.state_dir else None
    check = "disk"
    if found is None:
        yield remark(check, f"{config.node.state_dir} is not there yet", "start `dicomnode serve` once")
    elif found.low:
        yield fault(
            check,
            f"{found}: nothing is received",
            "make room: `dicomnode purge`, shorter times in [retention], or a larger disk",
        )
    elif found.short:
        yield remark(check, f"{found}", "soon nothing will be received: `dicomnode purge`, or a larger disk")
    else:
        yield ok(check, f"{found}")
    usage = os.statvfs(state_dir)
    if usage.f_files and usage.f_favail < MIN_FREE_FILES:
        yield fault(check, f"only {usage.f_favail} more files fit on it", "a file system with more inodes")
    kind = file_system(state_dir, Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    if kind in NETWORK_FILE_SYSTEMS and config.node.database is None:
        yield fault(
            check,
            f"{state_dir} is on a network file system ({kind}), where SQLite loses data",
            "put node.state_dir on a local disk, or the ledger into PostgreSQL (node.database)",
        )


def file_system(folder: Path, mounts: str) -> str:
    """Type of the file system that holds the folder, by the lines of /proc/self/mountinfo (proc(5))."""
    kinds = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kinds[Path(before.split()[4].replace("\\040", " "))] = after.split()[0]
    resolved = folder.resolve()
    return next((kinds[place] for place in (resolved, *resolved.parents) if place in kinds), "")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def clock(config: Config, now: datetime) -> Iterator[Finding]:
    """Whether the system keeps it right, and whether it agrees with the ledger and the database."""
    check, before = "clock", ok("clock", f"{now.astimezone():%Y-%m-%d %H:%M:%S %Z}, kept right by a time service")
    if not synchronised():
        before = remark(
            check,
            f"{now.astimezone():%Y-%m-%d %H:%M:%S %Z}; no time service keeps it right",
            "run chrony or systemd-timesyncd: result times and certificates depend on it",
        )
    yield before
    try:
        last, theirs = _ledger_times(config)
    except (NodeError, SQLAlchemyError):
        return  # said by `database`
    if last is not None and last > now + CLOCK_TOLERANCE:
        yield fault(
            check,
            f"the ledger has an event of {last.astimezone():%Y-%m-%d %H:%M:%S}, which is still to come",
            "the clock was set back: set it right, and keep it right with a time service",
        )
    if theirs is not None and abs(theirs - now) > CLOCK_TOLERANCE:
        yield fault(
            check,
            f"it differs by {abs(theirs - now).total_seconds():.0f} s from that of the database server",
            "give both machines the same time service",
        )


def synchronised() -> bool:
    """Whether the kernel has been told that the clock is right (adjtimex(2)); reading it needs no right."""
    state = ctypes.create_string_buffer(512)  # struct timex with modes = 0: only read
    libc = ctypes.CDLL(None)
    return 0 <= int(libc.adjtimex(state)) != TIME_ERROR


def _ledger_times(config: Config) -> tuple[datetime | None, datetime | None]:
    """Time of the newest event, and the present at the database server where there is one."""
    if not _has_ledger(config):
        return None, None
    with closing(Ledger(config.database_url, migrate=False)) as ledger:
        events = ledger.recent_events(1)
    if config.node.database is None:
        return (events[0].at if events else None), None
    engine = open_engine(config.database_url)
    try:
        with engine.connect() as connection:
            theirs = connection.execute(text("SELECT now()")).scalar_one()
    finally:
        engine.dispose()
    return (events[0].at if events else None), theirs.astimezone(UTC) if isinstance(theirs, datetime) else None


def _has_ledger(config: Config) -> bool:
    return config.node.database is not None or (config.node.state_dir / "ledger.sqlite").is_file()


def database(config: Config) -> Iterator[Finding]:
    """Whether it answers, with the schema of this software, and what it says about the work."""
    check = "database"
    if not _has_ledger(config):
        yield remark(check, "no ledger yet", "start `dicomnode serve` once: it makes one")
        return
    began = time.monotonic()
    try:
        with closing(Ledger(config.database_url, migrate=False)) as ledger:
            counts = ledger.counts()
    except TransientError as error:
        yield fault(check, str(error), "start the database, or correct node.database; the log of `serve` says more")
        return
    except ConfigError as error:
        yield fault(check, str(error), "correct it in config.toml")
        return
    except NodeError as error:
        yield fault(check, str(error), "Backup and Upgrade in docs/running.md say what to do")
        return
    took_s = time.monotonic() - began
    said = f"{sum(counts.values())} series; answers in {took_s * 1000:.0f} ms"
    yield ok(check, said) if took_s < SLOW_DATABASE_S else remark(check, said, "a faster disk or database server")
    if counts.get(SeriesState.FAILED):
        yield remark(
            "work",
            f"{counts[SeriesState.FAILED]} series have failed",
            "`dicomnode status --state failed` says why; afterwards `dicomnode retry UID`, or `cancel UID`",
        )
    quarantine = Quarantine.of(config.node.state_dir)
    where = f"each lies with its reason in {quarantine.folder}"
    if quarantine.received:
        yield remark("work", f"{quarantine.received} received files could not be read", where)
    if quarantine.results:
        yield remark("work", f"{quarantine.results} result objects failed a check and were not sent", where)


def files(config: Config, faults: list[str], now: datetime) -> Iterator[Finding]:
    """Folders, certificates, model and weights of config.toml; `faults` are those of `doctor.file_faults`."""
    for each in faults:
        yield fault("config", each, "correct config.toml or the file it names, then `dicomnode check`")
    for each in certificates.expiring(config, now):
        if not any(each in said for said in faults):
            yield remark("TLS", each, "renew it in time; docs/security.md says how")
    if not faults:
        yield ok("config", "what it names is there and can be used")


def model(config: Config) -> Iterator[Finding]:
    """Which networks and which lungs are used."""
    try:
        loaded = package.load(config.analysis.model)
    except PipelineError:
        return  # a fault of `files`
    name = f"{loaded.identity.name} {loaded.identity.version}"
    if config.analysis.model is None:
        yield remark(
            "weights",
            f"{name}: the networks are a demonstration",
            "train your own on patients of yours (docs/training.md), or read the model card before relying on it",
        )
    else:
        yield ok("weights", name)
    if config.lungs.weights is not None:
        yield ok("lungs", f"lungmask, {config.lungs.weights}")
    else:
        yield ok("lungs", METHOD if loaded.lungs is None else NETWORK_METHOD)


def device(config: Config) -> Iterator[Finding]:
    """Where the networks run."""
    import torch

    from pipeline import device as devices

    check = "device"
    try:
        chosen = devices.choose(config.analysis.device)
        precision = str(devices.precision(chosen)).removeprefix("torch.")
        if chosen.type == "cuda":
            free, total = torch.cuda.mem_get_info(chosen)
            name = torch.cuda.get_device_name(chosen)
            yield ok(check, f"{name}, {precision}, {free >> 20} of {total >> 20} MB free")
            return
    except RuntimeError as error:  # CUDA's: no memory left, another process has the device for itself, broken
        said = f"the GPU cannot be used: {str(error).partition(chr(10))[0]}"
        yield fault(check, said, "look what else runs there (nvidia-smi), and at the kernel's log (dmesg)")
        return
    except PipelineError as error:
        yield fault(check, str(error), "correct analysis.device, or install the driver and the CUDA build of torch")
        return
    there = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    said = f"CPU, {os.cpu_count()} cores, {precision}"
    if there and config.analysis.device == "auto":
        yield fault(
            check,
            f"{said}, although there is {', '.join(there)}",
            f"torch {torch.__version__} cannot use it: install its CUDA build and a driver that fits it",
        )
    else:
        yield ok(check, said)


def analysis(config: Config) -> Iterator[Finding]:
    """A synthetic chest through a worker process as `serve` has them: how long it takes, and whether it is seen."""
    check = "analysis"
    chest = phantom.make()
    truth = float((chest.lesions.infection & chest.lungs.both).sum() / chest.lungs.both.sum())
    pool = WorkerPool(1, config.analysis.deadline_s, partial(worker.warm_up, share_devices=False))
    try:
        with tempfile.TemporaryDirectory(prefix="dicomnode-doctor-") as name:
            folder = Path(name)
            paths = tuple(phantom.write_series(chest, folder / "ct", uid_seed="dicomnode doctor"))
            request = AnalysisRequest(
                paths, folder / "out", config.pipeline_settings, config.used_profiles, datetime.now().astimezone()
            )
            pool.submit(worker.warm_up, 0).result()  # a process that is up: `serve` has it before the first series
            began = time.monotonic()
            outcome: AnalysisOutcome = pool.submit(worker.analyse, request).result()
            took_s = time.monotonic() - began
    except (NodeError, PipelineError) as error:
        yield fault(check, f"a synthetic chest CT: {error}", "`dicomnode process DIR` shows the same in full")
        return
    finally:
        pool.shutdown(cancel_futures=True)
    found = outcome.report["severity_score"]
    said = f"a synthetic chest CT of {len(paths)} slices in {took_s:.1f} s, {len(outcome.objects)} objects"
    if found is None or abs(found - truth) > FAIR * truth:
        shown = "none" if found is None else f"{found:.1%}"
        yield remark(
            check,
            f"{said}; severity {shown} instead of {truth:.1%}",
            "this model or these lungs do not see what is there: `dicomnode demo`, then another model package",
        )
    else:
        yield ok(check, f"{said}; severity {found:.1%}, in truth {truth:.1%}")
