"""Fixtures of these tests: each database is started once for all of them."""

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
