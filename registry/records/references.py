"""From what a user typed to the record that is meant, with the nearest names when nothing fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVarTuple

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, not_, or_, select, union
from sqlalchemy.orm import Session, aliased, joinedload, selectinload

from .. import tables
from ..errors import AmbiguousReferenceError, BadInputError, UnknownReferenceError
from ..names import MAX_DECLARED_VERSION, Reference

_STEP = 1_000
"""The most that a version above the limit may exceed its task's newest version."""

Values = TypeVarTuple("Values")


@dataclass(frozen=True, slots=True)
class Subject:
    """A record that a reference names, of whatever kind: exactly one of the three is set."""

    base: tables.BaseModel | None = None
    adapter: tables.Adapter | None = None
    fused: tables.Fused | None = None


def load_adapters(*, in_full: bool = False) -> Select[tables.Adapter]:
    """Return the query for adapters with all that their views need, in a constant number of statements.

    In full, files, training and what was measured come too; what is one row, or a few short ones, comes with the adapter itself,
    since each further statement is another way to the server.  Its rows are to be made unique.
    """
    adapter, base = tables.Adapter, joinedload(tables.Adapter.base)
    query = select(adapter).options(
        joinedload(adapter.task),
        joinedload(adapter.dataset),
        joinedload(adapter.parent),
        selectinload(adapter.tags),
        selectinload(adapter.findings),
        selectinload(adapter.amendments),
    )
    if not in_full:
        return query.options(base.selectinload(tables.BaseModel.names))
    return query.options(
        base.joinedload(tables.BaseModel.names),
        joinedload(adapter.manifest).selectinload(tables.Manifest.files),
        joinedload(adapter.run),
        joinedload(adapter.renderings),
        joinedload(adapter.signatures).joinedload(tables.Signature.key),
        selectinload(adapter.curve),
        selectinload(adapter.evaluations),
    )


def _load_one() -> Select[tables.Adapter]:
    """Return the query for one adapter: what is asked of it beside its own row comes with a statement each, and only if it is asked."""
    adapter = tables.Adapter
    return select(adapter).options(
        *map(joinedload, (adapter.task, adapter.base, adapter.dataset, adapter.parent))
    )


def resolve_adapter(
    session: Session, text: str, among: Select[tables.Adapter] | None = None
) -> tables.Adapter:
    """Return the adapter that a reference names.

    Args:
        session: of any transaction.
        text: the reference.
        among: the query for adapters, with what is needed of them; None where the rest may come as it is asked for.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several adapters.
    """
    if (found := _find_adapter(session, text, among)) is None:
        raise _no_adapter(session, text)
    return found


def _find_adapter(session: Session, text: str, among: Select[tables.Adapter] | None) -> tables.Adapter | None:
    """Return what `resolve_adapter` does, None where nothing has that name."""
    try:
        reference = Reference.parse(text)
    except BadInputError:
        return None
    query = _load_one() if among is None else among
    found = list(session.scalars(named_by(reference, query).limit(3)).unique())
    if reference.kind == "digest" and len({adapter.digest for adapter in found}) > 1:
        names = ", ".join(adapter.name for adapter in found)
        raise AmbiguousReferenceError(
            f"the digest {text} fits more than one adapter: {names}", hint="give more digits"
        )
    return found[0] if found else None


def _no_adapter(session: Session, text: str) -> UnknownReferenceError:
    """Return the error for an adapter that there is not, with those that may be meant."""
    try:
        reference = Reference.parse(text)
    except BadInputError as error:
        return _unknown(session, text, error.hint)
    return no_alias(session, text) if reference.kind == "alias" else _unknown(session, text, "fusery list")


def named_by(reference: Reference, query: Select[*Values]) -> Select[*Values]:
    """Return a query for adapters, or for some of their columns, of those alone that a reference can mean."""
    adapter = tables.Adapter
    if reference.kind == "name":
        return query.where(adapter.name == reference.value)
    if reference.kind == "digest":
        return query.where(begins_with(adapter.digest, reference.value)).order_by(adapter.id)
    query = query.join(adapter.task.of_type(tables.Task)).where(tables.Task.name == reference.task)
    if reference.kind == "version":
        return query.where(adapter.version == int(reference.value))
    if reference.kind == "latest":
        return query.where(adapter.version == latest_version())
    alias = tables.Alias
    return query.join(alias, alias.adapter_id == adapter.id).where(alias.name == reference.value)


