"""The wheel, installed elsewhere: it has everything that serving needs and looks nowhere else for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline import phantom

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content alone; its dependencies come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("dicomnode-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "dicom_node.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_the_wheel_brings_config_unit_model_and_licences(installed: Path) -> None:
    data = installed / "dicom_node" / "data"
    assert (data / "config.toml").read_bytes() == (ROOT / "config.toml").read_bytes()
    assert (data / "systemd" / "dicomnode.service").is_file()
    assert {path.name for path in (data / "monitoring").iterdir()} >= {"alerts.yml", "dashboard.json"}
    assert (installed / "pipeline" / "models" / "demo" / "MODEL_CARD.md").is_file()
    for name in ("page.css", "icon.svg", "templates/base.html", "templates/story.html"):
        assert (installed / "dicom_node" / "web" / name).is_file()
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert "License-Expression: Apache-2.0 AND CC-BY-NC-SA-4.0" in metadata.read_text()
    (licence,) = installed.glob("*.dist-info/licenses/pipeline/models/demo/LICENSE-MODEL")
    assert "NonCommercial" in licence.read_text() or "non-commercial" in licence.read_text()


def test_its_commands_work_without_the_repository(installed: Path, tmp_path: Path) -> None:
    where = "import dicom_node, pipeline; print(dicom_node.__file__, pipeline.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    printed = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.count(str(installed)) == 2

    (tmp_path / "config.toml").write_text(f'[node]\nstate_dir = "{tmp_path}/state"\n')
    listed = run(installed, tmp_path, "models", "list", "--config", "config.toml", "--json")
    assert listed.returncode == 0, listed.stderr
    (demo,) = json.loads(listed.stdout)
    assert demo["used"] and demo["fault"] == "" and demo["path"].startswith(str(installed))
    assert run(installed, tmp_path, "check", "--config", "config.toml").returncode == 0

    spec = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)
    phantom.write_series(phantom.make(spec), tmp_path / "ct")
    done = run(installed, tmp_path, "process", "ct", "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "out" / "result.json").read_text())
    assert {"seg.dcm", "sr.dcm", "picture.dcm", "picture.png", "result.json"} >= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert 0 < report["severity_score"] < 1
