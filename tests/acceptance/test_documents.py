"""Every command in README and docs is run as it stands there, or stands in a table with the reason why not."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pydicom
import pytest

from pipeline import package
from tests.fixtures import not_run, small_training
from tests.fixtures.documents import ROOT, Machine, Shown, blocks, inline
from tests.fixtures.drawings import as_seg
from tests.fixtures.not_run import NotRun, why_not
from tests.fixtures.orthanc import Orthanc, free_port
from tests.fixtures.postgres import Server
from tests.fixtures.served import Served, series_uid
from tests.fixtures.studies import ct

BLOCKS = list(blocks())
OF_TRAINING = ("docs/training.md", "docs/results.md")  # pages whose commands need no node and no PACS


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], str]) -> Iterator[Orthanc]:
    tool("/usr/sbin/Orthanc")
    server = Orthanc(tmp_path_factory.mktemp("pacs"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc) -> Iterator[Served]:
    """A node with the PACS as destination and source; config.toml of the pages is its config."""
    source = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
    node = Served(tmp_path_factory.mktemp("node"), [orthanc.destination()], analysis={"device": "cpu"})
    node.config["sources"] = [{**source, "retrieve": "get"}]
    orthanc.know("DICOMNODE", node.start())
    yield node
    node.kill()


@pytest.fixture(scope="module")
def machine(
    tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc, served: Served, postgres: Server
) -> Iterator[Machine]:
    """A clone of the repository with a wheel in dist/, a CT series with drawing and report, data to train on."""
    root = tmp_path_factory.mktemp("machine")
    environment = {"DICOMNODE_CONFIG": str(served.path), "PGHOST": str(postgres.folder), "PGUSER": "dicomnode"}
    found = Machine(root, {**environment, **small_training.LOOPBACK})
    small_training.program(root / "bin" / "dicomnode-train", ROOT)
    small_training.write_data(found.here)
    small_training.write_checkpoints(found.here)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", found.here / "dist", ROOT], check=True)
    study = _archive(found, orthanc)
    venv = root / "opt" / "dicomnode"
    site = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages/dependencies.pth"
    found.values = {
        rf"(?<!> ){root}/etc/dicomnode/config\.toml": str(served.path),
        r"^python3 -m venv (\S+)$": f"python3 -m venv {venv} && echo {sysconfig.get_path('purelib')} > {site}",
        r"127\.0\.0\.1:8042": f"127.0.0.1:{orthanc.http_port}",
        r"-d STUDY$": f"-d {study}",
        r"pip install (dist/\S+)": r"pip install --no-deps --no-index dist/*.whl",
        r"pip install torch": "pip install --no-deps --no-index torch",  # is in reach: the version is looked at
        r"--jobs 8": "--jobs 1",
        r"^\.venv/bin/dicomnode-train": "dicomnode-train",
        **_of_several_hosts(),
        **_placeholders(found.here / "CT"),
    }
    postgres.run("CREATE DATABASE dicomnode")
    found.ahead(shown.text for shown in not_run.of_blocks() if shown.page in OF_TRAINING)
    yield found
    found.close()
    postgres.run("DROP DATABASE dicomnode WITH (FORCE)")


def _archive(machine: Machine, orthanc: Orthanc) -> str:
    """The CT in the PACS, whose name of the study this gives; below /data as files, with contours and a report."""
    data, here = machine.root / "data", machine.root / "data" / "export" / "CT"
    loaded = ct(here, "P1", "both")
    as_seg(loaded, {"infection": small_training.chest("both").lesions.infection}, data / "export" / "drawing.dcm")
    (data / "ct").symlink_to(here)
    (data / "reports").mkdir()
    (data / "reports" / "A-P1.txt").write_text("Findings: no consolidation.")
    for path in here.iterdir():
        orthanc.upload(path)
    for name in ("FILE", "image.dcm"):
        (machine.here / name).symlink_to(next(here.iterdir()))
    for name in ("CT", "DIR"):
        (machine.here / name).symlink_to(here)
    (study,) = orthanc.get("/studies")
    return str(study)


def _of_several_hosts() -> dict[str, str | Callable[[re.Match[str]], str]]:
    """Two processes in place of four a host; two hosts are two agents of torchrun that meet on loopback."""
    port = free_port()
    return {
        r"^(torchrun --standalone --nproc-per-node) 4": lambda found: f"{found[1]} 2",
        r"^torchrun --nnodes 2 --nproc-per-node 4 (.*) first-host:29400 (.*)$": lambda found: (
            f"agent() {{ torchrun --nnodes 2 --nproc-per-node 1 {found[1]} 127.0.0.1:{port} {found[2]}; }}; "
            "agent & agent && wait $!"
        ),
    }


def _placeholders(folder: Path) -> dict[str, str]:
    """What stands in the text for a name that the reader knows."""
    study = str(pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).StudyInstanceUID)
    return {
        r"(?<= show) UID$": f" {series_uid(folder)}",
        r"(?<=--study) UID$": f" {study}",
        r"(?<= show) 1\.2\.826\S+$": f" {series_uid(folder)}",
        r"\bA12345\b": "A-P1",
        r"FILE\.\.\.": "FILE",
        r"\bDEST\b": "pacs",
        r"\S+/data/my-package": "demo",
    }


@pytest.fixture(scope="module")
def followed(machine: Machine) -> Machine:
    """The machine of a reader who has done all that the blocks say; what tests have run is not run again."""
    _follow(machine, BLOCKS)
    return machine


def _follow(machine: Machine, read: Sequence[Sequence[Shown]]) -> None:
    for block in read:
        for shown in block:
            if why_not(shown, not_run.BLOCKS) is None:
                machine.run(shown.text)


@pytest.mark.parametrize(
    "number", range(len(BLOCKS)), ids=lambda number: f"{BLOCKS[number][0].page}:{BLOCKS[number][0].line}"
)
def test_a_block_of_a_page(machine: Machine, number: int) -> None:
    """After those that a reader meets before it."""
    _follow(machine, BLOCKS[:number])
    for shown in BLOCKS[number]:
        _run_or_look(machine, shown, not_run.BLOCKS)


def _run_or_look(machine: Machine, shown: Shown, table: Sequence[NotRun]) -> None:
    if (entry := why_not(shown, table)) is not None:
        return entry.instead(shown)
    done = machine.run(shown.text)
    assert done.returncode == 0, f"{shown}\n{machine.translated(shown.text)}\n{done.stdout}"
    return None


def test_what_installation_and_operation_made_is_there(followed: Machine, served: Served) -> None:
    """The blocks did what they say."""
    dependencies = next((followed.root / "opt/dicomnode/lib").glob("python*/site-packages"))
    assert list(dependencies.glob("dicomnode-*.dist-info"))
    assert (followed.root / "etc/dicomnode/config.toml").read_text() == (ROOT / "config.toml").read_text()
    assert "dicomnode" in (followed.root / "etc/passwd").read_text()
    assert (followed.root / "var/lib/dicomnode").stat().st_mode & 0o777 == 0o700
    assert (followed.here / "RESULTS" / "picture.png").is_file()
    assert (followed.root / "var/backups/dicomnode.dump").stat().st_size > 0
    assert served.show(series_uid(followed.here / "CT")) is not None  # Orthanc has sent it


@pytest.mark.parametrize(
    "run", ["lungs", "volumes", "unet1", "unet2", "volumes-whole", "archive", "one-host", "two-hosts"]
)
def test_a_run_has_its_weights_and_its_log(followed: Machine, run: str) -> None:
    folder = followed.here / "runs" / run
    assert (folder / "network.safetensors").stat().st_size > 0
    assert [row["epoch"] for row in csv.DictReader((folder / "log.csv").open())] == ["1"]


def test_two_hosts_train_what_one_trains(followed: Machine) -> None:
    """Two processes each; the sums of a batch are those of all of them."""
    one, two = (
        [float(row["loss"]) for row in csv.DictReader((followed.here / "runs" / name / "log.csv").open())]
        for name in ("one-host", "two-hosts")
    )
    assert two == pytest.approx(one, rel=0.01)


def test_cross_validation_scores_every_case(followed: Machine) -> None:
    metrics = json.loads((followed.here / "runs/crossval/metrics.json").read_text())
    assert {metrics[name]["cases"] for name in ("infection", "threshold", "split-whole")} == {6}


def test_the_packages_load(followed: Machine) -> None:
    demo, toy = (package.load(followed.here / folder) for folder in ("demo", "first-hour/package"))
    assert (demo.identity.name, toy.identity.name) == ("demo", "toy")
    assert (demo.lungs is None, toy.lungs is None) == (False, True)
    assert (followed.here / "demo" / "LICENSE-MODEL").is_file()
    assert [len(demo.manifest.training.stories), demo.unet1.arch.features] == [3, 16]
    for folder in ("published", "published-two"):
        published = package.load(followed.here / folder)
        assert published.identity.name == "published"


@pytest.mark.parametrize("folder", ["evaluation", "build/results/medseg-train", "first-hour/evaluation"])
def test_an_evaluation_has_a_page_and_every_number(followed: Machine, folder: str) -> None:
    made = followed.here / folder
    assert "</html>" in (made / "evaluation.html").read_text()
    assert json.loads((made / "metrics.json").read_text())["severity"]["cases"] >= 3
    assert (made / "cases.csv").is_file()


def test_a_cohort_has_its_case_once_with_drawing_and_report(followed: Machine) -> None:
    (row,) = csv.DictReader((followed.here / "COHORT" / "cases.csv").open())
    assert (row["drawn"], row["consolidation"]) == ("infection", "0")
    assert len(list((followed.here / "PREPARED" / "arrays").iterdir())) == 1


@pytest.mark.parametrize("shown", list(inline()), ids=str)
def test_a_command_within_the_text(followed: Machine, shown: Shown) -> None:
    _run_or_look(followed, shown, not_run.TEXT)


def test_the_table_of_what_is_not_run_is_in_contributing() -> None:
    page = not_run.PAGE.read_text(encoding="utf-8")
    assert page == not_run.written(page), "run python -m tests.fixtures.not_run"
    assert not_run.tables() in page


def test_every_exception_is_needed_and_the_share_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        for place, commands, table in (
            ("blocks", not_run.of_blocks(), not_run.BLOCKS),
            ("text", list(inline()), not_run.TEXT),
        ):
            found = [why_not(shown, table) for shown in commands]
            assert set(table) <= set(found), "an exception that nothing needs"
            print(f"of {len(found)} commands in {place} {found.count(None)} are run")
