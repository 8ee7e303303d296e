"""What people see on a terminal, a real one: tables that fit and can be copied, and colours unless they are unwanted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from fixture_types import Fusery
from terminals import shown_on

from fusery.cli.main import run

pytestmark = pytest.mark.timing

ESCAPE = "\x1b"
NAMES = ("course_rec_v1_20260115", "course_rec_v2_20260201")
USUAL = (
    "name", "aliases", "state", "age", "by", "val loss", "base", "rank", "method", "layers", "parameters", "dataset",
)  # fmt: skip
TABLES = {
    "list": NAMES,
    "log course_rec": NAMES,
    "base list": ("tiny",),
    "alias list": ("course_rec#prod", "course_rec#canary"),
    "deploy list": ("eu/ranker",),
    "alias rules list": ("*#prod",),
    "log": ("1", "2", "3", "4"),
    "admin cache list": NAMES[1:],
    "diff course_rec": ("rank", "dataset"),
    "push course_rec@1 --to other": NAMES[:1],
}
"""Commands with a table, and first cells of its rows."""

CODE = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]")


@pytest.fixture(scope="module")
def busy_home(stocked_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the home of a registry with something in every table; to be copied."""
    folder = shutil.copytree(stocked_home, tmp_path_factory.mktemp("busy"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSERY_REGISTRY", str(folder / "home"))
        patch.setenv("FUSERY_USER", "tester")
        for words in (
            ("alias", "set", "course_rec@2", "prod", "--reason", "won the A/B test of the spring, by a wide margin"),
            ("alias", "set", "course_rec@1", "canary"),
            ("edit", "course_rec@2", "--dataset", "courses_of_the_spring_without_duplicates", "--reason", "was wrong"),
            ("deploy", "record", "course_rec@2", "eu/ranker"),
            ("alias", "rules", "set", "prod", "--approvals", "1"),
            ("fuse", "course_rec@2"),
            ("yank", "course_rec@1", "--reason", "leaks what nobody should read"),
        ):  # fmt: skip
            assert run(list(words)) == 0, words
    return folder


@pytest.fixture
def busy(fusery: Fusery, busy_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fusery:
    """A registry with something in every table."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    shutil.copytree(busy_home, tmp_path, dirs_exist_ok=True)
    return fusery


def table_in(shown: str) -> tuple[str, list[str]]:
    """Return the titles and the rows of the table in what a command showed."""
    lines = [line.split("\r")[-1] for line in CODE.sub("", shown).split("\n")]
    rule = next(number for number, line in enumerate(lines) if line and not line.strip("─"))
    width = len(lines[rule])
    rows = []
    for line in lines[rule + 1 :]:
        if (
            line.startswith(("No room for ", "* was amended", "Note: ", "Copied ", "1.3", "Hint: "))
            or not line
        ):
            break
        rows.append(line)
    assert all(len(line) <= width for line in (lines[rule - 1], *rows)), shown
    return lines[rule - 1], rows


@pytest.mark.parametrize("columns", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_every_table_fits_the_terminal(busy: Fusery, columns: int) -> None:
    shown = shown_on(columns, *(words.split() for words in TABLES))
    for (words, first), text in zip(TABLES.items(), shown, strict=True):
        titles, rows = table_in(text)
        assert all(len(line) <= columns for line in (titles, *rows)), words
        for name in first:
            assert sum(row.split()[0].startswith(name) for row in rows) >= 1, (words, name)
        assert ("…" in text) <= (columns < 200), words
    titles, rows = table_in(shown[0])
    assert [row.split()[0] for row in rows] == list(NAMES)
    kept = [title for title in USUAL if title in titles]
    assert kept == list(USUAL[: len(kept)])
    if columns == 200:
        assert len(kept) == len(USUAL)
        assert "No room" not in shown[0]
    else:
        assert f"No room for {', '.join(USUAL[len(kept) :])}; piped, the table has all.\n" in shown[0]
        assert 4 <= len(kept) < len(USUAL)


def test_what_is_asked_for_is_shown_whole(busy: Fusery) -> None:
    chosen, narrow = shown_on(
        60,
        ("list", "--columns", "name,Dataset,val-loss,digest"),
        ("list", "--sort", "val_loss"),
        env={"COLUMNS": "50"},
    )
    titles, rows = table_in(chosen)
    assert re.split(r"  +", titles) == ["name", "dataset", "val loss", "digest"]
    assert "courses_of_the_spring_without_duplicates*" in rows[1]
    assert "No room" not in chosen
    titles, rows = table_in(narrow)
    assert max(len(line) for line in (titles, *rows)) <= 50


COLOURED = (("list",), ("lineage", "course_rec@2"), ("--help",), ("list", "--help"), ("nonsense",))


@pytest.mark.slow
def test_no_colour_means_no_escape_code_at_all(busy: Fusery, tmp_path: Path) -> None:
    moving = (
        ("admin", "backup", str(tmp_path / "backup")),  # shows a progress bar of bytes
        ("audit",),  # shows a progress bar of blobs
    )
    fuse = ("fuse", "course_rec@2", "--as", "16bit")
    shown = shown_on(80, *COLOURED, *moving, fuse, env={"NO_COLOR": "1", "FORCE_COLOR": "1"})
    for env in ({"NO_COLOR": "0"}, {"TERM": "dumb"}):
        assert all(ESCAPE not in text for text in shown_on(80, *COLOURED, env=env))
    assert all(ESCAPE not in text for text in shown)
    assert re.search(r"\rcopying \S+ \S*B of \S+ \S*B", shown[-3])
    assert re.search(r"\rreading \d+/\d+", shown[-2])
    # A finished bar is overwritten with blanks, and the next line starts at the beginning of that line.
    left = "\n".join(line.split("\r")[-1] for text in shown for line in text.split("\n"))
    assert not re.search(r"\d \S*B of|reading \d+/", left)


def test_every_column_of_list_has_something_to_show(busy: Fusery) -> None:
    from fusery.cli.columns import COLUMNS

    rows = busy("list", "--columns", ",".join(COLUMNS)).out.splitlines()
    assert len(rows) == 4
    assert len(rows[0].split("  ")) >= len(COLUMNS)
    told = " ".join(busy("list", "--help").out.partition("Show these columns in full: ")[2].split())
    assert set(told.partition(". ")[0].split(", ")) == {*COLUMNS, "metric.NAME"}
    known = set(busy("list", "--json").json[0])
    assert set(COLUMNS) - known == {"state", "age"}
