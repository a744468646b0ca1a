"""Fixtures of these tests."""

from tests.fixtures.postgres import book, warm_sqlite

__all__ = ["book", "warm_sqlite"]
