"""The database has no triggers and functions of fusery's: whoever has its login is trusted, and the audit names changes.

Revision: 0020
Revises: 0019
Created: 2026-11-30
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | None = None
depends_on: str | None = None

FUNCTIONS = """
SELECT CAST(oid AS regprocedure) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
    AND proname IN ('refuse_event_change', 'refuse_forged_event', 'move_alias')
"""
TRIGGERS = r"""
SELECT name FROM sqlite_master WHERE type = 'trigger' AND (
    name IN ('event_no_update', 'event_no_delete', 'event_no_replace')
    OR name IN (tbl_name || '_spelling_insert', tbl_name || '_spelling_update'))
"""


def upgrade() -> None:
    bind = op.get_bind()
    if bind.dialect.name == "postgresql":
        for name in bind.scalars(sa.text(FUNCTIONS)).all():
            op.execute(sa.text(f"DROP FUNCTION {name} CASCADE"))  # with the triggers that call it
    else:
        for name in bind.scalars(sa.text(TRIGGERS)).all():
            op.execute(sa.text(f'DROP TRIGGER "{name}"'))


def downgrade() -> None:
    # The release before makes them with `fusery db upgrade`.
    pass
