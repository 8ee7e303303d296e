"""${message}

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
Created: ${create_date}
"""

# The rules of a migration (there is no way down; a new database gets the tables as they are, see `schema.create`):
#
# - It imports nothing of fusery.  Tables change later, and this file must go on doing what it does today; where rows
#   must be read or changed, write `sa.table(...)` or SQL here.
# - It runs on SQLite and on PostgreSQL, on a database that has rows: a new column is nullable or has a
#   `server_default`.  The default goes away again in the same migration where the program always gives a value.
# - Rows that are sealed keep what was sealed: a new column of an adapter or a fused artifact stays null in those that
#   are there.  Any other value breaks their seals, and the audit names each of them.
# - SQLite changes a column or a constraint only by building the table anew: `with op.batch_alter_table(...)`.  Give
#   every constraint the name that the naming convention gives it.  A float is `sa.Double()`.
# - It runs inside of one transaction that holds the write lock: no `autocommit_block`, no CREATE INDEX CONCURRENTLY,
#   and nothing that takes minutes on a big table.
# - The release before this one refuses the new schema, so the change may break it.  What people typed in is never
#   dropped: move it first, drop the old place one release later.
# - `fusery.registry.database.schema.HEAD` names the newest revision.  Raise it.
# - A migration that moves rows has a test: go to the revision before, insert rows by SQL, go up, look.

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | None = ${repr(branch_labels)}
depends_on: str | None = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
