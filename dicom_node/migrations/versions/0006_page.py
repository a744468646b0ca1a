"""What the status page asks of each destination."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Apply."""
    op.create_index("ix_delivery_committed", "delivery", ["destination", "committed_at"])
