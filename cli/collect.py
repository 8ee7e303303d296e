"""`fusery admin gc` and `admin cache`: what takes up room and need not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusery.registry.api.fused import Cache
from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .columns import record_table
from .command import command, prints
from .fuse import FUSE, RARE_FUSE, fuse_request
from .session import Session, is_interactive
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.fusion.cache import CacheContents, CachedModel, Pruned
    from fusery.registry.fusion.explain import ExplainedModel
    from fusery.registry.upkeep.report import Collection

_SHOWN = 20  # removed things that are shown to people; --json has all
_DRY_RUN = ": Only show what would be removed."


@command(
    "admin gc",
    document="upkeep.report:Collection",
    dry_run=_DRY_RUN,
    grace="DURATION: Keep blobs younger than this: 90s, 15m, 24h, 14d.",
    force=": Also remove blobs that the database does not know.",
)
def gc(
    session: Session, *, dry_run: bool = False, yes: bool = False, grace: str = "24h", force: bool = False
) -> None:
    """Remove unreferenced blobs from the store.

    It can run at any time, beside other commands. Damaged blobs stay in quarantine.
    """
    from fusery.registry.parsing import parse_duration

    seconds, upkeep = parse_duration(grace), session.registry.upkeep
    if not dry_run and not yes and is_interactive():
        _confirm(session, upkeep.gc(grace=seconds, force=force, dry_run=True), "the store")
    done = upkeep.gc(grace=seconds, force=force, dry_run=dry_run, reporter=session.reporter())
    session.emit(done, names=[item.name for item in done.items_], human=lambda: _print_gc(session, done))


def _print_gc(session: Session, done: Collection) -> None:
    for item in done.items_[:_SHOWN]:
        session.print(f"  {item.kind:<10} {item.name[:64]}  {size(item.bytes)}")
    if len(done.items_) > _SHOWN:
        session.print(f"  and {len(done.items_) - _SHOWN:,} more")
    _summary(session, done, f"{size(done.live_bytes)} are in use")
    if done.quarantined:
        blobs = plural(done.quarantined, "damaged blob")
        session.print(f"  in quarantine: {blobs}, {size(done.quarantined_bytes)}")
    for note in done.notes:
        session.print(f"  note: {note}")


@prints(
    "admin cache list",
    Cache.contents,
    names=lambda contents: [entry.key for entry in contents.entries],
)
def list_cache(session: Session, contents: CacheContents) -> None:
    """List the fused models in the cache, least recently used first."""
    from fusery.registry.fusion.cache import CachedModel

    columns = "combined format bytes key last_used:unused withdrawals aliases"
    session.print_table(record_table(CachedModel, contents.entries, columns, aliases=_stays))
    session.print(f"{size(contents.bytes)} in {contents.path}, the limit is {size(contents.limit_bytes)}")


def _stays(entry: CachedModel) -> str:
    reasons = [name for name, holds in (("pinned", entry.pinned), ("in use", entry.in_use)) if holds]
    return cell([*reasons, *entry.aliases, *(["foreign"] if entry.foreign is not None else [])])


@command("admin cache prune", Cache.prune, target="[SIZE]", dry_run=_DRY_RUN)
def prune(session: Session, target: str | None = None, *, dry_run: bool = False, yes: bool = False) -> None:
    """Remove the least recently used fused models, down to SIZE.

    SIZE is 500MB, 20GiB or 0; default: the setting cache_limit. Pinned models, models of an alias and models in use stay.

    Example: fusery admin cache prune 20GB --dry-run
    """
    from fusery.registry.parsing import parse_size

    limit = None if target is None else parse_size(target)
    cache = session.registry.cache
    if not dry_run and not yes and is_interactive():
        _confirm(session, cache.prune(limit, dry_run=True), "the cache")
    done = cache.prune(limit, dry_run=dry_run)

    def human() -> None:
        for item in done.items_:
            session.print(f"  {item.key[:12]}  {size(item.bytes)}")
        _summary(session, done, f"{size(done.kept_bytes)} are left")
        if not done.fits:
            session.say("The remaining entries are larger than that: they are pinned, aliased or in use.")

    session.emit(done, names=[item.key for item in done.items_], human=human)


def _pin(name: str, text: str, done: str, already: str) -> None:
    """Make a command that changes whether fused models may leave the cache."""

    def change(session: Session, references: tuple[str, ...]) -> None:
        pin = getattr(session.registry.cache, name)
        rows = [row for reference in references for row in pin(reference)]
        lines = [f"{row.key[:12]} {done if row.changed else already}" for row in rows]
        session.emit(rows, names=[row.key for row in rows], human=lambda: session.print_lines(lines))

    change.__doc__ = text
    command(f"admin cache {name}", getattr(Cache, name), references="KEY_OR_REF...")(change)


_pin("pin", "Pin fused models: they stay in the cache, whatever its limit.", "pinned", "was pinned already")
_pin("unpin", "Unpin fused models: they may leave the cache again.", "unpinned", "was not pinned")


@command(
    "admin cache explain",
    document="fusion.explain:Explanation",
    reference="KEY_OR_REF",
    rare=RARE_FUSE,
    **FUSE,
)
def explain(session: Session, reference: str, **options: Any) -> None:
    """Explain why the cache has a fused model, or has not.

    KEY_OR_REF is an adapter, or a fused model by key or digest. The options are those of `fusery fuse`.
    """
    explanation = session.registry.fused.explain(reference, fuse_request(options))

    def human() -> None:
        for model in explanation.models:
            _explain(session, model)

    session.emit(explanation, names=[model.key for model in explanation.models], human=human)


def _explain(session: Session, model: ExplainedModel) -> None:
    session.print(f"{model.status}: {cell(model.label)} {model.key[:12]}: {model.reason}")
    if inputs := model.inputs:
        parts = [("  base", "", inputs.base), ("  adapter", "", inputs.adapter)]
        parts += [("  with", f"{part.weight} x ", part) for part in inputs.with_]
        rows = [(title, f"{times}{cell(part.name)} {part.digest[:12]}") for title, times, part in parts]
        recipe = {key: value for key, value in inputs.recipe.items() if value is not None and key != "with"}
        rows.append(("  recipe", cell(recipe)))
        if here := model.here:
            rows.append(("  here", f"{cell(str(here.path))}, last used {here['last_used']}"))
        if model.missing:
            rows.append(("  missing in the store", cell(list(model.missing))))
        if model.differs:
            rows.append(("  differs from the request in", cell(list(model.differs))))
        session.facts(rows)


def _summary(session: Session, done: Mapping[str, Any], rest: str) -> None:
    verb = "Would remove" if done["dry_run"] else "Removed"
    session.print(f"{verb} {done['removed']:,}, {size(done['freed_bytes'])}; kept {done['kept']:,}, {rest}.")


def _confirm(session: Session, plan: Collection | Pruned, where: str) -> None:
    if plan.removed:
        session.confirm(f"Remove {plan.removed:,} from {where}, {size(plan.freed_bytes)}?")
