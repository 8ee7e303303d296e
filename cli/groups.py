"""Groups of commands, and what is meant by a command that there is not: the words of other tools, or a slip."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import click

from .commands import FORMER, successor

_MEANT = """
edit: correct fix set update rename tag label note
yank: rm remove delete del drop withdraw deprecate retire archive revoke
yank --undo: unyank undelete undo
list: ls dir adapters models search find query ps
show: info describe view cat inspect
log: logs changelog versions tasks
register: add create new save submit log-model log_model
push: upload publish
pull: clone fetch
get: download
check: validate lint
fuse: merge bake quantize
materialize: package pack bundle build ship
serve: run chat generate
promote: stage transition release
alias rollback: rollback revert
eval: evaluate evaluations metrics test
eval bench: benchmark perf
lineage: provenance graph trace sbom bom slsa
lineage --down: dependents uses
audit: fsck scan
admin gc: clean prune
admin db: migrate upgrade
train: finetune fine-tune fit
identify: which whatis
base list: bases
alias list: aliases
admin trust: keygen
alias approve: unapprove
--help: help
--version: version
"""
MEANT: Mapping[str, str] = {
    word: command
    for command, _, words in (line.partition(": ") for line in _MEANT.strip().splitlines())
    for word in words.split()
}
"""What people type, and the command that does it."""

_WITHIN: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("rm", "delete", "del", "drop", "unset"), ("remove", "revoke", "end", "prune", "unpin")),
    **dict.fromkeys(("ls", "dir"), ("list",)),
    **dict.fromkeys(
        ("get", "info", "describe", "view", "cat", "inspect", "show"), ("show", "list", "explain")
    ),
    **dict.fromkeys(("create", "new", "move", "put"), ("set", "add", "record", "keygen")),
    **dict.fromkeys(("revert", "undo", "back"), ("rollback",)),
    **dict.fromkeys(("clean", "clear"), ("prune",)),
    **dict.fromkeys(("stop", "remove"), ("end", "revoke", "unpin", "prune")),
    "migrate": ("upgrade",),
}
"""The same within a group: what may be meant, of which the first is taken that the group has."""


def unknown(ctx: click.Context, word: str, names: Collection[str], meant: str | None) -> click.UsageError:
    """Return the error about a command that there is not."""
    import difflib

    close = difflib.get_close_matches(word, names, n=1)
    suggestion = meant or (close[0] if close else None)
    hint = f"did you mean '{ctx.command_path} {suggestion}'?" if suggestion else f"{ctx.command_path} --help"
    return click.UsageError(f"There is no command {word[:80]!r}.\nHint: {hint}", ctx)


def former(ctx: click.Context, words: list[str]) -> None:
    """Refuse a command that has another name now, and name that with the same arguments."""
    import shlex

    if replacement := successor(words):
        name, now = replacement
        raise click.UsageError(f"The command {name!r} has another name.\nHint: fusery {shlex.join(now)}", ctx)


class Group(click.Group):
    """A group that answers an unknown command as `fusery` itself does, and whose help cuts no line off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands, each with the whole first line of its help."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, (command.help or "").partition("\n")[0]) for name, command in self.commands.items()]
            )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added, which is that of use."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or name the one that may be meant."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            word = args[0]
            if f"{self.name} {word}" in FORMER:
                former(ctx, [str(self.name), *args])
            meant = next((name for name in _WITHIN.get(word, ()) if name in self.commands), None)
            raise unknown(ctx, word, self.commands, meant)
        return super().resolve_command(ctx, args)
