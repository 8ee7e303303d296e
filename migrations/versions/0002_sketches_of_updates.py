"""Sketches of updates, by which similar adapters are found, and the verdict UNSURE.  Adapters that are there have no sketch: pulled into a new registry, they get one.

Revision: 0002
Revises: 0001
Created: 2026-12-01
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "adapter_sketch",
        sa.Column("adapter_id", sa.Integer(), nullable=False),
        sa.Column("numbers", sa.String(512), nullable=False),
        sa.CheckConstraint("length(numbers) = 512", name=op.f("ck_adapter_sketch_numbers")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapter.id"], name="fk_adapter_sketch_adapter_id_adapter"),
        sa.PrimaryKeyConstraint("adapter_id", name="pk_adapter_sketch"),
    )
    if op.get_context().dialect.name == "sqlite":
        _written_anew("fused", "'PASS', 'DEGRADED'", "'PASS', 'UNSURE', 'DEGRADED'")
    else:
        op.drop_constraint(op.f("ck_fused_verdict"), "fused", type_="check")
        verdicts = "verdict IN ('PASS', 'UNSURE', 'DEGRADED', 'LOST')"
        op.create_check_constraint(op.f("ck_fused_verdict"), "fused", verdicts)


def _written_anew(table: str, before: str, after: str) -> None:
    """Change the definition of a table, for which SQLite has no statement."""
    connection = op.get_bind()
    form = sa.text("SELECT type, sql FROM sqlite_master WHERE tbl_name = :table AND sql IS NOT NULL")
    rows = connection.execute(form, {"table": table}).all()
    (definition,) = (sql for kind, sql in rows if kind == "table")
    assert definition.count(before) == 1
    made = definition.replace(before, after).replace(f"CREATE TABLE {table} ", "CREATE TABLE made_anew ", 1)
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    connection.exec_driver_sql(made)
    connection.exec_driver_sql(f"INSERT INTO made_anew SELECT * FROM {table}")
    connection.exec_driver_sql(f"DROP TABLE {table}")
    connection.exec_driver_sql(f"ALTER TABLE made_anew RENAME TO {table}")
    for kind, sql in rows:
        if kind != "table":
            connection.exec_driver_sql(sql)
