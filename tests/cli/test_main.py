"""The group: its table of commands, its start-up, and how errors are printed."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import pytest
from database_facts import forced
from fixture_types import Fusery

from fusery.cli.commands import COMMANDS
from fusery.cli.main import cli
from fusery.cli.options import LocalPath

from .conftest import every_command, require_refusals

HEAVY = (
    "sqlalchemy", "alembic", "mlx", "mlx_lm", "transformers", "numpy", "rich", "pydantic", "fsspec", "safetensors",
)  # fmt: skip
UNASKED = (
    "html", "tomllib", "tarfile", "platformdirs", "multiprocessing", "urllib.request", "fusery.registry.provenance",
    "fusery.registry.registration", "fusery.registry.tables.fused", "fusery.registry.tables.trust",
    "fusery.registry.tables.trail",
)  # fmt: skip
"""Modules that are cheap to import, and that `fusery list` does not need."""


ALL = dict(every_command())


def imported_by(*words: str) -> set[str]:
    """Return the names of modules, and of packages, that a command imports."""
    code = f"import sys; from fusery.cli.main import run; run({list(words)!r}); print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    names = done.stderr.splitlines()
    return {*names, *(name.partition(".")[0] for name in names)}


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.parametrize("words", [("--help",), ("--version",), ("nonsense",), ("fuse", "--help")], ids=str)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    unasked = set() if words == ("--version",) else {"importlib.metadata"}
    assert imported_by(*words).isdisjoint({*HEAVY, *unasked})


@pytest.mark.timing
def test_listing_imports_no_model_library(stocked: Fusery) -> None:
    imported = imported_by("list")
    assert "sqlalchemy" in imported
    assert imported.isdisjoint({*HEAVY, *UNASKED} - {"sqlalchemy"})


@pytest.mark.timing
def test_a_fuse_from_the_cache_imports_no_numbers(stocked: Fusery) -> None:
    stocked("fuse", "course_rec@2")
    assert imported_by("fuse", "course_rec@2").isdisjoint({*HEAVY} - {"sqlalchemy", "rich", "safetensors"})


def test_every_command_has_help_and_both_ways_of_printing() -> None:
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert (command.name, (command.help or "").splitlines()[0]) == (name, line)
    for name, command in ALL.items():
        assert command.help
        assert {"as_json", "quiet"} <= {parameter.name for parameter in command.params}
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (name, parameter.name)


def test_errors_as_text_and_as_json(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = stocked("show", "course_rek@1", "--json")
    assert (missing.code, missing.err) == (2, "")
    error = missing.json["error"]
    assert error.keys() == {"code", "message", "hint"}
    assert (error["code"], "course_rec@1" in error["hint"]) == ("unknown_reference", True)
    words = ("--registry", "none")
    plain, debug = stocked(*words, "list"), stocked("--debug", *words, "list")
    assert (plain.code, plain.out, len(plain.err.splitlines())) == (2, "", 2)
    assert (debug.code, debug.err.startswith("Traceback (most recent call last):")) == (2, True)
    assert debug.err.endswith(plain.err)
    assert stocked("list", "--json", "-q").code == 2
    assert stocked("show", "--json").json["error"]["code"] == "usage"
    assert stocked("--registry", "h" * 300, "list", "--json").json["error"]["code"] == "os_error"
    monkeypatch.delenv("_FUSERY_RAISES")
    require_refusals(
        stocked,
        ("list --registry there", "fusery --registry DIR|URL list"),
        ("alias list --debug", "fusery --debug alias list"),
        ("show a\udcff@1", "usage"),
    )
    for words in (("base", "add", "no\x1b[31mfile"), ("sh\u202eow",), ("show", "--nope\u202e")):
        ran = stocked(*words)
        assert (ran.code, re.findall("[\x1b\u202e]", ran.err)) == (2, []), words


def test_a_folder_that_is_gone(fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    require_refusals(fusery, ("--registry relative list", "current folder"))


@pytest.mark.timing
@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback(stocked: Fusery) -> None:
    words = f"{sys.executable} -P -c 'from fusery.cli.main import main; main()' list --json | head -c 1"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


FACTS = (
    ("--alpha", "inf"),
    ("--val-loss", "nan"),
    ("--version", "9223372036854775808"),
    ("--examples", "9223372036854775808"),
    ("--examples", "-5"),
    ("--note", "\udcff"),
    ("--tag", "A=1", "--tag", "a=2"),
    ("--tag", "a=\udcff"),
)


def test_facts_that_cannot_be_kept_are_refused(stocked: Fusery) -> None:
    for facts in FACTS:
        for name in ("register", "check") if facts[0] not in ("--note", "--tag") else ("register",):
            done = stocked(name, "first", "--base", "tiny", "--task", "other", *facts)
            assert (done.code, done.err.count("Error: ")) == (2, 1), (name, facts)
    assert len(stocked("list", "--json").json) == 2


def test_names_are_printed_as_they_are(stocked: Fusery) -> None:
    digest = stocked("show", "course_rec@1", "--json").json["digest"]
    assert stocked("show", digest[:20].upper(), "-q").out == "course_rec_v1_20260115\n"
    words = ("--base", "tiny", "--task", "other", "--dataset", "a:fire:ü")
    assert stocked("register", "first", *words).code == 0
    assert "a:fire:ü" in stocked("list").out
    for form in ("tree", "mermaid", "dot"):
        assert "a:fire:ü" in stocked("lineage", "other@1", "--format", form).out


def test_doctor_prints_the_line_for_completion(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert 'eval "$(_FUSERY_COMPLETE=zsh_source fusery)"' in fusery("doctor").err


def test_a_database_that_was_edited_is_no_traceback(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not check types: a column can hold a value that fusery never writes."""
    monkeypatch.delenv("_FUSERY_RAISES")
    for statement, words, code in (
        ("UPDATE adapter SET version = 'x' WHERE version = 2", ("show", "course_rec@2"), "unexpected"),
        ("UPDATE adapter SET created_at = 'yesterday'", ("list",), "record_unreadable"),
    ):
        with forced(tmp_path / "home" / "fusery.db") as connection:
            connection.execute(statement)
        require_refusals(stocked, (words, code), (words, "fusery audit"))
        if code == "unexpected":
            assert "\nTypeError: " in stocked("--debug", *words).err


