"""0015 to 0016 and back: every row, seal and entry of the log stays, and approvals from before rest on no token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from database_facts import all_rows, migrate_to, snapshot

from fusery.registry import InvalidTokenError, Registry
from fusery.registry.database import schema
from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace


@pytest.fixture
def approved(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    """A registry with an approval, on each kind of database."""
    settings = Settings(home=tmp_path / "home", database_url=database_url, user="tester")
    base = tiny_models.make_base(tmp_path / "tiny", layers=1)
    folder = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=1)
    with Registry(Workspace(settings)) as registry:
        registry.init()
        registry.bases.add(base, name="tiny")
        registry.adapters.register(folder, base="tiny", task="t", date="20260115")
        registry.acting("anna", authenticated=False).aliases.approve("t@1", "prod")
        yield registry


def test_up_and_down_keep_every_row(approved: Registry) -> None:
    database = approved.workspace.database
    log = approved.upkeep.log()
    schema.downgrade(database, "0015")
    before, tables_before = all_rows(database), snapshot(database)
    assert "authenticated" not in before["approval"][0]
    migrate_to(database, "0016")
    after = all_rows(database)
    assert after.pop("token") == []
    assert after == {
        **before,
        "approval": [{**row, "authenticated": None} for row in before["approval"]],
    }
    schema.upgrade(database)
    assert approved.upkeep.audit().ok  # no seal has changed
    assert approved.upkeep.log() == log
    schema.downgrade(database, "0015")
    assert (all_rows(database), snapshot(database)) == (before, tables_before)


def test_tokens_go_and_the_log_tells_of_them(approved: Registry) -> None:
    database = approved.workspace.database
    made = approved.tokens.create("anna", "reader")
    log = approved.upkeep.log()
    schema.downgrade(database, "0015")
    schema.upgrade(database)
    assert approved.tokens.list(revoked=True) == []
    with pytest.raises(InvalidTokenError):
        approved.tokens.authenticate(made.secret)
    assert approved.upkeep.log() == log
    assert log[-1].action == "token.created"
