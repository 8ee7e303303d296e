"""Asking a model a question."""

from __future__ import annotations

from pathlib import Path

import chat_templates
import pytest
import tiny_models

from fusery.cli.demo import answer
from fusery.registry.errors import ModelUnusableError


def test_a_model_is_asked_by_its_chat_template_which_may_not_take_for_ever(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    assert isinstance(answer(folder, "Which course?", limit=2), str)
    (folder / "chat_template.jinja").write_text(chat_templates.SLOW_IF_ASKED)
    assert isinstance(answer(folder, "Which course?", limit=2), str)
    with pytest.raises(ModelUnusableError):
        answer(folder, "be slow", limit=2)
