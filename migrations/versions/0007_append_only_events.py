"""The log refuses changes and removals of its entries by itself, whoever asks.

Revision: 0007
Revises: 0006
Created: 2026-11-25
"""

# The rules of a migration are in script.py.mako.

from __future__ import annotations

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

REFUSAL = "the log is append-only"

SQLITE = {
    "event_no_update": "BEFORE UPDATE ON event",
    "event_no_delete": "BEFORE DELETE ON event",
    # INSERT OR REPLACE removes the row in its way without asking the trigger above (sqlite.org/lang_conflict.html).
    "event_no_replace": "BEFORE INSERT ON event WHEN EXISTS "
    "(SELECT 1 FROM event WHERE seq = NEW.seq OR hash = NEW.hash)",
}
POSTGRESQL = {
    "event_no_update": "BEFORE UPDATE ON event FOR EACH ROW",
    "event_no_delete": "BEFORE DELETE ON event FOR EACH ROW",
    "event_no_truncate": "BEFORE TRUNCATE ON event FOR EACH STATEMENT",
}
FUNCTION = f"""
CREATE FUNCTION refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{REFUSAL}' USING ERRCODE = 'restrict_violation'; END $$
"""


def upgrade() -> None:
    if _is_postgresql():
        op.execute(FUNCTION)
        for name, when in POSTGRESQL.items():
            op.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION refuse_event_change()")
    else:
        for name, when in SQLITE.items():
            op.execute(f"CREATE TRIGGER {name} {when} BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END")


def downgrade() -> None:
    if _is_postgresql():
        for name in POSTGRESQL:
            op.execute(f"DROP TRIGGER {name} ON event")
        op.execute("DROP FUNCTION refuse_event_change()")
    else:
        for name in SQLITE:
            op.execute(f"DROP TRIGGER {name}")


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
