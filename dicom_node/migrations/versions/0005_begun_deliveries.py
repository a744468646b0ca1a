"""When an object was last put on the wire: from then on its destination may have it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Apply."""
    op.add_column("delivery", sa.Column("begun_at", sa.DateTime(), nullable=True))
    op.execute("UPDATE delivery SET begun_at = sent_at")
