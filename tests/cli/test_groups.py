"""A word of another tool is answered with the command that does the same."""

from __future__ import annotations

import click
from fixture_types import Fusery

from fusery.cli.commands import COMMANDS
from fusery.cli.groups import _WITHIN, MEANT
from fusery.cli.main import cli

EXPECTED = {
    "correct": "edit",
    "rm": "yank",
    "DELETE": "yank",
    "compare": "diff",
    "gc": "admin gc",
    "regster": "register",
    "rollback": "alias rollback",
    "upgrade": "admin db",
    "version": "--version",
    "alias rm": "alias remove",
    "base ad": "base add",
    "admin trust delete": "admin trust revoke",
    "admin cache clean": "admin cache prune",
    "deploy stop": "deploy end",
}


def test_the_command_that_is_meant(fusery: Fusery) -> None:
    for words, meant in EXPECTED.items():
        ran = fusery(*words.split(), "--json")
        assert (ran.code, ran.json["error"]["hint"]) == (2, f"did you mean 'fusery {meant}'?")
        assert f"'{words.split()[-1]}'" in ran.json["error"]["message"]
    assert "Hint: fusery --help" in fusery("xyzzy").err
    assert "Hint: fusery base --help" in fusery("base", "xyzzy").err
    assert "Hint: fusery admin --help" in fusery("admin", "rm").err


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
        known = options | set(command.list_commands(context) if isinstance(command, click.Group) else ())
        assert set(rest) <= known, meant
    groups = [cli.get_command(context, name) for name in COMMANDS]
    admin = cli.get_command(context, "admin")
    assert isinstance(admin, click.Group)
    groups += [admin.get_command(context, name) for name in admin.list_commands(context)]
    below = {inner for group in groups if isinstance(group, click.Group) for inner in group.commands}
    assert {meant for words in _WITHIN.values() for meant in words} <= below
