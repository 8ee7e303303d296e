"""What PostgreSQL makes of the program's tables, asked of a server once: an audit has it make all of them for each look.

What a database's own tables are is asked each time, and compared as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection

from fusery.registry.audit import checks
from fusery.registry.database import Database, definitions

_EXPECTED: dict[Any, definitions.Facts] = {}
"""By the version of the server."""


def differences(database: Database) -> list[definitions.Difference]:
    """Stand in for `definitions.differences`."""
    if database.dialect == "sqlite":
        return definitions.differences(database)
    with database.scratch() as connection:
        version = connection.dialect.server_version_info
        if version in _EXPECTED:
            found = definitions._postgresql_facts(connection, definitions._OWN_SCHEMA)
            return list(definitions._compared(found, _EXPECTED[version]))
    honest = definitions._postgresql_facts

    def kept(connection: Connection, schema: str) -> definitions.Facts:
        facts = honest(connection, schema)
        if schema != definitions._OWN_SCHEMA:
            _EXPECTED[version] = facts
        return facts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "_postgresql_facts", kept)
        return definitions.differences(database)


@contextmanager
def definitions_known() -> Iterator[None]:
    """Let audits in this process ask only what a database's tables are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "differences", differences)
        yield
