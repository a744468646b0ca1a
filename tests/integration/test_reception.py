"""Reception from dcmtk's senders, from many at once, and through kill -9."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MRImageStorage,
    RLELossless,
)

from dicom_node.spool import Spool
from tests.conftest import ROOT
from tests.fixtures.reception import (
    AE_TITLE,
    SECONDS,
    Node,
    calling,
    ct,
    data_set_bytes,
    encode,
    receiving,
    status,
    store,
    store_dataset,
)

pytestmark = pytest.mark.pacs
Tool = Callable[[str], str]
LOSSY = {JPEGLSNearLossless: 2, JPEG2000: 40}  # how far a pixel may be from its source

CONVERTERS: dict[str, tuple[str, ...]] = {
    ExplicitVRLittleEndian: ("/usr/bin/dcmconv", "+te"),
    ImplicitVRLittleEndian: ("/usr/bin/dcmconv", "+ti"),
    ExplicitVRBigEndian: ("/usr/bin/dcmconv", "+tb"),
    DeflatedExplicitVRLittleEndian: ("/usr/bin/dcmconv", "+td"),
    JPEGLosslessSV1: ("/usr/bin/dcmcjpeg", "+e1"),
    JPEGLossless: ("/usr/bin/dcmcjpeg", "+el"),
    JPEGLSLossless: ("/usr/bin/dcmcjpls", "+el"),
    JPEGLSNearLossless: ("/usr/bin/dcmcjpls", "+en", "+md", "2"),
    RLELossless: ("/usr/bin/dcmcrle",),
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with receiving(tmp_path / "state") as running:
        yield running


def write(folder: Path, name: str, ds: Dataset) -> Path:
    """A Part 10 file of a data set in Explicit VR Little Endian."""
    folder.mkdir(exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds["PixelData"].VR = "OW"
    path = folder / name
    ds.save_as(path, enforce_file_format=True)
    return path


def smooth(number: int) -> bytes:
    """128 × 128 unsigned pixels that every encoder takes, different for each number."""
    rows, columns = np.mgrid[0:128, 0:128]
    return (rows * 7 + columns * 3 + number * 11).astype(np.uint16).tobytes()


def convert(tool: Tool, syntax: str, source: Path, target: Path) -> None:
    """Encode a file anew: by dcmtk, and JPEG 2000, which it has not, by OpenJPEG."""
    if syntax in CONVERTERS:
        program, *options = CONVERTERS[syntax]
        subprocess.run([tool(program), *options, source, target], check=True, timeout=60)
        return
    ds = dcmread(source)
    ds.compress(syntax, generate_instance_uid=False, **({"j2k_cr": [4]} if syntax == JPEG2000 else {}))
    ds.save_as(target, enforce_file_format=True)


def send(
    tool: Tool, node: Node, *files: Path, program: str = "/usr/bin/dcmsend", options: tuple[str, ...] = ()
) -> str:
    """What a dcmtk sender says; it must end with success."""
    command = [tool(program), "-v", "-aec", AE_TITLE, *options, "127.0.0.1", str(node.port), *map(str, files)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True)
    return done.stdout + done.stderr


def test_echoscu(tool: Tool, node: Node) -> None:
    assert "Received Echo Response (Success)" in send(tool, node, program="/usr/bin/echoscu")


def test_dcmsend_in_every_transfer_syntax(tool: Tool, node: Node, tmp_path: Path) -> None:
    """Real code streams, sent as they are: kept so, and they decode to their source."""
    syntaxes: dict[str, str] = {}
    pixels: dict[str, bytes] = {}
    (tmp_path / "out").mkdir()
    for number, syntax in enumerate((*CONVERTERS, JPEG2000Lossless, JPEG2000)):
        ds = ct(size=128, PixelRepresentation=0, PixelData=smooth(number))
        source = write(tmp_path / "in", f"{number}.dcm", ds)
        convert(tool, syntax, source, tmp_path / "out" / source.name)
        converted = dcmread(tmp_path / "out" / source.name)
        assert converted.file_meta.TransferSyntaxUID == syntax
        # dcmsend proposes what is uncompressed in one context, and converts to our choice
        converts = syntax in {ImplicitVRLittleEndian, ExplicitVRBigEndian}
        syntaxes[str(converted.SOPInstanceUID)] = ExplicitVRLittleEndian if converts else syntax
        pixels[str(converted.SOPInstanceUID)] = smooth(number)
    send(tool, node, *(tmp_path / "out").iterdir(), options=("-dn",))
    received = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, node.spool.pending())}
    assert {uid: ds.file_meta.TransferSyntaxUID for uid, ds in received.items()} == syntaxes
    for uid, ds in received.items():
        difference = ds.pixel_array.astype(int) - np.frombuffer(pixels[uid], np.uint16).reshape(128, 128)
        assert np.abs(difference).max() <= LOSSY.get(syntaxes[uid], 0), syntaxes[uid]


def test_storescu(tool: Tool, node: Node, tmp_path: Path) -> None:
    path = write(tmp_path, "ct.dcm", ct())
    send(tool, node, path, program="/usr/bin/storescu", options=("-aet", "SCANNER"))
    (kept,) = node.spool.pending()
    assert dcmread(kept) == dcmread(path)
    assert dcmread(kept).file_meta.SourceApplicationEntityTitle == "SCANNER"


@pytest.mark.parametrize(("mode", "sent"), [("refuse", 1), ("ignore", 2)])
def test_a_study_with_other_modalities(tool: Tool, tmp_path: Path, mode: str, sent: int) -> None:
    write(tmp_path / "study", "1.dcm", ct())
    write(tmp_path / "study", "2.dcm", ct(SOPClassUID=MRImageStorage))
    with receiving(tmp_path / "state", other_modalities=mode) as node:
        said = send(tool, node, *(tmp_path / "study").iterdir(), options=("-nh",))
        assert f"with status SUCCESS  : {sent}" in said
        assert len(node.received()) == 1


@pytest.mark.data
def test_a_real_series(tool: Tool, node: Node, shared_data: Path) -> None:
    sent = {ds.SOPInstanceUID: ds for ds in map(dcmread, (shared_data / "ct/siemens-a0002-b40f").iterdir())}
    send(tool, node, *(shared_data / "ct/siemens-a0002-b40f").iterdir())
    received = {ds.SOPInstanceUID: ds for ds in map(dcmread, node.spool.pending())}
    assert received == sent
    assert node.ended.get(timeout=SECONDS) == {next(iter(sent.values())).SeriesInstanceUID}


def test_one_series_over_several_associations_and_several_series_over_each(node: Node) -> None:
    """Six senders, three series, interleaved; one refused instance in each association."""
    series = ["1.2.1", "1.2.2", "1.2.3"]

    def sender(number: int) -> dict[str, bytes]:
        sent = {}
        with calling(node, calling_ae=f"CT{number}") as assoc:
            for place in range(12):
                ds = ct(SeriesInstanceUID=series[(number + place) % 3], InstanceNumber=place)
                sent[str(ds.SOPInstanceUID)] = encode(ds)
                assert status(store_dataset(assoc, ds)) == 0x0000
            assert status(store(assoc, b"not a data set", "1.2.3")) == 0xC000
        return sent

    with ThreadPoolExecutor(6) as pool:
        sent = {uid: data for part in pool.map(sender, range(6)) for uid, data in part.items()}
    received = {dcmread(path).SOPInstanceUID: data_set_bytes(path) for path in node.spool.pending()}
    assert received == sent
    assert len(node.stored) == len(sent) == 72
    assert [node.ended.get(timeout=SECONDS) for _ in range(6)] == [set(series)] * 6


@pytest.mark.parametrize("kill_after", [1, 10, 40])
def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path, kill_after: int) -> None:
    state = tmp_path / "state"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fixtures.reception", state],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    sent: dict[str, bytes] = {}
    answered: list[str] = []
    enough = threading.Event()

    def sender() -> None:
        with calling(Node(None, port, None)) as assoc:  # type: ignore[arg-type]
            while assoc.is_established:
                ds = ct(size=256)
                sent[str(ds.SOPInstanceUID)] = encode(ds)
                response = store_dataset(assoc, ds)
                if response is None:
                    return
                assert response.Status == 0x0000
                answered.append(str(ds.SOPInstanceUID))
                if len(answered) >= kill_after:
                    enough.set()

    threads = [threading.Thread(target=sender) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    process.kill()
    process.wait(SECONDS)
    for thread in threads:
        thread.join(60)
    spool = Spool(state)
    spool.remove_leftovers()
    kept = {str(dcmread(path).SOPInstanceUID): data_set_bytes(path) for path in spool.pending()}
    assert set(answered) <= set(kept)
    assert all(sent[uid] == data for uid, data in kept.items())  # whole, whether answered or not
    assert list(spool.partial.iterdir()) == []
