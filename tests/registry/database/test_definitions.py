"""Tables that are not as the program makes them are named, by `db check` and by an audit."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from fusery.registry import Registry
from fusery.registry.database import Database, schema
from fusery.registry.database.schema import differences

EVERYWHERE = [
    ("DROP INDEX ix_adapter_digest", "adapter", "index ix_adapter_digest of adapter is gone"),
    ("CREATE UNIQUE INDEX one_each ON yank (adapter_id)", "yank", "index one_each of yank is not of this"),
    ("ALTER TABLE adapter ADD COLUMN surplus INTEGER", "adapter", "column surplus of adapter is not of this"),
    ("ALTER TABLE adapter DROP COLUMN note", "adapter", "column note of adapter is gone"),
    ("DROP TABLE curve_point", "curve_point", "table curve_point is gone"),
]
POSTGRESQL = [
    ("ALTER TABLE alias_move ALTER COLUMN reason DROP NOT NULL", "alias_move", "column reason"),
    ("ALTER TABLE alias DROP CONSTRAINT uq_alias_task_id_name", "alias", "uq_alias_task_id_name"),
    ("ALTER TABLE yank DROP CONSTRAINT fk_yank_adapter_id_adapter", "yank", "fk_yank_adapter_id_adapter"),
    ("ALTER TABLE blob DROP CONSTRAINT ck_blob_size", "blob", "check ck_blob_size"),
    ("ALTER TABLE adapter ALTER COLUMN name TYPE TEXT", "adapter", "column name"),
]


@pytest.mark.parametrize(("statement", "table", "message"), [*EVERYWHERE, *POSTGRESQL])
def test_what_differs(database: Database, statement: str, table: str, message: str) -> None:
    if database.dialect == "sqlite" and (statement, table, message) in POSTGRESQL:
        return  # no such statement
    assert differences(database) == []
    with database.schema_change() as connection:
        connection.execute(text("CREATE TABLE of_others (id INTEGER)"))
        connection.execute(text(statement))
    [found] = differences(database)
    assert found[0] == table and message in found[1]
    assert schema.check(database) == [found[1]]


def test_an_audit_names_what_differs(stocked: Registry) -> None:
    with stocked.workspace.database.write() as session:
        session.execute(text("DROP INDEX ix_event_at"))
    for report in (stocked.upkeep.audit(), stocked.upkeep.audit()):
        assert [(one.code, one.subject) for one in report.problems] == [("schema_differs", "table event")]
