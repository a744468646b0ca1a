"""How fast a CT series is received: this node beside pynetdicom and dcmtk, same data, same sender, same run.

    python benchmarks/reception.py [--instances 300] [--runs 5] [--folder /somewhere/on/the/disk]

Every receiver is a process of its own; dcmtk's dcmsend sends, on one association and on four at once. Rivals take
turns within each run, so that a busy machine is busy for all. "durable" means: written, synced and renamed into
place before the instance is answered. TCP_NODELAY is set in dcmsend and storescp, which are many times slower
without it; the last column leaves dcmsend as it comes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.config import parse
from dicom_node.part10 import FileMeta
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool

DCMSEND, STORESCP = "/usr/bin/dcmsend", "/usr/bin/storescp"
AE_TITLE = "BENCH"
NODELAY = {**os.environ, "TCP_NODELAY": "1"}
NAGLE = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}


def write_series(folder: Path, instances: int) -> int:
    """A series of 512 × 512 × 16 bit of noise; returns its size in bytes."""
    rng = np.random.default_rng(0)
    study_uid, series_uid = generate_uid(), generate_uid()
    for number in range(instances):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
        ds.Modality, ds.PatientID, ds.PatientName, ds.InstanceNumber = "CT", "BENCH", "Bench^Mark", number + 1
        ds.Rows = ds.Columns = 512
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 1, 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.PixelData = rng.integers(-1024, 3071, (512, 512), np.int16).tobytes()
        ds.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return sum(path.stat().st_size for path in folder.iterdir())


def serve_dicomnode(folder: Path) -> None:
    """This node's receiver."""
    config = parse({"node": {"state_dir": str(folder), "port": 0, "ae_title": AE_TITLE}})
    receiver = Receiver(config, Spool(folder, config.reception.min_free_disk_mb << 20), lambda _: None)
    print(receiver.start(), flush=True)
    sys.stdin.read()
    receiver.stop()


def serve_pynetdicom(folder: Path, handler: Callable[[evt.Event], int]) -> None:
    """pynetdicom's own server, its PDU size as large as ours."""
    ae = AE(AE_TITLE)
    ae.maximum_pdu_size = 1 << 20
    ae.add_supported_context(CTImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handler)])
    assert isinstance(server, ThreadedAssociationServer)
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    server.shutdown()


def serve_pynetdicom_saving(folder: Path) -> None:
    """As its documentation shows: decode, and save the data set."""

    def save(event: evt.Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        ds.save_as(folder / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    serve_pynetdicom(folder, save)


def serve_pynetdicom_spooling(folder: Path) -> None:
    """With this node's spool: as durable, so that only the receivers differ."""
    spool = Spool(folder)

    def keep(event: evt.Event) -> int:
        request = event.request
        meta = FileMeta(
            CTImageStorage, request.AffectedSOPInstanceUID, event.context.transfer_syntax, "X", "127.0.0.1"
        )
        spool.write(meta, request.DataSet.getvalue())
        return 0x0000

    serve_pynetdicom(folder, keep)


SERVERS: dict[str, Callable[[Path], None]] = {
    "dicomnode": serve_dicomnode,
    "pynetdicom, same spool": serve_pynetdicom_spooling,
    "pynetdicom, ds.save_as": serve_pynetdicom_saving,
}
DCMTK = "dcmtk storescp --fork"
DURABLE = {"dicomnode", "pynetdicom, same spool"}


@contextmanager
def receiver(name: str, folder: Path) -> Iterator[int]:
    """Run a receiver; gives its port."""
    folder.mkdir()
    if name == DCMTK:
        with socket.create_server(("127.0.0.1", 0)) as probe:  # storescp takes no port 0
            port = int(probe.getsockname()[1])
        command = [STORESCP, "--fork", "-aet", AE_TITLE, "-pdu", "131072", "-od", str(folder), str(port)]
        process = subprocess.Popen(command, env=NODELAY, stdin=subprocess.PIPE)
        wait_for(port, process)
    else:
        command = [sys.executable, __file__, "--serve", name, "--folder", str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = int(process.stdout.readline())
    try:
        yield port
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until a receiver answers a C-ECHO."""
    echo = ["/usr/bin/echoscu", "-aec", AE_TITLE, "127.0.0.1", str(port)]
    while subprocess.run(echo, stderr=subprocess.DEVNULL, check=False).returncode:
        if process.poll() is not None:
            raise SystemExit(f"storescp ended with {process.returncode}")
        time.sleep(0.05)


def send(port: int, parts: list[list[Path]], environment: dict[str, str]) -> float:
    """Seconds from the start of all senders to the end of the last; each must succeed."""
    options = ["-aec", AE_TITLE, "--max-send-pdu", "131072", "127.0.0.1", str(port)]
    start = time.perf_counter()
    senders = [subprocess.Popen([DCMSEND, *options, *map(str, part)], env=environment) for part in parts]
    for sender in senders:
        if sender.wait():
            raise SystemExit(f"dcmsend ended with {sender.returncode}")
    return time.perf_counter() - start


def received(folder: Path) -> int:
    """How many instances lie below a receiver's folder."""
    return sum(1 for path in folder.rglob("*") if path.is_file())


def measure(folder: Path, files: list[Path], runs: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by receiver and way of sending; the receivers take turns in every run."""
    ways = {
        "1 association": ([files], NODELAY),
        "4 at once": ([files[start::4] for start in range(4)], NODELAY),
        "1, Nagle on": ([files], NAGLE),
    }
    seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in ways} for name in (*SERVERS, DCMTK)}
    for _ in range(runs):
        for way, (parts, environment) in ways.items():
            for name in seconds:
                target = folder / "received"
                with receiver(name, target) as port:
                    seconds[name][way].append(send(port, parts, environment))
                    if received(target) != len(files):
                        raise SystemExit(f"{name} kept {received(target)} of {len(files)} instances")
    return seconds


def report(seconds: dict[str, dict[str, list[float]]], size: int, instances: int, runs: int) -> None:
    """The table: median seconds, and the range of the runs."""
    print(
        f"{instances} instances, {size / 1e6:.0f} MB, median (min-max) of {runs} runs, {os.cpu_count()} processors"
    )
    ways = list(next(iter(seconds.values())))
    print(f"{'receiver':26}{'durable':9}" + "".join(f"{way:>22}" for way in ways))
    for name, by_way in seconds.items():
        cells = (
            f"{statistics.median(values):.2f} s ({min(values):.2f}-{max(values):.2f})" for values in by_way.values()
        )
        print(f"{name:26}{'yes' if name in DURABLE else 'no':9}" + "".join(f"{cell:>22}" for cell in cells))


def main() -> None:
    """Measure, or serve as one of the receivers."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--instances", type=int, default=300)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    arguments.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.serve:
        SERVERS[options.serve](options.folder)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        source = Path(scratch) / "series"
        source.mkdir()
        size = write_series(source, options.instances)
        seconds = measure(Path(scratch), sorted(source.iterdir()), options.runs)
    report(seconds, size, options.instances, options.runs)


if __name__ == "__main__":
    main()
