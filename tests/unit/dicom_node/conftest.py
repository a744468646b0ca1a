"""Fixtures of these tests: each database is started once for all of them, a result set is made once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import testset
from pipeline.types import Profile, ResultKind
from tests.fixtures.postgres import (
    book,
    database_url,
    ledger,
    migrated_sqlite,
    postgres,
    warm_postgres,
    warm_sqlite,
)

__all__ = ["book", "database_url", "ledger", "migrated_sqlite", "postgres", "warm_postgres", "warm_sqlite"]


@pytest.fixture(scope="session")
def result_sr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SR of a synthetic chest, as every report is made; not to be changed."""
    made = testset.write(tmp_path_factory.mktemp("report"), Profile(picture=False), datetime.now(UTC))
    return next(item.path for item in made.objects if item.kind is ResultKind.SR)
