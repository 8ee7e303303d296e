"""What waits for approval: newest versions, by the rules of their task, and only for approvals that count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace


@pytest.fixture
def registry(tmp_path: Path, database_url: str) -> Iterator[Registry]:
    """Two versions of one task and one of another, by anna."""
    base = tiny_models.make_base(tmp_path / "tiny", layers=1)
    with Registry(
        Workspace(Settings(home=tmp_path / "home", database_url=database_url, user="anna"))
    ) as made:
        made.init()
        made.bases.add(base, name="tiny")
        for seed, task in enumerate(("a", "a", "b")):
            folder = tiny_models.make_adapter(tmp_path / f"adapter{seed}", base, num_layers=1, seed=seed)
            made.adapters.register(folder, base="tiny", task=task)
        yield made


def waiting(registry: Registry) -> list[tuple[str, int | None, int, tuple[str, ...]]]:
    found = registry.aliases.waiting(registry.adapters.tasks())
    return [(each.alias, each.version, each.wanted, each.approvals) for each in found]


def test_from_the_rule_to_the_approval(registry: Registry) -> None:
    assert waiting(registry) == []
    registry.aliases.set("a#prod", "a@1")
    registry.aliases.set_rules("a#prod", {"approvals": 2})
    assert waiting(registry) == [("a#prod", 1, 2, ())]
    [found] = registry.aliases.waiting(registry.adapters.tasks())
    assert found.adapter == registry.adapters.history("a")[-1].name
    for name, authenticated in (("bea", False), ("bea", True)):
        registry.acting(name, authenticated=authenticated).aliases.approve("a@2", "prod")
    registry.acting("carl", authenticated=False).aliases.approve("a@1", "prod")  # of another version
    registry.acting("carl", authenticated=False).aliases.approve("a@2", "canary")  # for another alias
    assert waiting(registry) == [("a#prod", 1, 2, ("bea",))]
    registry.acting("dan", authenticated=False).aliases.approve("a@2", "prod")
    assert waiting(registry) == []
    registry.aliases.set_rules("a#prod", {"approvals": 2, "authenticated": True})
    assert waiting(registry) == [("a#prod", 1, 2, ("bea",))]
    registry.acting("bea").aliases.withdraw_approval("a@2", "prod")
    assert waiting(registry) == [("a#prod", 1, 2, ())]
    registry.adapters.yank("a@2", reason="no")
    assert waiting(registry) == []


def test_rules_of_all_tasks_count_where_a_task_has_the_alias_and_none_of_its_own(registry: Registry) -> None:
    registry.aliases.set_rules("*#prod", {"approvals": 1}, guarded=False)
    assert waiting(registry) == []
    registry.aliases.set("a#prod", "a@1")
    registry.aliases.set("b#prod", "b@1")
    assert waiting(registry) == [("a#prod", 1, 1, ())]  # b#prod holds the newest
    registry.aliases.set_rules("a#prod", {"approvals": 3}, guarded=False)
    assert waiting(registry) == [("a#prod", 1, 3, ())]
    registry.aliases.set_rules("a#prod", {"admission": "no_errors"}, guarded=False)
    assert waiting(registry) == []
