"""A node on PostgreSQL: alone there, it makes its tables, serves, and waits for a database that is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.sole_use import SoleUse
from pipeline import phantom
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.postgres import Server
from tests.fixtures.served import Served, series_uid

SPEC = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)


def test_from_an_empty_database_to_results(tmp_path: Path, postgres: Server, dcmtk: Dcmtk) -> None:
    postgres.run("CREATE DATABASE served")
    state_dir = tmp_path / "node" / "state"
    node = Served(
        tmp_path / "node", node={"state_dir": str(state_dir), "port": 0, "database": postgres.url("served")}
    )
    other = SoleUse(postgres.url("served"), "dicomnode on elsewhere, /var/lib/dicomnode")
    try:
        other.take()
        with pytest.raises(RuntimeError, match=r"dicomnode on elsewhere, /var/lib/dicomnode \(since"):
            node.start()
        other.release()
        node.start()
        assert node.command("check").returncode == 0
        phantom.write_series(phantom.make(SPEC), tmp_path / "ct")
        assert dcmtk.dcmsend(node.port, [tmp_path / "ct"], "DICOMNODE").returncode == 0
        assert node.settled(series_uid(tmp_path / "ct"))["series"]["state"] == "analysed"
        assert not (state_dir / "ledger.sqlite").exists()
        assert node.stop() == 0
    finally:
        node.kill()
        postgres.run("DROP DATABASE served WITH (FORCE)")


def test_a_database_that_is_away_is_no_fault_of_the_config(tmp_path: Path) -> None:
    node = Served(tmp_path / "node")
    node.config["node"]["database"] = f"postgresql+psycopg://dicomnode@/absent?host={tmp_path}"
    node.path.write_text("")
    try:
        node.start()
    except RuntimeError as error:
        assert "database" in str(error).lower()
    else:
        raise AssertionError("a node without its database must not say that it is ready")
    served = node.command("serve")
    assert served.returncode == 4  # systemd tries again; 2 would mean that config.toml is wrong
