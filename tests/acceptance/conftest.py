"""Fixtures of these tests."""

from tests.fixtures.dcmtk import dcmtk
from tests.fixtures.postgres import postgres

__all__ = ["dcmtk", "postgres"]
