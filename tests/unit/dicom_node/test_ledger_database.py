"""What a transaction makes of a database that cannot serve it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from dicom_node import ledger_database
from dicom_node.errors import TransientError


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_was_said() -> None:
    """2 s is the least that libpq takes; its own limit would be minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        engine = ledger_database.open_engine(f"postgresql+psycopg://a@127.0.0.1:{silent.getsockname()[1]}/b", 2)
        with pytest.raises(TransientError, match="timeout"), ledger_database.connected(engine):
            pass


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
