"""Roles: each may do what those before it may, and the table knows the same ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import CheckConstraint

from fusery.registry import BadInputError, tables
from fusery.registry.access.roles import MEANINGS, ROLES, allows, parse_role

roles = st.sampled_from(ROLES)


def test_the_order() -> None:
    assert ROLES == ("reader", "publisher", "approver", "admin")
    assert list(MEANINGS) == list(ROLES)


@given(roles, roles, roles)
def test_they_are_in_one_order(first: str, second: str, third: str) -> None:
    one, two, three = (parse_role(role) for role in (first, second, third))
    assert allows(one, one)
    assert allows(one, two) or allows(two, one)
    assert not (allows(one, two) and allows(two, one)) or one == two
    assert not (allows(one, two) and allows(two, three)) or allows(one, three)


def test_the_table_knows_the_same() -> None:
    [check] = [one for one in tables.Token.__table__.constraints if isinstance(one, CheckConstraint)]
    assert str(check.sqltext) == f"role IN ({', '.join(map(repr, ROLES))})"


def test_no_role() -> None:
    assert parse_role(" Admin ") == "admin"
    with pytest.raises(BadInputError, match="'root' is not a role"):
        parse_role("root")
