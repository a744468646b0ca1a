"""What commands say about certificates and secrets."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner, Result

from dicom_node.cli import app
from dicom_node.ledger import Ledger
from tests.fixtures.certificates import Authority


def run(folder: Path, config: dict[str, Any], *arguments: str) -> Result:
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps(config))
    return CliRunner().invoke(app, [*arguments, "--config", str(path)])


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A node whose certificate ends soon, with two secrets."""
    (tmp_path / "state").mkdir()
    (tmp_path / "password").write_text("sesame-of-the-key\n")
    node = Authority(tmp_path).issue("node", days=10, password="sesame-of-the-key")
    tls = {"certificate": node.certificate, "key": node.key, "key_password_file": tmp_path / "password"}
    return {
        "node": {"state_dir": str(tmp_path / "state"), "database_password_file": str(tmp_path / "password")},
        "tls": {key: str(path) for key, path in tls.items()},
    }


def test_what_is_in_effect_is_shown_without_a_secret(tmp_path: Path, config: dict[str, Any]) -> None:
    done = run(tmp_path, config, "config")
    assert done.exit_code == 0
    shown = json.loads(done.output)
    assert shown["tls"]["key_password_file"] == str(tmp_path / "password")
    assert shown["reception"]["max_associations_per_peer"] == 16  # defaults as well
    assert "sesame" not in done.output


def test_status_says_which_certificates_end_soon(tmp_path: Path, config: dict[str, Any]) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.sqlite'}")):
        pass
    (told,) = json.loads(run(tmp_path, config, "status", "--json").output)["expiring"]
    assert told.startswith("tls.certificate: the certificate CN=node") and "expires in 9 days" in told
    assert "Renew soon: tls.certificate" in run(tmp_path, config, "status").output
    config["tls"]["warn_days"] = 5
    assert json.loads(run(tmp_path, config, "status", "--json").output)["expiring"] == []


def test_status_says_that_renewed_files_are_not_in_use(tmp_path: Path, config: dict[str, Any]) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.sqlite'}")):
        pass
    config["tls"] |= {"port": 2762, "require_client_certificate": False}
    assert json.loads(run(tmp_path, config, "status", "--json").output)["tls_faults"] == []
    (tmp_path / "node.key").write_text("no PEM")
    (fault,) = json.loads(run(tmp_path, config, "status", "--json").output)["tls_faults"]
    assert fault.startswith("tls: ") and "cannot be used" in fault
    assert "the port for TLS goes on with the old ones" in run(tmp_path, config, "status").output


def test_check_names_a_certificate_that_cannot_be_used(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "password").write_text("wrong")
    done = run(tmp_path, config, "check")
    assert done.exit_code == 2
    assert "tls: " in done.output and "the password of the key is wrong" in done.output
    assert "sesame" not in done.output
