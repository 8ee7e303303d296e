"""Whether what protects the tables is there and is what this program made: definitions are compared, never names alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from .. import tables
from .functions import FUNCTIONS, signature, statement
from .guards import guards_of

_LOG = "which keeps the log append-only"
_ALIASES = "which holds moves of aliases against their rules"
_SPELLING = "which refuses values that are misspelled"
_MENDING = "`fusery db upgrade` makes it anew"

_SQLITE = "SELECT name, tbl_name AS on_table, sql AS definition FROM sqlite_master WHERE type = 'trigger'"

_POSTGRESQL = """
SELECT t.tgname AS name, c.relname AS on_table, pg_get_triggerdef(t.oid, true) AS definition,
    t.tgenabled IN ('O', 'A') AS fires, t.tgisinternal AS internal, p.pronamespace = c.relnamespace AS own
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE c.relnamespace = current_schema()::regnamespace ORDER BY t.tgname
"""

_FUNCTIONS = """
SELECT p.proname AS name, oidvectortypes(p.proargtypes) AS types, p.prosrc AS body, p.prosecdef AS definer,
    l.lanname = 'plpgsql' AND NOT (p.prosecdef AND has_function_privilege('public', p.oid, 'EXECUTE')) AS plain,
    coalesce(p.proconfig = ARRAY['search_path=' || quote_ident(current_schema()) || ', pg_temp'], false) AS pinned,
    p.proconfig IS NULL AS free,
    p.proowner = c.relowner OR r.rolsuper AS owned, r.rolname AS owner
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_roles r ON r.oid = p.proowner
JOIN pg_class c ON c.relnamespace = p.pronamespace AND c.relname = 'event'
WHERE p.pronamespace = current_schema()::regnamespace
"""

_ROLES = """
SELECT coalesce(r.rolname, 'every role') FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND EXISTS (SELECT FROM unnest(s.setconfig) one WHERE one ~* '^session_replication_role=' AND one !~* '=origin$')
UNION ALL SELECT 'this session' WHERE current_setting('session_replication_role') <> 'origin'
"""

_INTERCEPTING = """
SELECT c.relname, 'rule ' || r.rulename FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
WHERE c.relnamespace = current_schema()::regnamespace AND r.rulename <> '_RETURN'
UNION ALL SELECT c.relname, 'row-level security' FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND (c.relrowsecurity OR c.relforcerowsecurity)
UNION ALL SELECT c.relname, 'policy ' || p.polname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
WHERE c.relnamespace = current_schema()::regnamespace
UNION ALL SELECT c.relname, 'table ' || i.inhrelid::regclass || ' inheriting from it'
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent WHERE c.relnamespace = current_schema()::regnamespace
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Weakness:
    """Something that protects the tables no more, or comes between them and who uses them.

    Attributes:
        code: `log_unprotected`, `table_unprotected`, or `table_intercepted` for what is not of fusery's making.
        subject: the trigger, function, table or setting.
        message: what is the case, in one sentence.
    """

    code: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class _Trigger:
    name: str
    table: str
    definition: str
    fires: bool = True
    internal: bool = False
    own: bool = True


def weaknesses(connection: Connection) -> Iterator[Weakness]:
    """Yield what does not protect the tables as it was made to, and what else acts on them."""
    found = _triggers(connection)
    broken = dict(_broken(connection, found))
    for name, what in broken.items():
        if name in FUNCTIONS:
            why = _ALIASES if FUNCTIONS[name].definer else _LOG
            yield Weakness(
                "log_unprotected", f"function {name}", f"the function {name}, {why}, {what}: {_MENDING}"
            )
            continue
        guard = guards_of(connection.dialect.name)[name]
        code, why = ("log_unprotected", _LOG) if guard.table == "event" else ("table_unprotected", _SPELLING)
        yield Weakness(code, f"trigger {name}", f"the trigger {name}, {why}, {what}: {_MENDING}")
    yield from _others(connection, found)
    if connection.dialect.name == "postgresql":
        for role in connection.scalars(text(_ROLES)):
            yield Weakness(
                "log_unprotected",
                f"session_replication_role of {role}",
                f"session_replication_role is set for {role}: no trigger guards the log from it",
            )


