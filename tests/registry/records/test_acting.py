"""A registry under another name, with the server's open database, store and cache."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from fusery.registry import BadInputError, Registry, tables
from fusery.registry.records.tokens import owner_of
from fusery.registry.workspace.workspace import Workspace


def test_records_are_made_under_the_name(stocked: Registry) -> None:
    anna = stocked.acting("anna")
    anna.aliases.set("prod", "course_rec@1")
    stocked.acting("bob").aliases.set("prod", "course_rec@2")
    stocked.aliases.set("prod", "course_rec@1")
    assert [one.by for one in stocked.aliases.history("course_rec#prod")] == ["anna", "bob", "tester"]
    assert stocked.upkeep.audit().ok
    workspaces = (stocked.workspace, anna.workspace, stocked.acting("carl", authenticated=False).workspace)
    expected = [("tester", False), ("anna", True), ("carl", False)]
    assert [(one.actor, one.authenticated) for one in workspaces] == expected
    with stocked.workspace.database.read() as session:
        row = session.scalars(select(tables.AdapterRow)).all()[0]
        session.expunge(row)
        row.created_by = "somebody, another registry claims"
        assert owner_of(session, row) == "tester"
    # So is a change that no use case records.
    with stocked.acting("anna").workspace.database.write() as session:
        session.add(tables.TaskRow(name="other"))
    last = stocked.upkeep.log()[-1]
    assert (last.action, last.actor) == ("records.changed", "anna")


def test_the_parts_are_opened_once_and_stay_open(sqlite_registry: Registry) -> None:
    origin = Workspace(sqlite_registry.workspace.settings)
    first, second = origin.acting("anna"), origin.acting("bob").acting("carl")
    assert second.actor == "carl"
    assert first.database._engine is second.database._engine is origin.database._engine
    assert (first.store, first.cache, first.verified_files) == (
        origin.store,
        origin.cache,
        origin.verified_files,
    )
    pool = origin.database._engine.pool
    with Registry(first) as registry:
        assert registry.bases.list() == []
    assert origin.__dict__["database"]._engine.pool is pool  # closing it would have made another
    origin.close()


def test_invalid_names_are_refused(sqlite_registry: Registry) -> None:
    """An empty one would be the name of the account that the server runs under."""
    for name in ("", " ", "a" * 201, "a\0", "\ud800"):
        with pytest.raises(BadInputError):
            sqlite_registry.acting(name)