def latest_version(at: datetime | None = None) -> ColumnElement[int]:
    """Return the expression for the version that `@latest` means, for the task of the enclosing query.

    It is the newest version.  An adapter from `combine` or `shrink` is skipped until it has a validation loss, unless the task
    has no other adapter.

    Args:
        at: a moment; None for now.
    """
    version, source, change = aliased(tables.Adapter), tables.AdapterSource, tables.Amendment
    versions = select(version.version).where(version.task_id == tables.Task.id)
    measured: ColumnElement[bool] = version.val_loss.is_not(None)
    if at is not None:
        versions = versions.where(version.created_at <= at)
        later = select(change.before).where(
            change.adapter_id == version.id, change.field == "val_loss", change.since > at
        )
        first = later.order_by(change.id).limit(1).correlate(version).scalar_subquery()
        measured = case((first.is_not(None), first != "null"), else_=measured)
    computed = exists().where(source.adapter_id == version.id).correlate(version)
    found, newest = (
        query.order_by(version.version.desc()).limit(1).correlate(tables.Task).scalar_subquery()
        for query in (versions.where(or_(measured, not_(computed))), versions)
    )
    return func.coalesce(found, newest)


def no_alias(session: Session, text: str) -> UnknownReferenceError:
    """Return the error for an alias that there is not, with those that may be meant."""
    task, _, wanted = text.strip().partition("#")
    alias = tables.Alias
    there = select(tables.Task.name, alias.name).join(alias.task).where(alias.adapter_id.is_not(None))
    own = [name for _, name in session.execute(there.where(tables.Task.name == task).limit(1000))]
    if own:
        # What the names of a task have in common says nothing.
        import difflib

        close = difflib.get_close_matches(wanted[:_LONGEST].casefold(), own, n=1, cutoff=0.5)
        those = f"there are: {', '.join(f'{task}#{name}' for name in own[:5])}"
        hint = f"did you mean {task}#{close[0]}?" if close else those
    else:
        known = [f"{name}#{one}" for name, one in session.execute(there.limit(1000))]
        hint = _nearest(f"{task}#{wanted}", known) or "fusery alias list"
    return UnknownReferenceError(f"there is no alias {text!r}", hint=hint)


def _unknown(session: Session, text: str, hint: str | None) -> UnknownReferenceError:
    wanted = text.strip().casefold()
    task = wanted.partition("@")[0].partition("#")[0]
    tasks = session.execute(select(tables.Task.name, latest_version()).limit(1000))
    newest = {name: version for name, version in tasks}  # noqa: C416 -- a row is no pair to mypy
    if task in newest:
        versions = session.scalars(
            select(tables.Adapter.version).join(tables.Adapter.task).where(tables.Task.name == task)
        )
        listed = ", ".join(f"{task}@{version}" for version in sorted(versions)[-5:])
        return UnknownReferenceError(
            f"there is no adapter {text!r}", hint=f"there are: {listed}" if listed else hint
        )
    alias = tables.Alias
    held = select(tables.Task.name).join(alias, alias.task_id == tables.Task.id)
    if named := list(
        session.scalars(held.where(alias.name == wanted, alias.adapter_id.is_not(None)).limit(3))
    ):
        meant = " or ".join(f"{one}#{wanted}" for one in named)
        return UnknownReferenceError(f"there is no adapter {text!r}", hint=f"did you mean {meant}?")
    names = session.scalars(select(tables.Adapter.name).order_by(tables.Adapter.id.desc()).limit(1000))
    suffix = wanted[len(task) :][:_LONGEST]
    like_tasks = [f"{known}{suffix or f'@{version}'}" for known, version in newest.items() if version]
    return UnknownReferenceError(
        f"there is no adapter {text!r}", hint=_nearest(task + (suffix or "@1"), [*like_tasks, *names]) or hint
    )


_LONGEST = 200
"""Characters of a text that something else may have been meant by: what it costs to look grows with the square."""


def _nearest(wanted: str, known: Iterable[str]) -> str | None:
    if len(wanted) > _LONGEST:
        return None
    folded = {name.casefold(): name for name in known}
    import difflib

    close = difflib.get_close_matches(wanted, folded, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(folded[name] for name in close)}?" if close else None


def resolve_base(session: Session, text: str) -> tables.BaseModel:
    """Return the base model that a name or a digest prefix means.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several bases.
    """
    if (found := _find_base(session, text)) is None:
        folded, known = (
            text.strip().casefold(),
            list(session.scalars(select(tables.BaseName.name).limit(1000))),
        )
        hint = _nearest(folded, known) or ("fusery base list" if known else "fusery base add SOURCE")
        raise UnknownReferenceError(f"there is no base model {text!r}", hint=hint)
    return found


