"""`dicomnode web-password` makes what `dicomnode check` and the page take."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from dicom_node import cli, cli_exit, config, doctor
from dicom_node.cli_exit import Status
from dicom_node.web.passwords import fits, read_users


def run(monkeypatch: pytest.MonkeyPatch, password: str, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    return cli_exit.run(cli.app, ["web-password", *arguments], "dicomnode")


def test_its_line_logs_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "correct horse battery", "ada", "--json") == Status.DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["name"] == "ada"
    assert run(monkeypatch, "correct horse battery", "grace") == Status.DONE
    path = tmp_path / "users"
    path.write_text(f"{answer['line']}\n{capsys.readouterr().out}")
    path.chmod(0o640)
    users = read_users(path)
    assert fits("correct horse battery", users["ada"])
    assert fits("correct horse battery", users["grace"])
    settings = config.parse({"node": {"state_dir": str(tmp_path)}, "web": {"users_file": str(path)}})
    assert not [fault for fault in doctor.file_faults(settings) if fault.startswith("web.")]
    path.chmod(0o644)
    assert any("web.users_file: everybody can read" in fault for fault in doctor.file_faults(settings))
    path.write_text("ada:secret\n")
    (fault,) = [fault for fault in doctor.file_faults(settings) if fault.startswith("web.")]
    assert "line 1" in fault
    assert "secret" not in fault


def test_a_short_password_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "short", "ada") == Status.MISUSED
    assert "12 to 1024 characters" in capsys.readouterr().err
