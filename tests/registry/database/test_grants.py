"""Roles on a real PostgreSQL: what each may do, and that it may do no more."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import tiny_models
from kept_registries import KeptStates
from ports import free_port
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import ProgrammingError
from store_shelf import open_workspace

from fusery.registry import Registry, tables
from fusery.registry.database import Database, events, schema
from fusery.registry.database.grants import DELETED, ROLES, UPDATED, Role, grants_for, quoted
from fusery.registry.errors import (
    AliasGuardedError,
    BadInputError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
)
from fusery.registry.fusion.fuse import FuseRequest

_numbers = itertools.count()


def opened(home: Path, url: str) -> Registry:
    return Registry(open_workspace(home, url))


class Team:
    """A registry on PostgreSQL, and a login for each role."""

    def __init__(self, folder: Path, url: str) -> None:
        self.home, self.url = folder / "home", url
        self.folders = [folder / f"adapter{seed}" for seed in (1, 2, 3)]
        self.logins: dict[str, str] = {}

    def fill(self, registry: Registry) -> None:
        """Make a base and adapters, of which one is registered."""
        base = tiny_models.make_base(self.home.parent / "tiny", layers=2)
        for seed, folder in enumerate(self.folders, 1):
            tiny_models.make_adapter(folder, base, seed=seed)
        registry.bases.add(base, name="tiny", reference=True)
        registry.adapters.register(self.folders[0], base="tiny", task="course_rec", date="20260115")

    def login(self, role: Role) -> str:
        """Return the URL of a login that is a member of a role, made with the SQL that is printed."""
        if role not in self.logins:
            user = f'test {role} "{next(_numbers)}'
            database = Database.open(self.url)
            script = grants_for(database, role, user)
            database.close()
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"CREATE ROLE {quoted(user)} LOGIN")  # type: ignore[call-overload]
                for _ in range(2):  # the SQL can be run twice
                    connection.execute(script)  # type: ignore[call-overload]
            self.logins[role] = make_url(self.url).set(username=user).render_as_string(hide_password=False)
        return self.logins[role]

    @contextmanager
    def as_role(self, role: Role) -> Iterator[Registry]:
        with opened(self.home, self.login(role)) as registry:
            yield registry

    def refuses(self, role: Role, statement: str) -> bool:
        """Whether the server itself refuses a statement for want of rights."""
        user = make_url(self.login(role)).username
        with psycopg.connect(self.url, user=user) as connection:
            try:
                connection.execute(statement)  # type: ignore[call-overload]
            except psycopg.errors.InsufficientPrivilege:
                return True
            finally:
                connection.rollback()
        return False


@pytest.fixture
def tmp_path(kept: KeptStates) -> Path:
    """One folder for all tests, emptied for each: where the base lies is on record."""
    return kept.empty_place()


@pytest.fixture
def team(kept: KeptStates, tmp_path: Path, postgres_url: str) -> Iterator[Team]:
    made = Team(tmp_path, postgres_url)
    with kept.opened("team", postgres_url, made.fill):
        pass
    yield made
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for url in made.logins.values():
            user = quoted(str(make_url(url).username))
            connection.execute(f"REASSIGN OWNED BY {user} TO CURRENT_USER")  # type: ignore[call-overload]
            connection.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")  # type: ignore[call-overload]
        for name in ROLES:
            connection.execute(
                f"DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'fusery_{name}') THEN "  # type: ignore[call-overload]
                f"REASSIGN OWNED BY fusery_{name} TO CURRENT_USER; DROP OWNED BY fusery_{name}; END IF; END $$"
            )


@pytest.mark.parametrize("role", ["reader", "publisher"])
def test_who_reads_needs_no_more_than_to_read(role: Role, team: Team) -> None:
    with team.as_role(role) as registry:
        assert registry.adapters.list(sort="val_loss") and registry.adapters.history("course_rec")
        assert registry.adapters.show("course_rec@latest") and registry.provenance.lineage("course_rec@1")
        assert registry.bases.list() and registry.upkeep.audit().ok


def test_a_reader_can_write_to_no_table(team: Team) -> None:
    # The function that moves aliases does not allow it either.
    assert team.refuses("reader", "SELECT move_alias(1, 'prod', 1, '', 'eve', false, now())")
    assert not team.refuses("publisher", "SELECT move_alias(1, 'prod', 1, '', 'eve', false, now())")
    for name in (*tables.metadata.tables, "alembic_version"):
        assert team.refuses("reader", f"INSERT INTO {name} DEFAULT VALUES"), name
        assert team.refuses("reader", f"DELETE FROM {name}"), name
        assert team.refuses("reader", f"TRUNCATE {name} CASCADE"), name
        assert team.refuses("reader", f"LOCK TABLE {name} IN EXCLUSIVE MODE"), name
    for table in tables.metadata.sorted_tables:
        column = table.columns.keys()[-1]
        assert team.refuses("reader", f"UPDATE {table.name} SET {column} = NULL"), table.name
    assert team.refuses("reader", "CREATE TABLE surplus (id int)")


def test_a_publisher_publishes(team: Team, tmp_path: Path) -> None:
    with team.as_role("publisher") as registry:
        other = tiny_models.make_base(tmp_path / "other", layers=2, seed=9)
        registry.bases.add(other, name="other")
        assert registry.adapters.register(
            team.folders[1], base="tiny", task="course_rec", tags={"a": "b"}
        ).created
        assert not registry.fused.fuse("course_rec@1").cached
        assert registry.fused.fuse("course_rec@1").cached
        registry.bundles.materialize("course_rec@1", tmp_path / "bundle")
        for version in (1, 2, 1):
            registry.aliases.set("prod", f"course_rec@{version}")
        registry.adapters.yank("course_rec@2", reason="test")
        registry.adapters.amend(
            "course_rec@2", val_loss=0.5, dataset="d", examples=9, date="20260101", note="n", reason="typo"
        )
        registry.adapters.amend("course_rec@2", tags={"a": "c", "e": "f"})
        registry.adapters.amend("course_rec@2", clear=["tag.a"])
        shown = registry.adapters.show("course_rec@2")
        assert (shown["val_loss"], shown["tags"]) == (0.5, {"e": "f"})
        assert registry.upkeep.audit().ok
    with opened(team.home, team.url) as registry, registry.workspace.database.read() as session:
        assert list(events.verify_chain(session)) == []


def test_a_publisher_can_neither_change_nor_remove_what_is_recorded(team: Team) -> None:
    for table in tables.metadata.sorted_tables:
        if table.name not in DELETED:
            assert team.refuses("publisher", f"DELETE FROM {table.name}"), table.name
        assert team.refuses("publisher", f"TRUNCATE {table.name} CASCADE"), table.name
        assert team.refuses("publisher", f"ALTER TABLE {table.name} ADD COLUMN surplus int"), table.name
        for column in (each.name for each in table.columns):
            if column not in UPDATED.get(table.name, ()):
                statement = f"UPDATE {table.name} SET {column} = NULL"
                assert team.refuses("publisher", statement), statement
    assert team.refuses("publisher", "INSERT INTO registry DEFAULT VALUES")
    assert team.refuses("publisher", "UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.timing
def test_a_publisher_delivers_events_and_does_not_say_to_whom(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "x" * 32)
    monkeypatch.setenv("FUSERY_WEBHOOK_PRIVATE", "1")
    nowhere = f"http://127.0.0.1:{free_port()}/"
    with opened(team.home, team.url) as registry:
        for name in ("ci", "other"):
            registry.webhooks.add(nowhere, "webhook.*", name=name, allow_private=True)
    with team.as_role("publisher") as registry:
        tried = registry.webhooks.deliver()
        failed = dict.fromkeys(("ci", "other"), "nothing listens at its port")
        assert {each.name: each.error for each in tried} == failed
        assert registry.webhooks.retry("ci").attempts == 2
        assert registry.webhooks.skip("ci", reason="test").action == "webhook.added"
        for call in (
            lambda: registry.webhooks.add("https://hooks.example.org/", "webhook.*"),
            lambda: registry.webhooks.remove("ci"),
        ):
            with pytest.raises(DatabaseUnavailableError):
                call()
        assert registry.upkeep.audit().ok


def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the rules in this client, as another client could."""
    monkeypatch.setattr("fusery.registry.releases.aliases.refuse_guarded", lambda *_, **__: None)
    monkeypatch.setattr("fusery.registry.releases.aliases.refuse_yanked", lambda *_: None)
    monkeypatch.setattr("fusery.registry.releases.promote.verdict_of", lambda _: "passed")


