"""Retention: what was purged, and when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

KEPT = {"sources_kept": "sources_purged_at IS NULL", "results_kept": "results_purged_at IS NULL"}


def upgrade() -> None:
    """Apply. Columns without a value are added in place: no table is copied, however many rows it has."""
    for table, column in (
        ("series", "sources_purged_at"),
        ("series", "results_purged_at"),
        ("instance", "purged_at"),
        ("result", "purged_at"),
    ):
        op.add_column(table, sa.Column(column, sa.DateTime(), nullable=True))
    op.add_column("series", sa.Column("purging", sa.Boolean(), nullable=False, server_default=sa.false()))
    for name, where in KEPT.items():
        _index(name, "changed_at", where)
    _index("purging", "id", "purging")
    op.create_index("ix_result_source_id", "result", ["source_id"])


def _index(name: str, column: str, where: str) -> None:
    op.create_index(
        f"ix_series_{name}", "series", [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
