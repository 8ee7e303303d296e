"""What `fusery base add` says of a model: that it is there already, that its chat template is no good."""

from __future__ import annotations

import shutil
from pathlib import Path

import chat_templates
import tiny_models
from fixture_types import Fusery


def test_a_model_in_other_files_is_called_a_further_name(fusery: Fusery, tmp_path: Path) -> None:
    one = tiny_models.make_base(tmp_path / "one")
    two = tiny_models.make_base(tmp_path / "two", shards=3)
    assert fusery("base", "add", one, "--name", "tiny").code == 0
    done = fusery("base", "add", two, "--name", "org/tiny")
    assert done.code == 0
    assert done.out.splitlines()[:2] == [
        "Already there: tiny",
        "The same model in other files: org/tiny is a further name of tiny.",
    ]
    view = fusery("base", "add", two, "--name", "org/tiny", "--json").json
    assert (view["created"], view["same_as"], view["names"]) == (False, "tiny", ["tiny", "org/tiny"])


def test_other_bytes_under_a_taken_name_are_bad_input(fusery: Fusery, tmp_path: Path) -> None:
    one = tiny_models.make_base(tmp_path / "one")
    two = shutil.copytree(one, tmp_path / "two")
    with (two / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert fusery("base", "add", one, "--name", "tiny").code == 0
    done = fusery("base", "add", two, "--name", "tiny")
    assert done.code == 2
    assert "the name 'tiny' belongs to a base model with other bytes" in done.err
    assert len(fusery("base", "list", "--json").json) == 1


def test_a_chat_template_that_never_ends_is_named(fusery: Fusery, tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "one")
    assert fusery("base", "add", folder, "--name", "good", "--json").json["findings"] == []
    (folder / "chat_template.jinja").write_text(chat_templates.ENDLESS)
    done = fusery("base", "add", folder, "--name", "bad")
    assert done.code == 0
    assert (
        "  warning: chat_template_exceeds: chat_template.jinja: the model's chat template needed more"
        in done.out
    )
    assert "    Hint: do not use it" in done.out
    (finding,) = fusery("base", "add", folder, "--name", "bad", "--json").json["findings"]
    assert (finding["code"], finding["subject"]) == ("chat_template_exceeds", "chat_template.jinja")
