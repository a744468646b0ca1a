"""Every kind of bad series, sent to one running node: each ends with a reason, and the next good one works."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from pipeline import phantom, phantom_series
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.served import Served, series_uid

Tool = Callable[[str], str]
SPEC = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)


def coronal(index: int, ds: Dataset) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    ds.ImagePositionPatient = [-180, 10 * index, 180]


def other_pixels_at_one_place(index: int, ds: Dataset) -> None:
    if index == 8 and ds.InstanceNumber % 2:
        ds.PixelData = bytes(len(ds.PixelData))


def another_size(index: int, ds: Dataset) -> None:
    if index == 5:
        ds.Rows = ds.Columns = 32
        ds.PixelData = ds.PixelData[: 32 * 32 * 2]


def truncated_pixels(index: int, ds: Dataset) -> None:
    if index == 3:
        ds.PixelData = ds.PixelData[:100]


def no_pixels(index: int, ds: Dataset) -> None:
    if index == 3:
        del ds.PixelData


def another_matrix_than_said(index: int, ds: Dataset) -> None:
    """Rows and Columns promise sixteen times the pixels that are there."""
    ds.Rows, ds.Columns = ds.Rows * 4, ds.Columns * 4


def a_bomb(index: int, ds: Dataset) -> None:
    ds.Rows = ds.Columns = 65535


@dataclass(frozen=True)
class Bad:
    """How a series is bad, and how it must end."""

    says: str
    state: str = "not_analysed"
    spec: phantom.PhantomSpec = SPEC
    options: Mapping[str, Any] = field(default_factory=dict)


BAD = {
    "localizer": Bad("LOCALIZER", options={"attributes": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}}),
    "secondary": Bad("SECONDARY", options={"attributes": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}}),
    "mpr": Bad("MPR", options={"attributes": {"ImageType": ["DERIVED", "PRIMARY", "MPR"]}}),
    "enhanced": Bad("Enhanced", options={"attributes": {"SOPClassUID": EnhancedCTImageStorage}}),
    "another modality": Bad("MR", options={"attributes": {"Modality": "MR"}}),
    "two slices": Bad("2 slices", spec=phantom.PhantomSpec(slices=2, rows=64, columns=64)),
    "coronal": Bad("axial", options={"edit": coronal}),
    "gaps": Bad("missing", state="incomplete", options={"drop": frozenset({6, 7})}),
    "two at one place": Bad(
        "lie where another one lies", options={"double": frozenset({8}), "edit": other_pixels_at_one_place}
    ),
    "mixed sizes": Bad("32", options={"edit": another_size}),
    "no position": Bad("ImagePositionPatient", options={"attributes": {"ImagePositionPatient": None}}),
    "no spacing": Bad("PixelSpacing", options={"attributes": {"PixelSpacing": None}}),
    "no rescale": Bad("Rescale", options={"attributes": {"RescaleIntercept": None, "RescaleSlope": None}}),
    "values beyond 16 bits": Bad("Hounsfield units", options={"attributes": {"RescaleSlope": "1000"}}),
    "no pixel data": Bad("Pixel Data", options={"edit": no_pixels}),
    "truncated pixel data": Bad("pixel", options={"edit": truncated_pixels}),
    "other matrix than said": Bad("pixel", options={"edit": another_matrix_than_said}),
    "a bomb": Bad("65535", options={"edit": a_bomb}),
    "not the chest": Bad(
        "HEAD",
        options={
            "attributes": {
                "BodyPartExamined": "HEAD",
                "SeriesDescription": "Brain",
                "StudyDescription": "CT head",
                "ProtocolName": "Head",
            }
        },
    ),
    "no lungs": Bad(
        "no lungs", options={"edit": lambda _index, ds: setattr(ds, "PixelData", bytes(len(ds.PixelData)))}
    ),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One node for all of them, without a destination: results stay in the state folder."""
    served = Served(
        tmp_path_factory.mktemp("node"),
        completion={"series_quiet_s": 0.3, "study_quiet_s": 0.3, "incomplete_after_s": 1.0},
        analysis={"device": "cpu"},
    )
    served.start()
    yield served
    assert served.stop() == 0


def send(dcmtk: Dcmtk, node: Served, folder: Path) -> str:
    done = dcmtk.dcmsend(node.port, [folder], "DICOMNODE")
    assert done.returncode == 0, done.stdout
    return series_uid(folder)


def test_every_bad_series_ends_with_its_reason_and_the_next_good_one_is_analysed(
    tmp_path: Path, dcmtk: Dcmtk, node: Served
) -> None:
    sent = {}
    for name, bad in BAD.items():
        folder = tmp_path / name.replace(" ", "-")
        phantom.write_series(phantom.make(bad.spec), folder, uid_seed=name, **bad.options)
        sent[name] = send(dcmtk, node, folder)
    endings = {name: node.settled(uid)["series"] for name, uid in sent.items()}
    wrong = {
        name: (ending["state"], ending["reason"])
        for name, ending in endings.items()
        if ending["state"] != BAD[name].state or BAD[name].says not in ending["reason"]
    }
    assert not wrong, "\n".join(f"{name}: {how}" for name, how in wrong.items())

    good = tmp_path / "good"
    phantom.write_series(phantom.make(SPEC), good, uid_seed="good")
    assert node.settled(send(dcmtk, node, good))["series"]["state"] == "analysed"


def test_what_dicom_cannot_carry_is_refused_with_words(tmp_path: Path, tool: Tool, node: Served) -> None:
    magnetic = tmp_path / "mr.dcm"
    ds = next(phantom_series.datasets(phantom.make(SPEC), phantom.SeriesOptions()))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.save_as(magnetic, enforce_file_format=True)
    target = ["127.0.0.1", str(node.port)]
    done = subprocess.run(
        [tool("/usr/bin/dcmsend"), "-v", "-aec", "DICOMNODE", *target, str(magnetic)],
        capture_output=True,
        text=True,
    )
    assert "NOT sent to the peer   : 1" in done.stderr and "no acceptable pres" in done.stderr
    wrong = subprocess.run([tool("/usr/bin/echoscu"), "-aec", "WRONG", *target], capture_output=True, text=True)
    assert wrong.returncode != 0
    assert "Called AE Title Not Recognized" in wrong.stderr


def test_a_wrong_config_and_missing_weights_are_told_at_once(tmp_path: Path) -> None:
    served = Served(tmp_path, lungs={"weights": str(tmp_path / "absent.pth")}, analysis={"model": str(tmp_path)})
    try:
        with pytest.raises(RuntimeError, match="absent.pth"):
            served.start()
    finally:
        served.kill()  # should it have started after all
    checked = served.command("check")
    assert checked.returncode == 2
    assert "analysis.model" in checked.stderr and "lungs.weights" in checked.stderr
