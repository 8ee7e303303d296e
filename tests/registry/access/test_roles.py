"""Roles: each may do what those before it may, and the table knows the same ones."""

from __future__ import annotations

from itertools import product

import pytest
from sqlalchemy import CheckConstraint

from fusery.registry import BadInputError, tables
from fusery.registry.access.roles import MEANINGS, ROLES, allows, parse_role


def test_each_role_may_what_those_before_it_may() -> None:
    assert ROLES == ("reader", "publisher", "approver", "admin")
    assert list(MEANINGS) == list(ROLES)
    for (first, one), (second, other) in product(enumerate(ROLES), repeat=2):
        assert allows(one, other) is (first >= second)
    [check] = [one for one in tables.Token.__table__.constraints if isinstance(one, CheckConstraint)]
    assert str(check.sqltext) == f"role IN ({', '.join(map(repr, ROLES))})"
    assert parse_role(" Admin ") == "admin"
    with pytest.raises(BadInputError):
        parse_role("root")
