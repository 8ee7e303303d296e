"""What people type who know other tools is answered with the command that does it."""

from __future__ import annotations

import click
import pytest
from fixture_types import Fusery

from fusery.cli.commands import COMMANDS
from fusery.cli.groups import _WITHIN, MEANT
from fusery.cli.main import cli


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("edit", "fusery amend"),
        ("rm", "fusery yank"),
        ("DELETE", "fusery yank"),
        ("ls", "fusery list"),
        ("describe", "fusery show"),
        ("regster", "fusery register"),
        ("rollback", "fusery alias rollback"),
        ("upgrade", "fusery db upgrade"),
        ("version", "fusery --version"),
        ("alias rm", "fusery alias remove"),
        ("base ls", "fusery base list"),
        ("base ad", "fusery base add"),
        ("trust delete", "fusery trust revoke"),
        ("token delete", "fusery token revoke"),
        ("cache clean", "fusery cache prune"),
        ("deploy stop", "fusery deploy end"),
        ("db migrate", "fusery db upgrade"),
    ],
)
def test_the_command_that_is_meant(fusery: Fusery, words: str, meant: str) -> None:
    ran = fusery(*words.split())
    last = words.split()[-1]
    assert (ran.code, ran.out) == (2, "")
    assert f"There is no command '{last}'." in ran.err
    assert f"Hint: did you mean '{meant}'?" in ran.err
    assert fusery(*words.split(), "--json").json["error"]["hint"] == f"did you mean '{meant}'?"


def test_what_nobody_means(fusery: Fusery) -> None:
    assert "Hint: fusery --help" in fusery("xyzzy").err
    assert "Hint: fusery base --help" in fusery("base", "xyzzy").err


def test_every_word_leads_to_a_command_and_is_none_itself() -> None:
    context = click.Context(cli)
    for word, meant in MEANT.items():
        assert word not in COMMANDS
        name, *rest = meant.split()
        if name.startswith("--"):
            assert any(name in parameter.opts for parameter in cli.params) or name == "--help"
            continue
        command = cli.get_command(context, name)
        assert command is not None, meant
        options = {option for parameter in command.params for option in parameter.opts}
        known = options | set(command.commands if isinstance(command, click.Group) else ())
        assert set(rest) <= known, meant
    groups = [cli.get_command(context, name) for name in COMMANDS]
    below = {inner for group in groups if isinstance(group, click.Group) for inner in group.commands}
    assert {meant for words in _WITHIN.values() for meant in words} <= below
