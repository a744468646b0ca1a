"""Query and retrieve from a real PACS: what Orthanc lists, what it sends by C-MOVE, what it gives by C-GET."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node import config as configuration
from dicom_node import query, retrieve
from dicom_node.association_server import Answer
from dicom_node.config import Source
from dicom_node.errors import NodeError, TransientError
from dicom_node.part10 import FileMeta
from dicom_node.received import read
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from dicom_node.supported import KEPT_SOP_CLASSES, TRANSFER_SYNTAXES
from dicom_node.upper_layer import InstanceMemory
from tests.fixtures.ct import encode, slice_of
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.part10 import data_set_bytes

pytestmark = pytest.mark.pacs
NODE, LIMIT_S = "NODE", 30.0
CONTEXTS = [build_context(uid, syntax) for uid in KEPT_SOP_CLASSES for syntax in TRANSFER_SYNTAXES]


@pytest.fixture(scope="module")
def orthanc(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"), DicomAlwaysAllowGet=True, DicomAlwaysAllowMove=True)
    pacs.start()
    yield pacs
    pacs.kill()


@pytest.fixture
def source(orthanc: Orthanc) -> Source:
    return Source(**orthanc.destination(timeout_s=10.0))


class Series:
    """Four instances that the PACS has, one of them compressed."""

    def __init__(self, orthanc: Orthanc, folder: Path) -> None:
        self.study, self.uid = generate_uid(), generate_uid()
        self.data_sets: dict[str, bytes] = {}
        for number, syntax in enumerate([ExplicitVRLittleEndian] * 3 + [RLELossless]):
            ds = slice_of(number, SeriesInstanceUID=self.uid, StudyInstanceUID=self.study)
            ds.SOPInstanceUID = generate_uid()
            self.data_sets[ds.SOPInstanceUID] = encode(ds, syntax)
            meta = FileMeta(ds.SOPClassUID, ds.SOPInstanceUID, syntax, "CT1", "127.0.0.1")
            path = folder / str(number)
            path.write_bytes(meta.encode() + self.data_sets[ds.SOPInstanceUID])
            orthanc.upload(path)

    @property
    def uids(self) -> list[str]:
        return sorted(self.data_sets)


@pytest.fixture
def series(orthanc: Orthanc, tmp_path: Path) -> Series:
    return Series(orthanc, tmp_path)


@pytest.fixture
def spool(orthanc: Orthanc, tmp_path: Path) -> Iterator[Spool]:
    """Where our receiver keeps what comes; the PACS knows it as NODE."""
    config = configuration.parse(
        {
            "node": {"ae_title": NODE, "port": 0, "state_dir": str(tmp_path / "state")},
            "reception": {"calling_ae_titles": [orthanc.ae_title], "min_free_disk_mb": 0},
        }
    )
    spool = Spool(config.node.state_dir)
    receiver = Receiver(config, spool, lambda path: None)
    orthanc.know(NODE, receiver.start())
    yield spool
    receiver.stop()


def test_what_the_pacs_lists(source: Source, series: Series) -> None:
    (study,) = query.find_studies(source, {"StudyInstanceUID": series.study}, NODE)
    assert query.text(study, "PatientID") == "P1"
    (found,) = query.find_series(source, {"StudyInstanceUID": series.study}, NODE)
    assert query.text(found, "SeriesInstanceUID") == series.uid
    assert query.number(found, "NumberOfSeriesRelatedInstances") == 4
    images = query.find_images(source, series.study, series.uid, NODE)
    assert sorted(query.text(image, "SOPInstanceUID") for image in images) == series.uids


def test_moved_through_our_receiver(source: Source, series: Series, spool: Spool) -> None:
    requests = retrieve.identifiers(series.study, series.uid, series.uids[:2])
    assert retrieve.move(source, requests, NODE, NODE, LIMIT_S).completed == 2
    assert sorted(read(path).sop_instance_uid for path in spool.pending()) == series.uids[:2]


def test_a_whole_series_is_moved(source: Source, series: Series, spool: Spool) -> None:
    assert retrieve.move(source, retrieve.identifiers(series.study, series.uid), NODE, NODE, LIMIT_S).completed == 4
    assert {data_set_bytes(path.read_bytes()) for path in spool.pending()} == set(series.data_sets.values())
    assert {read(path).calling_ae for path in spool.pending()} == {source.ae_title}


def test_a_destination_that_the_pacs_does_not_know(source: Source, series: Series) -> None:
    with pytest.raises(NodeError, match="registered there as a destination of C-MOVE|knows no address of STRANGER"):
        retrieve.move(source, retrieve.identifiers(series.study, series.uid), NODE, "STRANGER", LIMIT_S)


def test_got_on_the_association_that_asks(source: Source, series: Series) -> None:
    kept: dict[str, bytes] = {}

    def keep(request: C_STORE, sop_class: str, transfer_syntax: str) -> Answer:
        assert request.DataSet is not None
        kept[str(request.AffectedSOPInstanceUID)] = request.DataSet.getvalue()
        return Answer(0x0000)

    requests = retrieve.identifiers(series.study, series.uid)
    memory = InstanceMemory(1 << 20, 1 << 20)
    retrieved = retrieve.get(source, requests, NODE, CONTEXTS, keep, memory, LIMIT_S)
    assert retrieved.completed == 4
    assert kept == series.data_sets


def test_a_get_that_the_pacs_does_not_allow(tmp_path: Path, tool: Callable[[str], str]) -> None:
    pacs = Orthanc(tmp_path / "strict", DicomAlwaysAllowGet=False)
    pacs.start()
    try:
        source = Source(**pacs.destination(timeout_s=10.0))
        requests = retrieve.identifiers("1.2", "1.2.3")
        with pytest.raises(TransientError, match="broke the retrieval off"):  # all that Orthanc says
            retrieve.get(source, requests, NODE, CONTEXTS, lambda *_: Answer(0), InstanceMemory(1, 1), LIMIT_S)
    finally:
        pacs.kill()
