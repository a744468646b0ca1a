"""Earlier results that an analysis was given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply."""
    op.add_column("job", sa.Column("priors", sa.JSON(), nullable=True))
    op.add_column("job", sa.Column("priors_found", sa.JSON(), nullable=True))
