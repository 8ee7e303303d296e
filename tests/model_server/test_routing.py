"""Names and splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import pytest

from fusery.model_server.routing import RoutingTable, pick
from fusery.registry.runtime.document import ServingDocument, Tenant
from fusery.registry.runtime.errors import Refusal
from fusery.registry.runtime.switching import Resident

USERS = [f"user-{number}" for number in range(5_000)]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def table(**more: Any) -> RoutingTable:
    names = ["a_v1", "a_v2", "b_v1"]
    document = {
        "format": 1,
        "base": {"name": "tiny", "folder": "base", "digest": "f" * 64},
        "adapters": [{"name": name, "folder": name, "digest": digest(name)} for name in names],
        "routes": {"a#prod": "a_v1", "a": {"a_v1": 0.9, "a_v2": 0.1}, "plain": "tiny"},
    }
    residents = {name: Resident(name, digest(name), number, 1, (), 0) for number, name in enumerate(names)}
    return RoutingTable(ServingDocument.model_validate(document | more), residents)


ACME = Tenant(name="acme", key_sha256=[digest("one")], models=["a", "b_v1", "gone_v3"])
EVERYTHING = Tenant(name="all", key_sha256=[digest("three")])


def test_names_lead_to_what_they_say() -> None:
    found = table()
    assert found.names(None) == ["tiny", "a_v1", "a_v2", "b_v1", "a#prod", "a", "plain"]
    target = found.choose("a#prod", None, None)
    assert (target.name, target.digest) == ("a_v1", digest("a_v1"))
    assert target.resident is not None
    for name in ("tiny", "plain"):
        target = found.choose(name, None, None)
        assert (target.name, target.resident, target.digest) == ("tiny", None, "f" * 64)


def test_a_split_has_its_weights_and_sticks_to_a_user_or_a_tenant() -> None:
    found = table()
    chosen = {user: found.choose("a", None, user).name for user in USERS}
    share = Counter(chosen.values())["a_v2"] / len(USERS)
    assert share == pytest.approx(0.1, abs=0.01)  # users are hashed: the share is always the same
    assert all(found.choose("a", None, user).name == name for user, name in list(chosen.items())[:100])
    for tenant in (ACME, EVERYTHING):
        assert len({found.choose("a", tenant, None).name for _ in range(50)}) == 1
    # Without a user or a key both come by chance; that one of them does not has a chance of 1 in 10^45.
    assert {found.choose("a", None, None).name for _ in range(1_000)} == {"a_v1", "a_v2"}


def test_other_weights_move_nobody_between_other_parts() -> None:
    before = {"a": 0.5, "b": 0.3, "c": 0.2}
    for after in ({**before, "c": 0.4}, {**before, "c": 0.0}, {"a": 0.5, "b": 0.3}):
        moved = [(pick(before, [user]), pick(after, [user])) for user in USERS]
        assert all(old == new or "c" in (old, new) for old, new in moved)
        assert any(old != new for old, new in moved)


def test_a_tenant_sees_its_models_and_no_others() -> None:
    found = table()
    assert found.names(ACME) == ["b_v1", "a"]
    assert len(found.names(EVERYTHING)) == 7
    assert found.choose("b_v1", ACME, None).name == "b_v1"
    refusals = []
    for name in ("a_v1", "tiny", "a#prod", "gone_v3"):
        with pytest.raises(Refusal) as caught:
            found.choose(name, ACME, None)
        refusals.append(str(caught.value).replace(name, "NAME"))
    with pytest.raises(Refusal) as caught:
        found.choose("nothing", ACME, None)
    assert {*refusals, str(caught.value).replace("nothing", "NAME")} == {
        "the model 'NAME' does not exist or you have no access to it"
    }