def test_a_repair_is_advised_only_where_there_is_one(stocked: Fusery, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as connection, connection:
        connection.execute("UPDATE adapter SET val_loss = 0.01 WHERE version = 2")
    ran = stocked("audit", "course_rec@2")
    assert (ran.code, "record_changed" in ran.out, "--repair" in ran.err) == (1, True, False)


URL_OPTIONS = {"push --to", "pull --from", "register sources", "check folders"}
"""Parameters that also accept URLs."""


def test_every_path_refuses_a_url() -> None:
    """A URL as a path would become a folder called `https:`."""
    accepting = {
        f"{name} {max(each.opts, key=len)}"
        for name, command in ALL.items()
        for each in command.params
        if isinstance(each.type, click.Path) and not isinstance(each.type, LocalPath)
    }
    assert accepting == URL_OPTIONS


def test_a_file_or_url_as_home(fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain.txt").write_text("kept")
    urls = ("https:/host", "file:///tmp/home", "s3://bucket/home")
    monkeypatch.setenv("FUSERY_TOKEN", "x" * 20)
    server = ("http://host/home", "--insecure-http")
    for home, named in (("plain.txt", "is a file"), server, *((url, "is a URL") for url in urls)):
        for words in (("admin", "init"), ("list",), ("doctor",), ("register", "somewhere")):
            require_refusals(fusery, (("--registry", home, *words), named))
        monkeypatch.setenv("FUSERY_REGISTRY", home)
        require_refusals(fusery, ("admin init", named))
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    monkeypatch.setenv("FUSERY_CACHE_DIR", urls[0])
    require_refusals(fusery, ("admin cache list", "is a URL"))
    for words in (("demo", "--dir", urls[0]), ("get", "course_rec@1", urls[0]), ("ui", "--save", urls[0])):
        assert fusery(*words).code == 2, words
    assert [path.name for path in tmp_path.iterdir()] == ["plain.txt"]
