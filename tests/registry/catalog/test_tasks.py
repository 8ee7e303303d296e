"""The tasks of a registry: of each the newest version and its aliases, page by page."""

from __future__ import annotations

from pathlib import Path

import tiny_models

from fusery.registry import Registry


def test_each_has_its_newest_version_and_its_aliases(registry: Registry, tmp_path: Path) -> None:
    assert registry.adapters.tasks() == []
    base = tiny_models.make_base(tmp_path / "tiny")
    registry.bases.add(base, name="tiny")
    for number, task in enumerate(["mail", "course_rec", "course_rec", "notes", "course_rec"]):
        folder = tiny_models.make_adapter(tmp_path / f"a{number}", base, seed=number, num_layers=1)
        registry.adapters.register(folder, base="tiny", task=task, val_loss=1 + number / 8, dataset="d")
    registry.aliases.set("prod", "course_rec@1")
    registry.aliases.set("staging", "course_rec@3")
    registry.aliases.set("prod", "mail@1")
    registry.aliases.remove("mail#prod")
    registry.adapters.yank("course_rec@3", reason="trained on the test set")
    found = registry.adapters.tasks()
    assert [task.task for task in found] == ["course_rec", "mail", "notes"]
    course, mail, _ = found
    newest = registry.adapters.show("course_rec@latest")
    assert (course.adapter, course.version, course.val_loss) == (newest.name, 3, newest.val_loss)
    assert course.created_at == newest.created_at and course.created_by == newest.created_by
    assert [(held.alias, held.version) for held in course.aliases] == [("prod", 1), ("staging", 3)]
    assert [each.reason for each in course.withdrawals] == ["trained on the test set"]
    assert (mail.aliases, mail.withdrawals) == ((), ())
    assert [task.task for task in registry.adapters.tasks(after="course_rec", limit=1)] == ["mail"]
    assert [task.task for task in registry.adapters.tasks(holding="O")] == ["course_rec", "notes"]
    assert [task.task for task in registry.adapters.tasks(holding="_")] == ["course_rec"]
    assert registry.adapters.tasks(holding="%") == []