def _find_base(session: Session, text: str) -> tables.BaseModel | None:
    """Return what `resolve_base` does, None where nothing has that name."""
    base, folded = tables.BaseModel, text.strip().casefold()
    named = session.scalar(select(base).join(base.names).where(tables.BaseName.folded == folded))
    if named is not None:
        return named
    matches: list[tables.BaseModel] = _by_digest(session, base, folded)
    if len(matches) > 1:
        raise AmbiguousReferenceError(f"the digest {text} fits more than one base", hint="give more digits")
    return matches[0] if matches else None


def begins_with(column: Any, prefix: str) -> ColumnElement[bool]:
    """Return the condition that a digest begins so, as a range, which an index answers; LIKE is none for most.

    Small hex digits come in the same order in every language, and before the letter g.
    """
    return and_(column >= prefix, column < f"{prefix}g")


def _by_digest(session: Session, table: Any, text: str) -> list[Any]:
    if not 8 <= len(text) <= 64 or text.strip("0123456789abcdef"):
        return []
    return list(session.scalars(select(table).where(begins_with(table.digest, text)).limit(2)))


def resolve_any(session: Session, text: str, among: Select[tables.Adapter] | None = None) -> Subject:
    """Return whatever a reference names: an adapter, a base model by name or digest, a fused artifact by digest or key.

    Raises:
        UnknownReferenceError: nothing has that name.
    """
    folded = text.strip().casefold()
    fused = _by_digest(session, tables.Fused, folded)
    if not fused and 8 <= len(folded) <= 64 and not folded.strip("0123456789abcdef"):
        fused = list(
            session.scalars(select(tables.Fused).where(begins_with(tables.Fused.key, folded)).limit(2))
        )
    if len(fused) > 1 and len({row.digest for row in fused}) == 1:
        # The same bytes, made here and claimed elsewhere.
        fused = [row for row in fused if row.origin is None] or fused[:1]
    if len(fused) == 1:
        return Subject(fused=fused[0])
    if (adapter := _find_adapter(session, text, among)) is not None:
        return Subject(adapter=adapter)
    if (base := _find_base(session, text)) is not None:
        return Subject(base=base)
    raise _no_adapter(session, text)


def next_version(session: Session, task: tables.Task) -> int:
    """Return the number after the highest version of a task.  Call it within a write transaction only."""
    highest = session.scalar(
        select(func.max(tables.Adapter.version)).where(tables.Adapter.task_id == task.id)
    )
    return (highest or 0) + 1


def require_version(session: Session, task: str, version: int) -> None:
    """Refuse a version so large that automatic numbering could run out.

    Args:
        session: of any transaction.
        task: the name of the task, which need not exist.
        version: the version that the user or another registry declares.

    Raises:
        BadInputError: the version is over the limit, and far above the task's newest version.
    """
    if version <= MAX_DECLARED_VERSION:
        return
    row = session.scalar(select(tables.Task).where(tables.Task.name == task))
    newest = next_version(session, row) - 1 if row is not None else 0
    if version > newest + _STEP:
        raise BadInputError(
            f"invalid version: {version} (at most {MAX_DECLARED_VERSION})",
            hint="leave out --version to get the next one",
        )


def fused_from(adapter: tables.Adapter) -> Select[tables.Fused]:
    """Return the query for what was fused from an adapter's bytes, alone or with others.

    The same bytes may be registered under two tasks; they have one fused model, which belongs to both.
    """
    twin = aliased(tables.Adapter)
    same = select(twin.id).where(twin.digest == adapter.digest)
    alone = select(tables.Fused.id).where(tables.Fused.adapter_id.in_(same))
    added = select(tables.FusedExtra.fused_id).where(tables.FusedExtra.adapter_id.in_(same))
    return (
        select(tables.Fused)
        .where(tables.Fused.id.in_(union(alone, added)))  # OR would read the whole table
        .where(tables.Fused.base_id == adapter.base_id)
        .order_by(tables.Fused.id)
    )


def twins(adapter: tables.Adapter) -> Select[tables.Adapter]:
    """Return the query for all adapters with these bytes on this base, the adapter itself among them."""
    same = tables.Adapter
    return (
        select(same).where(same.digest == adapter.digest, same.base_id == adapter.base_id).order_by(same.id)
    )
