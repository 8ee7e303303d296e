"""What `--help` prints fits a terminal of 80 columns, in full, and shows commands in the order of a user's day."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from fixture_types import Fusery

import fusery.cli
from fusery.cli.commands import COMMANDS, FORMER, SECTIONS
from fusery.cli.hints import Hints
from fusery.cli.main import cli

WIDTH = 80
FOLDER = Path(str(fusery.cli.__file__)).parent


def all_commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name)


def found(*words: str) -> click.Command:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        inner = command.get_command(click.Context(command), word)
        assert inner is not None
        command = inner
    return command


def test_help_fits_80_columns(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    for words in (*all_commands(), *((name,) for name in FORMER)):
        printed = fusery(*words, "--help").out
        assert [line for line in printed.splitlines() if len(line) > WIDTH] == []
        command = found(*words)
        told = " ".join(printed.split())
        for option in command.params:
            if isinstance(option, click.Option):
                assert " ".join((option.help or "").split()) in told
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                first = (found(*words, name).help or "").splitlines()[0]
                assert re.search(rf"^  {name} +{re.escape(first)}$", printed, re.MULTILINE), name


def test_sections_come_in_the_order_of_a_day(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    printed = fusery("--help").out
    titles = ["Get started", "Track", "Compare", "Fuse", "Ship", "Prove", "Run as a team"]
    assert re.findall(r"^(\S.*):$", printed, re.MULTILINE) == ["Options", *titles]
    assert list(SECTIONS) == titles
    table = printed.partition("Get started:")[2]
    assert re.findall(r"^  (\S+)", table, re.MULTILINE) == list(COMMANDS)
    assert len({line.index(line.split()[1], 2) for line in table.splitlines() if line.startswith("  ")}) == 1


def test_an_old_spelling_works_and_no_help_shows_it(fusery: Fusery) -> None:
    hints = Hints()
    hints.registry = "here"
    shown = fusery("--help").out
    for former, (_, now) in FORMER.items():
        assert found(former) is found(*now.split())
        assert f"Usage: fusery {former} " in fusery(former, "--help").out
        assert not re.search(rf"^  {former} ", shown, re.MULTILINE)
        assert hints.spelled(f"fusery {former} X") == f"fusery --registry here {former} X"


WITH_TABLES = {
    "base list", "list", "history", "diff", "compare", "probe", "bench", "fidelity", "cache list", "alias list",
    "alias history", "deploy list", "eval list", "eval record", "eval run", "eval withdraw", "events", "import", "signature list", "trust list", "push", "pull", "rules list", "token list",
    "webhook list",
}  # fmt: skip


def test_every_command_with_a_table_can_show_all_of_it() -> None:
    wide = {
        " ".join(words)
        for words in all_commands()
        if "wide" in {parameter.name for parameter in found(*words).params}
    }
    assert wide == WITH_TABLES
    modules = {
        path.name for path in FOLDER.glob("*.py") if ".print_table(" in path.read_text(encoding="utf-8")
    }
    declared = {
        path.name for path in FOLDER.glob("*.py") if "table=True)" in path.read_text(encoding="utf-8")
    }
    assert modules == declared
