"""Every command in README and docs is run as it stands there, or stands in a table with the reason why not."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from dicom_node import cli
from pipeline import phantom
from tests.fixtures.documents import ROOT, Machine, Shown, blocks, inline
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.postgres import Server
from tests.fixtures.served import Served, series_uid
from training import cli as training_cli

SPEC = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)
APPS = {"dicomnode": cli.app, "dicomnode-train": training_cli.app}


def understood(shown: Shown) -> None:
    """Program, command and every option exist and take these values; nothing is carried out."""
    words = shlex.split(shown.text.replace(".venv/bin/", ""))
    while words[0] not in APPS:  # torchrun … dicomnode-train …
        words = words[1:]
    command: Any = typer.main.get_command(APPS[words[0]])
    name, words = words[0], words[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{shown}: no such command"
        name, command, words = words[0], command.commands[words[0]], words[1:]
    if not hasattr(command, "commands"):
        command.make_context(name, words).close()


def target(shown: Shown) -> None:
    """make knows what to do."""
    subprocess.run(["make", "-C", ROOT, "-n", shown.text.split()[1]], check=True, stdout=subprocess.DEVNULL)


def unit(shown: Shown) -> None:
    """Every unit that is named is one of ours; test_systemd.py has systemd read them."""
    for name in re.findall(r"dicomnode[\w.-]*", shown.text):
        file = name if "." in name else f"{name}.service"
        assert (ROOT / "systemd" / file).is_file(), f"{shown}: no such unit"


def pinned(shown: Shown) -> None:
    """The version is the one that the project is tested with."""
    assert shown.text.split()[-1] in (ROOT / "constraints.txt").read_text().split()


def packaging(shown: Shown) -> None:
    """scripts/deb.sh makes files of that name; test_deb.py builds, installs and removes one."""
    assert "dicomnode_${version}_${architecture}.deb" in (ROOT / "scripts" / "deb.sh").read_text()
    assert "dicomnode_" in shown.text


@dataclass(frozen=True)
class NotRun:
    """What is not run, what is looked at instead, and why."""

    pattern: str
    instead: Callable[[Shown], None]
    reason: str


NOT_RUN = (
    NotRun(r"^make test$", target, "it is what runs this test"),
    NotRun(r"^make deb$", target, "minutes of downloads and compression; test_deb.py runs its script"),
    NotRun(r"^apt install ", packaging, "changes the machine; test_deb.py installs below another root"),
    NotRun(r"pip install torch==", pinned, "a download of 200 MB"),
    NotRun(r"^systemctl ", unit, "needs a machine that systemd has started"),
    NotRun(
        r"^dicomnode-train (lungs|unet1|unet2|crossval|export) ", understood, "hours, on data that are not here"
    ),
    NotRun(r"(^|/)dicomnode-train demo( |$)", understood, "minutes of training; test_demo.py runs a tiny one"),
    NotRun(r"^dicomnode-train evaluate --cohort DATA", understood, "labelled data that are not here"),
    NotRun(r"^dicomnode-train import-published ", understood, "the authors' weights; test_published.py makes some"),
    NotRun(r"^torchrun ", understood, "several GPUs or hosts; test_distributed.py starts two processes"),
)
SHOWN = [shown for block in blocks() for shown in block]


def not_run(shown: Shown) -> NotRun | None:
    return next((entry for entry in NOT_RUN if re.search(entry.pattern, shown.text)), None)


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
    """A clone of the repository with a wheel in dist/, a CT series, reports; and the peers above."""
    root = tmp_path_factory.mktemp("machine")
    environment = {"DICOMNODE_CONFIG": str(served.path), "PGHOST": str(postgres.folder), "PGUSER": "dicomnode"}
    found = Machine(root, environment)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", found.here / "dist", ROOT], check=True)
    ct = found.here / "CT"
    phantom.write_series(phantom.make(SPEC), ct)
    (root / "data").mkdir()
    (root / "data" / "export").symlink_to(ct)
    (root / "data" / "reports").mkdir()
    venv = root / "opt" / "dicomnode"
    site = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages/dependencies.pth"
    for path in ct.iterdir():
        orthanc.upload(path)
    (study,) = orthanc.get("/studies")
    uid = orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
    (root / "data" / "reports" / f"{uid}.txt").write_text("Findings: no consolidation.")
    for name in ("FILE", "image.dcm"):
        (found.here / name).symlink_to(next(ct.iterdir()))
    (found.here / "DIR").symlink_to(ct)
    found.values = {
        rf"(?<!> ){root}/etc/dicomnode/config\.toml": str(served.path),
        r"^python3 -m venv (\S+)$": f"python3 -m venv {venv} && echo {sysconfig.get_path('purelib')} > {site}",
        r"127\.0\.0\.1:8042": f"127.0.0.1:{orthanc.http_port}",
        r"-d STUDY$": f"-d {study}",
        r"pip install (dist/\S+)": r"pip install --no-deps --no-index dist/*.whl",
        r"--jobs 8": "--jobs 1",
    }
    postgres.run("CREATE DATABASE dicomnode")
    yield found
    postgres.run("DROP DATABASE dicomnode WITH (FORCE)")


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: f"{block[0].page}:{block[0].line}")
def test_a_block_of_a_page(machine: Machine, block: list[Shown]) -> None:
    for shown in block:
        if (entry := not_run(shown)) is not None:
            entry.instead(shown)
            continue
        done = machine.run(shown.text)
        assert done.returncode == 0, f"{shown}\n{machine.translated(shown.text)}\n{done.stdout}"


def test_what_the_blocks_made_is_there(machine: Machine, served: Served) -> None:
    """They did what they say; runs after them."""
    dependencies = next((machine.root / "opt/dicomnode/lib").glob("python*/site-packages"))
    assert list(dependencies.glob("dicomnode-*.dist-info"))
    assert (machine.root / "etc/dicomnode/config.toml").read_text() == (ROOT / "config.toml").read_text()
    assert "dicomnode" in (machine.root / "etc/passwd").read_text()
    assert (machine.root / "var/lib/dicomnode").stat().st_mode & 0o777 == 0o700
    assert (machine.here / "RESULTS" / "picture.png").is_file()
    assert (machine.root / "var/backups/dicomnode.dump").stat().st_size > 0
    assert served.show(series_uid(machine.here / "CT")) is not None  # Orthanc has sent it


@pytest.mark.parametrize("shown", [each for each in inline() if "…" not in each.text], ids=str)
def test_commands_within_the_text_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: Shown
) -> None:
    """Their placeholders are files and folders where that is asked for."""
    monkeypatch.chdir(tmp_path)
    for name in ("DIR", "CT", "ct"):
        (tmp_path / name).mkdir()
    (tmp_path / "FILE").touch()
    text = re.sub(r"\{\{ *\$labels\.state *\}\}", "failed", shown.text)  # templates of Prometheus
    text = re.sub(r"\{\{.*?\}\}", "pacs", text)
    text = text.replace("FILE...", "FILE").replace("/data/ct", "ct").replace("image.dcm", "FILE")
    if re.fullmatch(r"dicomnode(-train)? [\w-]+( [a-z-]+)*", text):
        return named(text)
    return understood(Shown(shown.page, shown.line, text))


def named(text: str) -> None:
    """A command that the text calls by its name, without arguments."""
    program, *words = text.split()
    command: Any = typer.main.get_command(APPS[program])
    for word in words:
        if word.startswith("--"):
            options = [name for each in command.params for name in (*each.opts, *each.secondary_opts)]
            assert word in options, f"no such option: {text}"
        elif hasattr(command, "commands"):
            assert word in command.commands, f"no such command: {text}"
            command = command.commands[word]


def test_every_exception_is_needed_and_the_share_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for entry in NOT_RUN:
        assert any(re.search(entry.pattern, shown.text) for shown in SHOWN), f"stale: {entry.pattern}"
    run = [shown for shown in SHOWN if not_run(shown) is None]
    with capsys.disabled():
        print(f"\n{len(run)} of {len(SHOWN)} commands of the documents are run; the others:")
        for entry in NOT_RUN:
            count = sum(not_run(shown) is entry for shown in SHOWN)
            print(f"  {count} × {entry.pattern}: {entry.reason}; {entry.instead.__doc__}")
    assert len(run) > len(SHOWN) / 3
