"""`fusery demo` with a tiny model in place of the real one, on which `end_to_end` runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import chat_templates
import pytest
import tiny_models
from fixture_types import Fusery

from fusery.cli import demo
from fusery.cli.session import Session
from fusery.registry.errors import AlreadyExistsError, ModelUnusableError
from fusery.storage.errors import MissingFileError

BASE, TASK = demo.BASE, demo.TASK
NAMES = ("adapters_course_rec_v1_20261120", "adapters_course_rec_v2_20261124")
COMMANDS = (
    f"base add ~ --name {BASE}", f"register ~ --base {BASE}", f"register ~ --base {BASE}",
    f"check ~ --base {BASE} --task {TASK}", f"register ~ --base {BASE} --task {TASK}",
    "list", f"diff {TASK}@1 {TASK}@2", f"show {TASK}@2", f"fuse {TASK}@2", f"fuse {TASK}@2",
    f"materialize {TASK}@2 ~", f"materialize {TASK}@2 ~ --target docker", f"lineage {TASK}@2", "audit",
    "base add ~", f"fuse {TASK}@2 --base {demo.SMALL} --as keep", f"fuse {TASK}@2 --base {demo.SMALL}",
)  # fmt: skip
REFUSED = {3: 1, 4: 2}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model and adapters for it, found as those of the demo are."""
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    folder = tmp_path / "examples"
    base = tiny_models.make_base(folder / "model", layers=2, hidden=64, intermediate=128)
    for seed, name in enumerate(NAMES):
        tiny_models.make_adapter(folder / name, base, seed=seed, rank=4, update=0.3)
        (folder / name / "adapter_metadata.json").write_text(json.dumps({"version": seed + 1}))
    (folder / "data").mkdir()
    (folder / "data" / "valid.jsonl").write_text("{}\n")
    (folder / "questions.json").write_text(json.dumps([{"question": "Which course?", "answer": "BEAM-275"}]))
    monkeypatch.setattr(demo, "_model_file", lambda: base)
    monkeypatch.setattr(demo, "_examples", lambda: folder)
    return folder


def settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("FUSERY_")}


def test_the_story(examples: Path, fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents: list[demo.Demonstration] = []
    emit = Session.emit

    def noted(self: Session, document: Any, **how: Any) -> None:
        if isinstance(document, demo.Demonstration):
            documents.append(document)
        emit(self, document, **how)

    monkeypatch.setattr(Session, "emit", noted)
    monkeypatch.setenv("FUSERY_CACHE_DIR", "elsewhere")
    before = settings()
    ran = fusery("demo", "--folder", "shown")
    assert ran.code == 0, ran.err
    assert settings() == before
    folder, typed = tmp_path / "shown", re.findall(r"^\$ (.*)", ran.out, re.MULTILINE)
    assert typed[:2] == ["unset FUSERY_CACHE_DIR", f"export FUSERY_REGISTRY={folder / 'home'}"]
    [done] = documents
    assert (done.folder, done.home) == (folder, folder / "home")
    commands = [step.command for step in done.steps]
    assert [re.sub(r" (/|shown/)\S+", " ~", line) for line in commands] == [
        f"fusery {words}" for words in COMMANDS
    ]
    assert {at: step.exit_code for at, step in enumerate(done.steps) if step.exit_code} == REFUSED
    assert [line for line in typed[2:] if "mlx_lm.convert" not in line] == commands
    assert len(typed) == len(commands) + 3
    assert re.findall(r"^(\d)\. ", ran.out, re.MULTILINE) == list("12345678")
    models = ["base", "base + adapter", "fused"]
    assert [answer.model for answer in done.answers] == models
    assert {(answer.question, answer.expected) for answer in done.answers} == {("Which course?", "BEAM-275")}
    assert done.answers[0].answer != done.answers[1].answer
    for label in (*models, "expected"):
        assert re.search(rf"^   {re.escape(label)} {{2,}}\S", ran.out, re.MULTILINE), label
    keep, auto = done.four_bits
    assert (keep.precision, auto.precision == "keep") == ("keep", False)
    for kept, label in ((keep, "keep"), (auto, "auto")):
        [line] = re.findall(rf"^   {label}, .*", ran.out, re.MULTILINE)
        assert f" {100 * (kept.retained or 0):.1f} %" in line
        assert f" {100 - 100 * (kept.retained or 0):.1f} %" in ran.out.partition(line)[2]
    assert len(ran.out.partition("\n\n   Four bits")[2].splitlines()) == 15
    for label in ("registry", "database", "store", "fused models", "model folder", "Dockerfile bundle"):
        [place] = re.findall(rf"^{label} +(\S+)$", ran.out, re.MULTILINE)
        assert Path(place).exists(), label
    assert (folder / "questions.jsonl").is_file()
    assert [line.rpartition("shown")[1] for line in ran.err.splitlines()[-2:]] == ["shown"] * 2
    made_by = {row["created_by"] for row in fusery("--registry", folder / "home", "list", "--json").json}
    assert made_by == {"tester"}


def test_a_folder_is_made_anew_unless_somebody_else_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "demo"
    for _ in range(2):
        demo._fresh(folder)
        assert {path.name for path in folder.iterdir()} - {"mine"} == {demo._MARKER}
        for name in ("home", "adapters_broken", demo.SMALL, *NAMES, "mine"):
            (folder / name).mkdir(exist_ok=True)
    (folder / demo._MARKER).unlink()
    with pytest.raises(AlreadyExistsError):
        demo._fresh(folder)
    assert {"home", "mine"} < {path.name for path in folder.iterdir()}


def test_what_did_not_come_with_the_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {path.name for path in demo._examples().glob(demo._ADAPTERS)} == set(NAMES)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for look in (demo._model_file, demo._examples):
        with pytest.raises(MissingFileError):
            look()


def test_a_model_is_asked_by_its_chat_template_which_may_not_take_for_ever(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    assert isinstance(demo.answer(folder, "Which course?", limit=2), str)
    (folder / "chat_template.jinja").write_text(chat_templates.SLOW_IF_ASKED)
    assert isinstance(demo.answer(folder, "Which course?", limit=2), str)
    with pytest.raises(ModelUnusableError):
        demo.answer(folder, "be slow", limit=2)
