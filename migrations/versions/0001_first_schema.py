"""The first schema.  `schema.create` makes the tables of a new database, so there is nothing to do here.

Revision: 0001
Revises: nothing
Created: 2026-11-30
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    pass
