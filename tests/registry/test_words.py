"""Names for a shell, from either database."""

from __future__ import annotations

import pytest

from fusery.registry import Registry
from fusery.registry.words import names_beginning


def test_names_of_every_kind(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    stocked.set_alias("course_rec@1", "prod")
    settings = stocked.workspace.settings
    if settings.database_url:
        monkeypatch.setenv("FUSERY_DATABASE_URL", settings.database_url)
    else:
        monkeypatch.delenv("FUSERY_DATABASE_URL", raising=False)

    def names(prefix: str, kind: str) -> list[str]:
        return names_beginning(prefix, [kind], home=settings.home)  # type: ignore[list-item]

    assert names("course", "adapter") == ["course_rec_v2_20260201", "course_rec_v1_20260115"]
    assert names("", "task") == ["course_rec"]
    assert names("course_rec@", "latest") == ["course_rec@latest"]
    assert names("", "alias") == ["course_rec#prod"]
    assert names("p", "alias_name") == ["prod"]
    assert names("TI", "base") == ["tiny"]
    assert names("'; DROP TABLE task; --", "task") == names("_", "task") == []
    assert stocked.audit().ok
