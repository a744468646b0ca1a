"""Fixtures of these tests: each database is started once for all of them."""

from tests.fixtures.postgres import database_url, ledger, postgres

__all__ = ["database_url", "ledger", "postgres"]