def damaged(connection: Connection) -> list[str]:
    """Return the names of triggers and functions of ours that are gone, or are not as they were made."""
    return [name for name, _ in _broken(connection, _triggers(connection))]


def mend(connection: Connection) -> list[str]:
    """Make anew what of the guards is gone or is not as it was made; return their names.

    What else is on the tables is left alone: it is somebody else's.

    Args:
        connection: of a schema change, at this program's schema.
    """
    found = damaged(connection)
    if connection.dialect.name == "postgresql":
        for name in FUNCTIONS:
            if name in found:
                _make_function(connection, name)
    for name, guard in guards_of(connection.dialect.name).items():
        if name in found:
            where = f" ON {guard.table}" if connection.dialect.name == "postgresql" else ""
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}{where}")
            connection.exec_driver_sql(guard.definition)
    return found


def _make_function(connection: Connection, name: str) -> None:
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    # The driver takes a lone percent sign for a parameter.
    connection.exec_driver_sql(statement(name, str(schema)).replace("%", "%%"))
    if FUNCTIONS[name].definer:
        connection.exec_driver_sql(f"REVOKE ALL ON FUNCTION {signature(name)} FROM PUBLIC")
    owner = "SELECT quote_ident(tableowner) FROM pg_tables WHERE tablename = 'event' AND schemaname = current_schema()"
    connection.exec_driver_sql(f"ALTER FUNCTION {signature(name)} OWNER TO {connection.scalar(text(owner))}")


def _broken(connection: Connection, found: Mapping[tuple[str, str], _Trigger]) -> Iterator[tuple[str, str]]:
    """Yield the name of each guard that is none, and what is the matter with it."""
    if connection.dialect.name == "postgresql":
        yield from _broken_functions(connection)
    for name, guard in guards_of(connection.dialect.name).items():
        trigger = found.get((guard.table, name))
        if trigger is None:
            yield name, "is gone"
        elif not trigger.fires:
            yield name, "is switched off"
        elif trigger.definition != guard.definition or not trigger.own:
            yield name, "does something else"


def _broken_functions(connection: Connection) -> Iterator[tuple[str, str]]:
    found = {(row.name, row.types): row for row in connection.execute(text(_FUNCTIONS))}
    for name, ours in FUNCTIONS.items():
        row = found.get((name, ours.types))
        if row is None:
            yield name, "is gone"
        elif (
            (row.body, row.definer) != (ours.body, ours.definer)
            or not row.plain
            or not (row.pinned if ours.pinned else row.free)
        ):
            yield name, "does something else"
        elif not row.owned:
            yield name, f"belongs to {row.owner}, who does not own the log"


def _others(connection: Connection, found: Mapping[tuple[str, str], _Trigger]) -> Iterator[Weakness]:
    ours, known = guards_of(connection.dialect.name), tables.metadata.tables
    for trigger in found.values():
        if trigger.table not in known:
            continue
        if trigger.internal:
            if not trigger.fires:
                yield Weakness(
                    "table_unprotected",
                    f"table {trigger.table}",
                    f"the foreign keys of {trigger.table} are switched off",
                )
        elif trigger.name not in ours or ours[trigger.name].table != trigger.table:
            yield _intercepted(trigger.table, f"trigger {trigger.name}")
    if connection.dialect.name == "postgresql":
        for table, what in connection.execute(text(_INTERCEPTING)):
            if table in known:
                yield _intercepted(table, what)


def _intercepted(table: str, what: str) -> Weakness:
    return Weakness(
        "table_intercepted", f"table {table}", f"{table} has what is not of fusery's making: {what}"
    )


def _triggers(connection: Connection) -> Mapping[tuple[str, str], _Trigger]:
    rows = connection.execute(text(_SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL))
    found = [_Trigger(*row) for row in rows]
    return {(trigger.table, trigger.name): trigger for trigger in found}
