"""Tokens: whom they authenticate and until when; their secrets are stored nowhere."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import query_plans
from sqlalchemy import select, text, update

from fusery.registry import (
    AlreadyExistsError,
    BadInputError,
    InvalidTokenError,
    Registry,
    UnknownReferenceError,
    tables,
)


def rows(registry: Registry) -> list[str]:
    """Return every row of every table as a text."""
    with registry.workspace.database.read() as session:
        return [
            str(dict(row))
            for table in tables.metadata.sorted_tables
            for row in session.execute(select(table)).mappings()
        ]


def refused(registry: Registry, secret: str) -> tuple[str, str | None]:
    with pytest.raises(InvalidTokenError, match=r"^this token is not valid$") as caught:
        registry.tokens.authenticate(secret)
    return caught.value.why, caught.value.token


def expire(registry: Registry, name: str, at: datetime) -> None:
    with registry.workspace.database.write() as session:
        session.execute(update(tables.TokenRow).where(tables.TokenRow.name == name).values(expires_at=at))


def test_a_token_lets_its_bearer_in_until_it_is_revoked(registry: Registry) -> None:
    made = registry.tokens.create("Anna", "approver")
    assert re.fullmatch(r"fusery_[A-Za-z0-9_-]{43}", made.secret)
    assert (made.name, made.role, made.state, made.created_by) == ("anna", "approver", "active", "tester")
    assert made.expires_at == made.created_at + timedelta(days=90)
    known = registry.tokens.authenticate(made.secret)
    assert (known.name, known.role, known.expires_at) == ("anna", "approver", made.expires_at)
    [listed] = registry.tokens.list()
    assert dict(listed) == {key: value for key, value in made.items() if key != "secret"}
    assert registry.acting("anna", role="approver").tokens.own().expires_at == made.expires_at
    gone = registry.tokens.revoke("ANNA", reason="left")
    assert (gone.state, gone.revoked_by) == ("revoked", "tester")
    assert refused(registry, made.secret) == ("revoked", "anna")
    assert registry.tokens.revoke(made) == gone  # a second time changes nothing
    assert (registry.tokens.list(), registry.tokens.list(revoked=True)) == ([], [gone])
    told = [(one.action, one.subject, one.actor) for one in registry.upkeep.log()[-2:]]
    assert told == [("token.created", "anna", "tester"), ("token.revoked", "anna", "tester")]
    assert registry.upkeep.log()[-1].detail["reason"] == "left"
    assert registry.upkeep.audit().ok


def test_a_name_is_one_persons_until_it_is_revoked(registry: Registry) -> None:
    first = registry.tokens.create("anna", "reader", expires=None)
    with pytest.raises(AlreadyExistsError):
        registry.tokens.create("Anna", "admin")
    registry.tokens.revoke("anna")
    second = registry.tokens.create("anna", "admin", expires="12h")
    assert refused(registry, first.secret) == ("revoked", "anna")
    assert registry.tokens.authenticate(second.secret).role == "admin"
    states = [(one.role, one.state) for one in registry.tokens.list(revoked=True)]
    assert states == [("reader", "revoked"), ("admin", "active")]


def test_a_token_expires_by_the_databases_clock(registry: Registry) -> None:
    made = registry.tokens.create("anna", "reader", expires="2099-12-31")
    assert made.expires_at == datetime(2099, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    with registry.workspace.database.read() as session:
        now = registry.workspace.database.utcnow(session)
    expire(registry, "anna", now - timedelta(seconds=1))
    assert refused(registry, made.secret) == ("expired", "anna")
    assert [one.state for one in registry.tokens.list()] == ["expired"]
    with pytest.raises(AlreadyExistsError):
        registry.tokens.create("anna", "reader")
    expire(registry, "anna", now + timedelta(hours=1))
    assert registry.tokens.authenticate(made.secret).name == "anna"
    expire(registry, "anna", now - timedelta(seconds=1))
    registry.tokens.revoke("anna")
    assert refused(registry, made.secret) == ("revoked", "anna")


def test_authentication_takes_one_statement_and_invalid_secrets_none(registry: Registry) -> None:
    made = registry.tokens.create("anna", "reader")
    with query_plans.recorded() as asked:
        invalid = [f"fusery_{rest}" for rest in ("", "a" * 42, "a" * 44, "ä" * 43)]
        for secret in ("", "anna", *invalid, "\ud800", "\0"):
            assert refused(registry, secret) == ("unknown", None)
        assert asked == []
        registry.tokens.authenticate(made.secret)
        assert len(asked) == 1
        assert refused(registry, "fusery_" + "a" * 43) == ("unknown", None)
        assert len(asked) == 2


def test_invalid_and_unknown_tokens_are_refused(sqlite_registry: Registry) -> None:
    tokens, secret = sqlite_registry.tokens, "fusery_" + "a" * 43
    invalid: list[tuple[str, Any, str]] = [
        *((name, "reader", "90d") for name in ("", "anna smith", "a" * 129, secret)),
        *(("anna", "reader", expires) for expires in ("yesterday", "", "2020-01-01")),
        ("anna", "root", "90d"),
    ]
    for name, role, expires in invalid:
        with pytest.raises(BadInputError) as caught:
            tokens.create(name, role, expires=expires)
        assert "fusery_aaa" not in str(caught.value)
    assert tokens.list(revoked=True) == []
    with pytest.raises(UnknownReferenceError):
        tokens.revoke("anna")
    with pytest.raises(BadInputError):  # a secret is no name
        tokens.revoke(secret)


def test_the_secret_is_nowhere(registry: Registry, tmp_path: Path) -> None:
    made = registry.tokens.create("anna", "admin")
    registry.tokens.authenticate(made.secret)
    digest = hashlib.sha256(made.secret.encode()).hexdigest()
    found = rows(registry)
    assert [row for row in found if made.secret in row or made.secret.removeprefix("fusery_") in row] == []
    assert len([row for row in found if digest in row]) == 1  # its own row
    told = str([dict(one) for one in registry.upkeep.log()])
    assert (made.secret in told, digest in told, digest[:12] in told) == (False, False, True)
    assert made.secret not in str([dict(one) for one in registry.tokens.list(revoked=True)])
    assert made.secret not in repr(made) + made._repr_html_()
    assert dict(made)["secret"] == made.secret
    registry.upkeep.backup(str(tmp_path / "backup"))
    for path in (tmp_path / "backup").rglob("*"):
        assert not path.is_file() or made.secret.encode() not in path.read_bytes()


@pytest.mark.parametrize("statement", ["UPDATE token SET role = 'admin'", "DELETE FROM token"])
def test_an_audit_finds_tokens_that_were_edited(statement: str, registry: Registry) -> None:
    registry.tokens.create("anna", "reader")
    registry.tokens.revoke("anna")
    with registry.workspace.database.write() as session:
        session.execute(text(statement))
    assert not registry.upkeep.audit().ok


def test_a_backup_of_others_brings_no_token(registry: Registry, tmp_path: Path) -> None:
    made = {name: registry.tokens.create(name, "admin") for name in ("anna", "bob")}
    registry.tokens.revoke("bob")
    registry.upkeep.backup(str(tmp_path / "backup"))
    with Registry.open(tmp_path / "pulled") as pulled:
        pulled.init()
        with pytest.raises(BadInputError):
            pulled.upkeep.restore(str(tmp_path / "backup"))
        with pytest.raises(UnknownReferenceError):  # there is no record
            pulled.exchange.pull("*", tmp_path / "backup")
        assert refused(pulled, made["anna"].secret) == ("unknown", None)
    with Registry.open(tmp_path / "restored") as restored:
        restored.upkeep.restore(str(tmp_path / "backup"), own=True)
        assert restored.tokens.authenticate(made["anna"].secret).name == "anna"
        assert refused(restored, made["bob"].secret) == ("revoked", "bob")


def test_push_sends_no_token(stocked: Registry, tmp_path: Path) -> None:
    made = stocked.tokens.create("anna", "admin")
    with Registry.open(tmp_path / "there") as there:
        there.init()
    stocked.exchange.push("course_rec@1", home=tmp_path / "there")
    with Registry.open(tmp_path / "there") as there:
        assert len(there.adapters.list()) == 1
        assert there.tokens.list(revoked=True) == []
        assert refused(there, made.secret) == ("unknown", None)
