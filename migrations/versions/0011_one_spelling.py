"""Documents are kept in one spelling on SQLite, and the index of tensors starts anew: from now on it is sealed.

Revision: 0011
Revises: 0010
Created: 2026-11-26
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import json
import sys
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None

BATCH = 100


def upgrade() -> None:
    # It is derived, and made again when it is asked for.
    op.execute("DELETE FROM tensor")
    if op.get_bind().dialect.name == "sqlite":
        for table in sa.inspect(op.get_bind()).get_table_names():
            for column in sa.inspect(op.get_bind()).get_columns(table):
                if isinstance(column["type"], sa.JSON):
                    respell(table, column["name"])


def downgrade() -> None:
    # The release before reads these documents as well, and takes tensors of the index as they are.
    pass


def respell(table: str, column: str) -> None:
    """Write the documents of a column as this release does; what is none is left for an audit to name."""
    bind = op.get_bind()
    last = -(2**63)
    query = sa.text(
        f'SELECT rowid, "{column}" FROM "{table}" '
        f"WHERE rowid > :last AND typeof(\"{column}\") = 'text' ORDER BY rowid LIMIT {BATCH}"
    )
    while found := bind.execute(query, {"last": last}).all():
        last = found[-1][0]
        changed = [
            {"number": number, "text": text}
            for number, old in found
            if (text := spelled(old)) not in (None, old)
        ]
        if changed:
            bind.execute(sa.text(f'UPDATE "{table}" SET "{column}" = :text WHERE rowid = :number'), changed)


def spelled(text: str) -> str | None:
    """Return the one spelling of a document, None of what is none."""
    try:
        return json.dumps(settled(json.loads(text)), sort_keys=True, allow_nan=False)
    except (ValueError, RecursionError):
        return None


def settled(value: Any) -> Any:
    """Return a document with its numbers as PostgreSQL hands them back."""
    if isinstance(value, dict):
        return {key: settled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [settled(part) for part in value]
    if isinstance(value, float):
        if value == 0:
            return 0.0
        return int(value) if 1e16 <= abs(value) < 2**63 else value
    if isinstance(value, int) and 2**63 <= abs(value) <= int(sys.float_info.max) and float(value) == value:
        return float(value)
    return value
