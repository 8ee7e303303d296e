"""`fusery base add` reports known models, taken names and chat templates that do not work."""

from __future__ import annotations

import shutil
from pathlib import Path

import chat_templates
import pytest
import tiny_models
from fixture_types import Fusery

from .conftest import require_refusals


def test_known_models_and_taken_names(fusery: Fusery, tmp_path: Path) -> None:
    one = tiny_models.make_base(tmp_path / "one")
    two = tiny_models.make_base(tmp_path / "two", shards=3)
    other = shutil.copytree(one, tmp_path / "other")
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert fusery("base", "add", one, "--name", "tiny").code == 0
    done = fusery("base", "add", two, "--name", "org/tiny")
    assert (done.code, done.out.splitlines()[0]) == (0, "Already there: tiny")
    view = fusery("base", "add", two, "--name", "org/tiny", "--json").json
    assert (view["created"], view["same_as"], view["names"]) == (False, "tiny", ["tiny", "org/tiny"])
    require_refusals(fusery, (("base", "add", other, "--name", "tiny"), "'tiny'"))
    assert len(fusery("base", "list", "--json").json) == 1


@pytest.mark.slow
def test_a_chat_template_that_never_ends_is_named(fusery: Fusery, tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "one")
    assert fusery("base", "add", folder, "--name", "good", "--json").json["findings"] == []
    (folder / "chat_template.jinja").write_text(chat_templates.ENDLESS)
    done = fusery("base", "add", folder, "--name", "bad")
    assert (done.code, "warning: chat_template_exceeds: chat_template.jinja: " in done.out) == (0, True)
    (finding,) = fusery("base", "add", folder, "--name", "bad", "--json").json["findings"]
    assert (finding["code"], finding["subject"]) == ("chat_template_exceeds", "chat_template.jinja")


@pytest.mark.slow
def test_a_broken_chat_template_is_noted(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "first" / "chat_template.jinja").write_text("{% if messages %}")
    assert stocked("register", "first", "--base", "tiny", "--task", "broken").code == 0
    for words in (
        "fuse broken@1",
        "fuse --all --task broken --jobs 1",
        "materialize broken@1 out --target model",
        "materialize broken@1 other --target adapters",
    ):
        ran = stocked(*words.split())
        assert ran.code == 0, ran.err
        assert [
            line for line in ran.err.splitlines() if "chat_template_fails" in line and "broken_v1" in line
        ]
    assert "chat_template_fails" not in stocked("fuse", "course_rec@2").err
