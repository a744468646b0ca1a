"""A cohort from a real PACS: found by C-FIND, CT by C-MOVE into a node, drawings and reports by C-GET."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner, Result

from dicom_node import config as configuration
from dicom_node.ingest import Ingest
from dicom_node.ledger import Ledger
from dicom_node.receiver import Receiver
from dicom_node.spool import Spool
from pipeline import phantom
from tests.fixtures import drawings, studies
from tests.fixtures.orthanc import Orthanc
from training import cli, cohort, images

pytestmark = pytest.mark.pacs
KINDS = {"one": "both", "two": "ggo", "three": "healthy"}
REPORTS = {
    "one": "Consolidation in the right lower lobe.",
    "two": "Ground-glass opacities. No consolidation.",
    "three": "The lungs are clear, no consolidation or ground-glass opacity.",
}


@pytest.fixture(scope="module")
def orthanc(tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Three chest studies with reports, drawings of the first, and a study of another body part."""
    tool("/usr/sbin/Orthanc")
    folder = tmp_path_factory.mktemp("world")
    for name, kind in KINDS.items():
        ct = studies.ct(folder / name, name, kind)
        studies.report(ct, REPORTS[name], folder / name / "sr.dcm", history="Consolidation?")
        if name == "one":
            lesions = studies.chest(kind).lesions
            masks = {"GGO": lesions.ggo, "consolidation": lesions.consolidation}
            drawings.as_rt_struct(ct, masks, folder / name / "rt.dcm")
    head = {"PatientID": "head", "BodyPartExamined": "HEAD"}
    phantom.write_series(studies.chest("healthy"), folder / "head", uid_seed="head", attributes=head)
    pacs = Orthanc(tmp_path_factory.mktemp("orthanc"), DicomAlwaysAllowGet=True, DicomAlwaysAllowMove=True)
    pacs.start()
    for path in folder.rglob("*.dcm"):
        pacs.upload(path)
    yield pacs
    pacs.kill()


@pytest.fixture
def config(orthanc: Orthanc, tmp_path: Path) -> Iterator[Path]:
    """The reception of a node that runs, and its config.toml."""
    content = {
        "node": {"state_dir": str(tmp_path / "state"), "ae_title": "NODE", "port": 0},
        "reception": {"min_free_disk_mb": 0},
        "sources": [orthanc.destination()],
    }
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(content))
    settings = configuration.load(path)
    spool = Spool(settings.node.state_dir, 0)
    ledger = Ledger(settings.database_url)
    ingest = Ingest(spool, ledger, lambda: datetime.now(UTC))
    receiver = Receiver(settings, spool, ingest.submit)
    ingest.start()
    orthanc.know("NODE", receiver.start())
    yield path
    receiver.stop()
    ingest.stop()
    ledger.close()


def command(out: Path, config: Path, *more: str) -> Result:
    arguments = [
        "cohort",
        str(out),
        "--pacs",
        "pacs",
        "--config",
        str(config),
        "--body-part",
        "CHEST",
        "--rate",
        "0",
    ]
    return CliRunner().invoke(cli.app, [*arguments, *more])


def change_source(config: Path, **changes: Any) -> None:
    content = tomllib.loads(config.read_text())
    content["sources"][0] |= changes
    config.write_text(tomli_w.dumps(content))


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_cohort_comes_from_the_pacs_and_goes_on_where_it_was(
    config: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    out = tmp_path / "cohort"
    first = command(out, config, "--limit", "1")
    assert first.exit_code == 0, first.output
    assert len(cohort.read(out)) == 1
    assert "more than 1 studies match" in first.output
    done = command(out, config)
    assert done.exit_code == 0, done.output
    assert "studies match" not in done.output
    found = {row["accession"]: row for row in table(out / "cases.csv")}
    assert {name: found[f"A-{name}"]["consolidation"] for name in KINDS} == {"one": "1", "two": "0", "three": "0"}
    assert {name: found[f"A-{name}"]["ggo"] for name in KINDS} == {"one": "1", "two": "1", "three": "0"}
    assert found["A-two"]["consolidation_sentence"] == "No consolidation."
    fetched = table(out / "retrieval.csv")
    assert {row["state"] for row in fetched} == {"here"}
    assert sorted(row["modality"] for row in fetched) == ["CT", "CT", "CT", "RTSTRUCT", "SR", "SR", "SR"]
    (labelled,) = [case for case in cohort.read(out) if case.label is not None]
    assert labelled.label is not None
    truth = studies.chest("both").lesions
    np.testing.assert_array_equal(
        images.load(labelled.label).array, truth.infection.astype(int) + truth.consolidation
    )
    before = len(orthanc.changes())
    assert command(out, config).exit_code == 0
    assert len(orthanc.changes()) == before


def test_a_source_or_pacs_that_is_not_there_is_an_error(config: Path, tmp_path: Path) -> None:
    arguments = ["cohort", str(tmp_path / "out"), "--pacs", "other", "--config", str(config)]
    assert "has no source 'other' (known: pacs)" in str(CliRunner().invoke(cli.app, arguments).exception)
    change_source(config, port=1, timeout_s=2.0)
    done = command(tmp_path / "out", config)
    assert done.exit_code != 0
    assert "127.0.0.1" in str(done.exception)
    assert not (tmp_path / "out" / "cases.csv").exists()


def test_a_source_that_gives_needs_no_node(config: Path, tmp_path: Path) -> None:
    change_source(config, retrieve="get")
    done = command(tmp_path / "out", config, "--until", "20200315")
    assert done.exit_code == 0, done.output
    assert len(cohort.read(tmp_path / "out")) == 3
    assert command(tmp_path / "none", config, "--since", "20210101").exit_code == 0
    assert not (tmp_path / "none" / "cases.csv").exists()
