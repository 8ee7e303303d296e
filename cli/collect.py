"""`fusery gc` and `cache`: what takes up room and need not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .columns import record_table
from .fuse import make_request, request_options
from .groups import Group
from .session import Session, command
from .text import cell, count, told

if TYPE_CHECKING:
    from fusery.registry.fusion.cache import CachedModel, Pinned
    from fusery.registry.fusion.explain import ExplainedModel, Ingredient

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
_YES = click.option("-y", "--yes", is_flag=True, help="Do not ask first, on a terminal.")
_SHOWN = 20
"""Removed things that are shown to people; --json has all."""


@command("gc")
@_DRY_RUN
@_YES
@click.option(
    "--grace",
    metavar="DURATION",
    default="24h",
    show_default=True,
    help="Leave alone what was stored within this time: 90s, 15m, 24h, 14d.",
)
@click.option("--force", is_flag=True, help="Remove blobs that the database does not know, too.")
def gc_command(session: Session, dry_run: bool, yes: bool, grace: str, force: bool) -> None:
    """Remove from the store what nothing refers to.

    Blobs that were stored and never recorded, generations that were given up, part files and uploads of interrupted
    writes.  It may run at any time, beside anything else; what was found damaged stays in quarantine.
    """
    from fusery.registry.parsing import parse_duration

    options: dict[str, Any] = {"grace": parse_duration(grace), "force": force}
    registry = session.registry
    if not dry_run and not yes and _asks():
        plan = registry.upkeep.gc(**options, dry_run=True)
        if plan.removed:
            _confirm(plan.removed, plan.freed_bytes, "the store")
    done = registry.upkeep.gc(**options, dry_run=dry_run, reporter=session.reporter())

    def human() -> None:
        for item in done.items_[:_SHOWN]:
            session.print(f"  {item.kind:<10} {item.name[:64]}  {size(item.bytes)}")
        if len(done.items_) > _SHOWN:
            session.print(f"  and {count(len(done.items_) - _SHOWN)} more")
        _summary(session, done, f"{size(done.live_bytes)} are in use")
        if done.quarantined:
            session.print(
                f"  in quarantine: {plural(done.quarantined, 'damaged blob')}, {size(done.quarantined_bytes)}"
            )
        for note in done.notes:
            session.print(f"  note: {note}")

    session.emit(done, names=[item.name for item in done.items_], human=human)


@click.group("cache", cls=Group)
def cache_command() -> None:
    """List, prune, pin and explain this machine's fused models.

    explain says why a fuse is a hit or a miss.
    """


@command("list", table=True)
def list_(session: Session) -> None:
    """List the fused models in the cache, least recently used first."""
    contents = session.registry.cache.contents()

    def human() -> None:
        from fusery.registry.fusion.cache import CachedModel

        columns = "combined format bytes key last_used:unused withdrawals aliases"
        texts = {
            "withdrawals": lambda entry: told(entry) or "-",
            "aliases": lambda entry: cell(_stays(entry)),
        }
        session.print_table(record_table(CachedModel, contents.entries, columns, **texts))
        session.print(f"{size(contents.bytes)} in {contents.path}, the limit is {size(contents.limit_bytes)}")

    session.emit(contents, names=[entry.key for entry in contents.entries], human=human)


def _stays(entry: CachedModel) -> list[str]:
    reasons = [name for name, holds in (("pinned", entry.pinned), ("in use", entry.in_use)) if holds]
    return [*reasons, *entry.aliases, *(["foreign"] if entry.foreign is not None else [])]


@command("prune")
@click.argument("target", metavar="[SIZE]", required=False)
@_DRY_RUN
@_YES
def prune(session: Session, target: str | None, dry_run: bool, yes: bool) -> None:
    """Remove what was not used for longest, down to SIZE.

    SIZE is 500MB, 20GiB, 0; without it, the setting cache_limit.  Pinned models, those that an alias stands for and
    those being read stay.  What was removed is made again when it is asked for.
    """
    from fusery.registry.parsing import parse_size

    limit = None if target is None else parse_size(target)
    registry = session.registry
    if not dry_run and not yes and _asks():
        plan = registry.cache.prune(limit, dry_run=True)
        if plan.removed:
            _confirm(plan.removed, plan.freed_bytes, "the cache")
    done = registry.cache.prune(limit, dry_run=dry_run)

    def human() -> None:
        for item in done.items_:
            session.print(f"  {item.key[:12]}  {size(item.bytes)}")
        _summary(session, done, f"{size(done.kept_bytes)} are left")
        if not done.fits:
            session.say("What is left is more than that: it is pinned, aliased or in use.")

    session.emit(done, names=[item.key for item in done.items_], human=human)


@command("pin")
@click.argument("references", metavar="KEY_OR_REF...", nargs=-1, required=True)
def pin(session: Session, references: tuple[str, ...]) -> None:
    """Keep fused models in the cache, whatever its limit."""
    _pin(session, references, session.registry.cache.pin, "pinned", "was pinned already")


@command("unpin")
@click.argument("references", metavar="KEY_OR_REF...", nargs=-1, required=True)
def unpin(session: Session, references: tuple[str, ...]) -> None:
    """Let fused models leave the cache again."""
    _pin(session, references, session.registry.cache.unpin, "unpinned", "was not pinned")


def _pin(
    session: Session,
    references: tuple[str, ...],
    change: Callable[[str], list[Pinned]],
    done: str,
    already: str,
) -> None:
    rows = [row for reference in references for row in change(reference)]

    def human() -> None:
        for row in rows:
            session.print(f"{row.key[:12]} {done if row.changed else already}")

    session.emit(rows, names=[row.key for row in rows], human=human)


@command("explain")
@click.argument("reference", metavar="KEY_OR_REF")
@request_options
def explain(session: Session, reference: str, **options: Any) -> None:
    """Say why a fuse is a hit or a miss.

    It shows what makes its key, and what of it is here.  KEY_OR_REF is a fused artifact by key or digest, or an
    adapter; the options are those of fuse.
    """
    explanation = session.registry.fused.explain(reference, make_request(options))

    def human() -> None:
        for model in explanation.models:
            _explain(session, model)

    session.emit(explanation, names=[model.key for model in explanation.models], human=human)


def _explain(session: Session, model: ExplainedModel) -> None:
    session.print(f"{model.status}: {cell(model.label)} {model.key[:12]}: {model.reason}")
    if inputs := model.inputs:
        rows = [("  base", _input(inputs.base)), ("  adapter", _input(inputs.adapter))]
        rows += [("  with", f"{part.weight} x {_input(part)}") for part in inputs.with_]
        shown = {name: value for name, value in inputs.recipe.items() if value is not None}
        rows.append(("  recipe", cell({key: value for key, value in shown.items() if key != "with"})))
        if here := model.here:
            rows.append(("  here", f"{cell(str(here.path))}, last used {here['last_used']}"))
        if model.missing:
            rows.append(("  missing in the store", cell(list(model.missing))))
        if model.differs:
            rows.append(("  not what is asked for, by its", cell(list(model.differs))))
        session.facts(rows)


def _input(part: Ingredient) -> str:
    return f"{cell(part.name)} {part.digest[:12]}"


def _summary(session: Session, document: Mapping[str, Any], rest: str) -> None:
    verb = "Would remove" if document["dry_run"] else "Removed"
    session.print(
        f"{verb} {count(document['removed'])}, {size(document['freed_bytes'])}; "
        f"kept {count(document['kept'])}, {rest}."
    )


def _asks() -> bool:
    """Whether there is somebody to ask; a script is taken to mean what it says."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _confirm(removed: int, freed: int, where: str) -> None:
    click.confirm(f"Remove {count(removed)} from {where}, {size(freed)}?", abort=True, err=True)


for _made in (list_, prune, pin, unpin, explain):
    cache_command.add_command(_made)
