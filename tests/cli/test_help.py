"""What `--help` prints fits a terminal of 80 columns, in full, and shows commands in the order of a user's day."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
import pytest
from fixture_types import Fusery

from fusery.cli.commands import ADMIN, COMMANDS, EVERYDAY, SECTIONS
from fusery.cli.main import cli

WIDTH = 80
MOST_OPTIONS = 12


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
    for words in all_commands():
        command = found(*words)
        shown = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
        assert len(shown) <= MOST_OPTIONS, words
        everything = any("--help-all" in each.opts for each in command.params)
        ran = fusery(*words, "--help-all" if everything else "--help")
        printed = ran.out
        # Click's markup is not printed, and paragraphs marked with it keep their line breaks.
        assert (ran.code, "\\" in printed, "\b" in printed) == (0, False, False), words
        parts = inspect.cleandoc(command.help or "").split("\n\n")
        laid_out = [part.removeprefix("\b\n") for part in parts if part.startswith("\b\n")]
        for line in "\n".join(laid_out).splitlines():
            assert f"  {line}\n" in printed, words
        assert len(shown) == len(
            [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
        )
        assert [line for line in printed.splitlines() if len(line) > WIDTH] == []
        told = " ".join(printed.split())
        for option in command.params:
            if isinstance(option, click.Option):
                assert " ".join((option.help or "").split()) in told
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                first = (found(*words, name).help or "").splitlines()[0]
                assert re.search(rf"^  {name} +{re.escape(first)}$", printed, re.MULTILINE), name


def test_the_first_screen_and_the_whole_tree(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert (len(EVERYDAY), len(COMMANDS) <= 32) == (12, True)
    printed = fusery("--help").out
    table, _, others = printed.partition("Everyday:")[2].partition("More commands")
    assert re.findall(r"^  (\S+)", table, re.MULTILINE) == list(EVERYDAY)
    assert others.split("\n", 1)[1].split() == [name for name in COMMANDS if name not in EVERYDAY]
    printed = fusery("--help-all").out
    assert re.findall(r"^(\S.*):$", printed, re.MULTILINE) == ["Options", *SECTIONS]
    table = printed.partition("Everyday:")[2]
    assert re.findall(r"^  (\S+)", table, re.MULTILINE) == list(COMMANDS)
    assert len({line.index(line.split()[1], 2) for line in table.splitlines() if line.startswith("  ")}) == 1
    assert re.findall(
        r"^  (\S+)", fusery("admin", "--help").out.partition("Commands:")[2], re.MULTILINE
    ) == list(ADMIN)
