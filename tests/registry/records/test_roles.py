"""Roles: each may do what those before it may, and the table knows the same ones."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product

import pytest
from sqlalchemy import CheckConstraint

from fusery.registry import BadInputError, Registry, tables
from fusery.registry.errors import RoleError
from fusery.registry.records.tokens import (
    MEANINGS,
    ROLES,
    allows,
    has_role,
    may_change,
    parse_role,
    require_may_change,
)


def test_each_role_may_what_those_before_it_may() -> None:
    assert ROLES == ("reader", "publisher", "approver", "admin")
    assert list(MEANINGS) == list(ROLES)
    for (first, one), (second, other) in product(enumerate(ROLES), repeat=2):
        assert allows(one, other) is (first >= second)
    [check] = [one for one in tables.TokenRow.__table__.constraints if isinstance(one, CheckConstraint)]
    assert str(check.sqltext) == f"role IN ({', '.join(map(repr, ROLES))})"
    assert parse_role(" Admin ") == "admin"
    with pytest.raises(BadInputError):
        parse_role("root")


def test_a_publisher_changes_only_own_adapters(stocked: Registry) -> None:
    with stocked.workspace.database.read() as session:
        adapter = session.get_one(tables.AdapterRow, 1)
        for name, role, may in (
            ("tester", "publisher", True),
            ("Tester (laptop)", "publisher", True),
            ("ann", "publisher", False),
            ("ann", "admin", True),
            ("ann", "", True),
        ):
            workspace = stocked.workspace.acting(name, role=role)
            assert may_change(workspace, session, "amendment", adapter) is may, (name, role)
            assert has_role(workspace, "approver") is (role != "publisher")
            with nullcontext() if may else pytest.raises(RoleError):
                require_may_change(workspace, session, "amendment", adapter)
