"""Least privileges: what readers, publishers, servers and admins may do in a PostgreSQL database, as SQL for its owner to run.

Rights are given to four roles without login, and people are made members of them.  The log of events can be read and
added to; nobody but the owner of the tables can change or remove what is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from .. import tables
from ..errors import BadInputError
from .connection import Database
from .functions import FUNCTIONS, signature
from .schema import VERSION_TABLE

Role = Literal["reader", "publisher", "server", "admin"]
ROLES: Sequence[Role] = get_args(Role)

NOT_INSERTED = frozenset(
    {"registry", "alias", "alias_move", "alias_rule", "token", "trusted_key", "webhook", "webhook_delivery"}
)
"""Tables into which only an admin writes: `fusery init`, what an alias and a signature have to fulfil, whom a server lets in,
and who is sent events.

Aliases are moved by a function, which holds them against their rules and has its owner's rights.
"""

NOT_SAID = {"approval": ("authenticated",)}
"""Columns of new rows that a publisher leaves out: that an approval rests on a token is said by the server that saw it."""

UPDATED = {
    # What somebody said, which `amend` corrects: the audit holds it against the amendments.
    "adapter": ("date", "val_loss", "dataset_id", "examples", "note"),
    "adapter_tag": ("value",),
    "approval": ("withdrawn_at",),
    "base_model": ("content", "location"),
    "blob": ("state", "generation", "created_at", "tomb_expires"),
    "deployment": ("ended_at", "ended_by"),
    "evaluation": ("withdrawn_at", "withdrawn_by", "withdrawn_reason"),
    "intent": ("expires",),
    "lease": ("owner", "fence", "expires"),
    "manifest_file": ("blob",),
    # Whoever delivers events decides neither to whom nor which.
    "webhook_delivery": ("position", "attempts", "error", "next_at", "delivered_at", "disabled_at"),
    "yank": ("lifted_at", "lifted_by"),
}
"""What a publisher may change: where things are, who works on them and what is said of them, never what an adapter is."""

DELETED = ("adapter_tag", "intent")
"""Tables from which a publisher may delete: tags that it takes off, and its own claims on blobs."""

_ABOUT = {
    "reader": "list, show, history, lineage, audit",
    "publisher": "what a reader may, and base add, register, amend, fuse, materialize, alias, approve, promote, yank, webhook deliver",
    "server": "what a publisher may, and record that a token says who approved",
    "admin": "everything: db upgrade, gc, restore, rules, keys, tokens",
}


def grants_for(database: Database, role: Role | None = None, user: str | None = None) -> str:
    """Return the SQL that makes the roles, or one of them, and gives them their rights.

    It may be run again, and has to be after `fusery db upgrade`: new tables come without rights.

    Args:
        database: a PostgreSQL database.
        role: only this one.
        user: a login to make a member of it.

    Raises:
        BadInputError: the database is SQLite, which has no users; or a user without a role.
    """
    if database.dialect != "postgresql":
        raise BadInputError(
            "SQLite has no users: who may read or write a registry is decided by the permissions of its file",
            hint="fusery db grants is for PostgreSQL; name one with FUSERY_DATABASE_URL",
        )
    if user is not None and role is None:
        raise BadInputError("a user without a role", hint=f"--role {'|'.join(ROLES)} --user NAME")
    lines = [
        "-- Run this as the owner of the database, in the schema that holds the registry's tables:",
        "--     fusery db grants | psql DATABASE",
        "-- Run it again after `fusery db upgrade`.",
        "BEGIN;",
    ]
    for each in ROLES if role is None else (role,):
        lines += ["", f"-- {each}: {_ABOUT[each]}", *_make(each), *_STATEMENTS[each]()]
    if user is not None:
        lines += ["", f"GRANT fusery_{role} TO {quoted(user)};"]
    return "\n".join([*lines, "COMMIT;"]) + "\n"


def quoted(name: str) -> str:
    """Return a name as an identifier of SQL.

    Raises:
        BadInputError: it cannot be one.
    """
    if not name or len(name.encode()) > 63 or not name.isprintable():
        raise BadInputError(f"{name[:60]!r} is not the name of a user", hint="1 to 63 bytes, all printable")
    return '"' + name.replace('"', '""') + '"'


def _names() -> list[str]:
    return sorted(tables.metadata.tables)


def _make(role: Role) -> list[str]:
    name = f"fusery_{role}"
    return [
        "DO $$ BEGIN",
        f"  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN CREATE ROLE {name} NOLOGIN; END IF;",
        "END $$;",
        "DO $$ BEGIN",
        f"  EXECUTE format('GRANT CONNECT ON DATABASE %I TO {name}', current_database());",
        f"  EXECUTE format('GRANT USAGE ON SCHEMA %I TO {name}', current_schema());",
        "END $$;",
    ]


def _reader(role: Role = "reader") -> list[str]:
    everything = ", ".join([*_names(), VERSION_TABLE])
    return [
        f"REVOKE ALL ON {everything} FROM fusery_{role};",  # an earlier version may have given more
        f"GRANT SELECT ON {everything} TO fusery_{role};",
    ]


def _publisher(role: Role = "publisher") -> list[str]:
    inserted = [name for name in _names() if name not in NOT_INSERTED and name not in NOT_SAID]
    return [
        *_reader(role),
        f"GRANT INSERT ON {', '.join(inserted)} TO fusery_{role};",
        *(
            f"GRANT INSERT ({', '.join(_said(table))}) ON {table} TO fusery_{role};"
            for table in sorted(NOT_SAID)
        ),
        *(
            f"GRANT UPDATE ({', '.join(columns)}) ON {table} TO fusery_{role};"
            for table, columns in sorted(UPDATED.items())
        ),
        f"GRANT DELETE ON {', '.join(DELETED)} TO fusery_{role};",
        f"GRANT EXECUTE ON FUNCTION {signature('move_alias')} TO fusery_{role};",
        "DO $$ BEGIN",
        f"  EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO fusery_{role}', current_schema());",
        "END $$;",
    ]


def _said(table: str) -> list[str]:
    return [
        column.name for column in tables.metadata.tables[table].columns if column.name not in NOT_SAID[table]
    ]


def _server() -> list[str]:
    return [
        *_publisher("server"),
        *(
            f"GRANT INSERT ({', '.join(columns)}) ON {table} TO fusery_server;"
            for table, columns in sorted(NOT_SAID.items())
        ),
    ]


def _admin() -> list[str]:
    # Only an owner can alter a table; its sequences go with it.
    return [
        *(f"ALTER TABLE {name} OWNER TO fusery_admin;" for name in [*_names(), VERSION_TABLE]),
        *(f"ALTER FUNCTION {signature(name)} OWNER TO fusery_admin;" for name in FUNCTIONS),
        f"GRANT ALL ON {', '.join([*_names(), VERSION_TABLE])} TO fusery_admin;",
        "DO $$ BEGIN",
        "  EXECUTE format('GRANT CREATE ON SCHEMA %I TO fusery_admin', current_schema());",
        "END $$;",
    ]


_STATEMENTS = {"reader": _reader, "publisher": _publisher, "server": _server, "admin": _admin}
