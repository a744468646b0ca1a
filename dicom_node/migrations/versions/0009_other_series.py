"""Series of the study that were not analysed, of which a result speaks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Apply."""
    op.add_column("job", sa.Column("others", sa.JSON(), nullable=True))
