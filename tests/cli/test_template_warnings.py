"""`fuse` and `materialize` warn about chat templates that cannot be rendered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fusery = Callable[..., Any]


@pytest.mark.parametrize(
    "words",
    [
        ("fuse", "broken@1"),
        ("fuse", "--all", "--task", "broken"),
        ("materialize", "broken@1", "out", "--target", "model"),
        ("materialize", "broken@1", "out", "--target", "adapters"),
    ],
)
def test_a_broken_chat_template_is_noted(stocked: Fusery, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "first" / "chat_template.jinja").write_text("{% if messages %}")
    assert stocked("register", "first", "--base", "tiny", "--task", "broken").code == 0
    ran = stocked(*words)

    assert ran.code == 0, ran.err
    assert [line for line in ran.err.splitlines() if "chat_template_fails" in line and "broken_v1" in line]
    assert "chat_template_fails" not in stocked("fuse", "course_rec@2").err
