"""Fixtures of these tests."""

from tests.fixtures.postgres import postgres

__all__ = ["postgres"]
