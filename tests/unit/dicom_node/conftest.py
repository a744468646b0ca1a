"""Fixtures of these tests: each database is started once for all of them."""

from tests.fixtures.postgres import (
    book,
    database_url,
    ledger,
    ledger_url,
    migrated_postgres,
    migrated_sqlite,
    postgres,
    sqlite_url,
)

__all__ = [
    "book",
    "database_url",
    "ledger",
    "ledger_url",
    "migrated_postgres",
    "migrated_sqlite",
    "postgres",
    "sqlite_url",
]
