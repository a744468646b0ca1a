"""What a transaction makes of a database that cannot serve it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from dicom_node import ledger_database
from dicom_node.errors import TransientError


def test_a_pool_without_a_connection_to_spare_may_have_one_later(tmp_path: Path) -> None:
    """Threads wait for the database then; any other error would end them."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0)
    with ledger_database.transaction(engine, write=False):
        second = ledger_database.transaction(engine, write=False)
        with pytest.raises(TransientError, match="no connection to spare"), second:
            pass
    with ledger_database.transaction(engine, write=False) as session:
        assert session.connection().exec_driver_sql("SELECT 1").scalar() == 1
