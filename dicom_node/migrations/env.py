"""Run by Alembic: applies the revisions on the connection, and in the transaction, of whoever called."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import TypeDecorator

from dicom_node.tables import Base


def _render(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write the plain type of the database into a revision: it must outlive the classes of `tables`."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,
    render_item=_render,
)
with context.begin_transaction():
    context.run_migrations()
