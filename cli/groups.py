"""Groups of commands, and what is meant by a command that there is not: the words of other tools, or a slip."""

from __future__ import annotations

from collections.abc import Mapping

import click

from .commands import ADMIN

_MEANT = """
edit: amend correct fix set update rename tag label note
yank: rm remove delete del drop withdraw deprecate retire archive revoke
yank --undo: unyank undelete undo
list: ls dir adapters models search find query ps
show: info describe view cat inspect
show --fidelity: fidelity
log: logs changelog versions tasks events history
register: import add create new save submit log-model log_model
push: upload publish
pull: clone fetch
get: download export path
diff: compare
combine: shrink
sign: signature
sign --log: anchor
check: validate lint
fuse: merge bake quantize
materialize: package pack bundle build ship
serve: run chat generate
promote: stage transition release
alias rollback: rollback revert
alias rules: rules
eval: evaluate evaluations metrics test
eval bench: bench benchmark perf
eval probe: probe
lineage: provenance graph trace attest sbom bom slsa
lineage --down: impact dependents uses
audit: fsck scan
admin gc: clean prune
admin db: migrate upgrade
deploy sync: sync
doctor: completion
ui: report
train: finetune fine-tune fit
identify: which whatis
identify --verify: verify
base list: bases
base calibrate: calibrate
alias list: aliases
admin trust: keygen
alias approve: approve unapprove
--help: help
--version: version
"""
MEANT: Mapping[str, str] = {
    word: command
    for command, _, words in (line.partition(": ") for line in _MEANT.strip().splitlines())
    for word in words.split()
} | {name: f"admin {name}" for name in ADMIN}
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


class Group(click.Group):
    """A group that answers an unknown command with the one that may be meant, and whose help cuts no line off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands, each with the whole first line of its help."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, (command.help or "").partition("\n")[0]) for name, command in self.commands.items()]
            )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added, which is that of use."""
        return list(self.commands)

    def meant(self, word: str) -> str | None:
        """Return the command of this group for a word of another tool."""
        return next((name for name in _WITHIN.get(word, ()) if name in self.commands), None)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or name the one that may be meant."""
        names, word = self.list_commands(ctx), args[0] if args else "-"
        if word in names or word.startswith("-"):
            return super().resolve_command(ctx, args)
        import difflib

        meant = self.meant(word) or next(iter(difflib.get_close_matches(word, names, n=1)), None)
        hint = f"did you mean '{ctx.command_path} {meant}'?" if meant else f"{ctx.command_path} --help"
        raise click.UsageError(f"There is no command {word[:80]!r}.\nHint: {hint}", ctx)