RULES: dict[str, dict[str, Any]] = {
    "approvals": {"approvals": 1},
    "authenticated": {"approvals": 1, "authenticated": True},
    "fidelity": {"fidelity": "PASS"},
    "val_loss_within": {"val_loss_within": 0.01},
    "admission": {"admission": "clean"},
}


@pytest.mark.parametrize("rule", RULES)
def test_the_database_itself_holds_a_promotion_against_the_rules(
    rule: str, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(team.home, team.url) as registry:
        registry.adapters.register(team.folders[1], base="tiny", task="course_rec", val_loss=0.5)
        registry.adapters.register(team.folders[2], base="tiny", task="course_rec", val_loss=0.52)
        registry.aliases.set("prod", "course_rec@2")
        registry.aliases.set_rules("prod", RULES[rule])
        if rule == "authenticated":
            registry.acting("ann", authenticated=False).aliases.approve("course_rec@3", "prod")
        if rule == "admission":
            with registry.workspace.database.write() as session:
                adapter = session.scalars(select(tables.Adapter).where(tables.Adapter.version == 3)).one()
                adapter.findings.append(
                    tables.AdapterFinding(code="x", severity="warning", subject="", message="", hint="")
                )
    patched(monkeypatch)
    with team.as_role("publisher") as registry:
        moves = (
            lambda: registry.aliases.promote("course_rec@3", "prod"),
            lambda: registry.aliases.set("prod", "course_rec@3"),
        )
        for move in moves:
            with pytest.raises(AliasGuardedError):
                move()
        assert registry.aliases.show("course_rec#prod")["adapter"].startswith("course_rec_v2_")
        # An audit reports the finding that this test inserted.
        assert {one.code for one in registry.upkeep.audit().problems} <= {"record_rewritten"}


def test_the_database_knows_emergencies_and_withdrawals(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(team.home, team.url) as registry:
        registry.adapters.register(team.folders[1], base="tiny", task="course_rec")
        registry.adapters.register(team.folders[2], base="tiny", task="course_rec")
        for version in (1, 2):
            registry.aliases.set("prod", f"course_rec@{version}")
        registry.aliases.set_rules("prod", {"approvals": 1})
    patched(monkeypatch)
    with team.as_role("publisher") as registry:
        monkeypatch.setattr("fusery.registry.releases.aliases._allow", lambda *_: {"emergency": True})
        with pytest.raises(AliasGuardedError):
            registry.aliases.remove("course_rec#prod")
        assert registry.aliases.roll_back("course_rec#prod", reason="it swears")["to"].startswith(
            "course_rec_v1_"
        )
        monkeypatch.setattr("fusery.registry.releases.aliases._allow", lambda *_: {})
        with pytest.raises(AliasGuardedError):
            registry.aliases.remove("course_rec#prod")
        registry.adapters.yank("course_rec@3", reason="bad")
        with pytest.raises(AliasGuardedError):
            registry.aliases.set("canary", "course_rec@3")
        assert registry.upkeep.audit().ok


ADMINS = "rules.set rules.removed key.trusted key.revoked fused.disowned registry.adopted token.created token.revoked"


def test_a_publisher_cannot_log_what_only_an_admin_does(team: Team) -> None:
    """Not even with a temporary table of the same name as the one that only an admin may write."""
    for action, shadowed in itertools.product(ADMINS.split(), (False, True)):
        with (
            team.as_role("publisher") as registry,
            pytest.raises(DatabaseUnavailableError),
            registry.workspace.database.write() as session,
        ):
            if shadowed:
                session.execute(text("CREATE TEMP TABLE alias_rule (x int)"))
            events.record(session, action=action, kind="alias", subject="*#prod", detail={}, actor="eve")
    with opened(team.home, team.url) as registry:
        registry.aliases.set_rules("prod", {"approvals": 1})
        assert registry.upkeep.log(reference=None)[-1]["action"] == "rules.set"
        assert registry.upkeep.audit().ok


def test_only_an_admin_migrates(team: Team) -> None:
    for role in ("reader", "publisher", "admin"):
        database = Database.open(team.login(role))
        refused = pytest.raises((ProgrammingError, DatabaseUnavailableError))
        with contextlib.nullcontext() if role == "admin" else refused:
            schema.downgrade(database, "0005")
        assert schema.state(database).status == ("older" if role == "admin" else "current")
        if role == "admin":
            schema.upgrade(database)
        database.close()


def test_only_a_server_says_that_an_approval_rests_on_a_token(team: Team) -> None:
    with opened(team.home, team.url) as registry:
        registry.aliases.set_rules("prod", {"approvals": 1, "authenticated": True})
    with team.as_role("publisher") as registry:
        assert registry.acting("ann", authenticated=False).aliases.approve("course_rec@1", "prod").changed
        with pytest.raises(DatabaseUnavailableError):
            registry.acting("ann").aliases.approve("course_rec@1", "prod")
        assert registry.aliases.promote("course_rec@1", "prod").verdict == "failed"
    columns = "adapter_id, alias, note, at, by, authenticated"
    assert team.refuses(
        "publisher", f"INSERT INTO approval ({columns}) VALUES (1, 'prod', '', now(), 'ann', true)"
    )
    with team.as_role("server") as registry:
        assert registry.acting("ann").aliases.approve("course_rec@1", "prod").authenticated
        assert registry.aliases.promote("course_rec@1", "prod").verdict == "passed"
        for forbidden in (
            lambda: registry.tokens.create("eve", "admin"),
            lambda: registry.aliases.set_rules("prod", {}),
        ):
            with pytest.raises(DatabaseUnavailableError):
                forbidden()
        assert registry.upkeep.audit().ok


def test_tokens_are_an_admins_and_every_login_knows_by_them_who_asks(team: Team) -> None:
    with team.as_role("admin") as registry:
        made = registry.tokens.create("ann", "reader")
    for role in ("reader", "publisher", "server"):
        with team.as_role(role) as registry:
            assert registry.tokens.authenticate(made.secret).name == "ann"
            with pytest.raises(DatabaseUnavailableError):
                registry.tokens.revoke("ann")
    with team.as_role("admin") as registry:
        assert registry.tokens.revoke("ann").state == "revoked"


def test_names_and_databases_that_have_no_roles_are_refused(postgres_url: str, tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/fusery.db")
    with pytest.raises(BadInputError):
        grants_for(database)
    assert list(tmp_path.iterdir()) == []
    for user in ("", "a" * 64, "a\nb", "a\x00b"):
        with pytest.raises(BadInputError):
            quoted(user)
    database = Database.open(postgres_url)
    evil = 'ann"; DROP TABLE adapter; --'
    assert grants_for(database, "reader", evil).count('TO "ann""; DROP TABLE adapter; --";') == 1
    with pytest.raises(BadInputError):
        grants_for(database, None, "ann")
    database.close()


def test_a_reader_has_a_published_model_and_computes_none(team: Team, tmp_path: Path) -> None:
    with opened(team.home, team.url) as registry:
        registry.adapters.register(team.folders[1], base="tiny", task="course_rec", date="20260201")
        published = registry.fused.fuse("course_rec@1", FuseRequest(), publish="full")
    reader = team.login("reader")
    with opened(team.home, reader) as registry:
        registry.workspace.settings = replace(registry.workspace.settings, cache_dir=tmp_path / "mine")
        for source in ("store", "cache"):
            model = registry.fused.fuse("course_rec@1", FuseRequest())
            assert (model.source, model["digest"]) == (source, published["digest"])
            assert model.path.is_relative_to(tmp_path / "mine")
        with pytest.raises(DatabaseReadOnlyError):
            registry.fused.fuse("course_rec@2", FuseRequest())
        with pytest.raises(DatabaseReadOnlyError):
            registry.bundles.materialize("course_rec@1", tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
    assert team.refuses("reader", "INSERT INTO lease (key, owner, fence, expires) VALUES ('x', 'x', 1, 1)")
