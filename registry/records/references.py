"""From what a user typed to the record that is meant, of any kind, with the nearest names when nothing fits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVarTuple

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, not_, or_, select
from sqlalchemy.orm import Session, aliased, joinedload, selectinload

from .. import tables
from ..database.engine import batches
from ..errors import AmbiguousReferenceError, BadInputError, UnknownReferenceError
from ..names import MAX_DECLARED_VERSION, Reference
from ..parsing import nearest

if TYPE_CHECKING:  # naming the rows would import all tables
    Thing: TypeAlias = (
        tables.BaseModelRow | tables.DatasetRow | tables.AdapterRow | tables.FusedRow | tables.BundleRow
    )
    Adapters: TypeAlias = Select[tables.AdapterRow]

_STEP = 1_000  # the most that a version above the limit may exceed its task's newest version

Values = TypeVarTuple("Values")


def load_adapters(*, in_full: bool = False) -> Select[tables.AdapterRow]:
    """Return the query for adapters with all that their views need; in full, with files, training and evaluations, to be made unique."""
    adapter, base = tables.AdapterRow, joinedload(tables.AdapterRow.base)
    query = select(adapter).options(
        joinedload(adapter.task),
        joinedload(adapter.dataset),
        joinedload(adapter.parent),
        selectinload(adapter.tags),
        selectinload(adapter.findings),
        selectinload(adapter.amendments),
    )
    if not in_full:
        return query.options(base.selectinload(tables.BaseModelRow.names))
    return query.options(
        base.joinedload(tables.BaseModelRow.names),
        joinedload(adapter.manifest).selectinload(tables.ManifestRow.files),
        joinedload(adapter.run),
        joinedload(adapter.renderings),
        joinedload(adapter.signatures).joinedload(tables.SignatureRow.key),
        selectinload(adapter.curve),
        selectinload(adapter.evaluations),
    )


def resolve_adapter(session: Session, text: str, among: Adapters | None = None) -> tables.AdapterRow:
    """Return the adapter that a reference names."""
    if (adapter := _find_adapter(session, text, among)) is None:
        raise _no_adapter(session, text)
    return adapter


def _find_adapter(session: Session, text: str, among: Adapters | None) -> tables.AdapterRow | None:
    try:
        reference = Reference.parse(text)
    except BadInputError:
        return None
    if among is None:  # the rest comes with a statement each, if it is asked for
        adapter = tables.AdapterRow
        related = (adapter.task, adapter.base, adapter.dataset, adapter.parent)
        among = select(adapter).options(*map(joinedload, related))
    matches = list(session.scalars(named_by(reference, among).limit(3)).unique())
    if reference.kind == "digest" and len({adapter.digest for adapter in matches}) > 1:
        names = ", ".join(adapter.name for adapter in matches)
        raise AmbiguousReferenceError(f"ambiguous digest {text}: {names}", hint="give more digits")
    return matches[0] if matches else None


def named_by(reference: Reference, query: Select[*Values]) -> Select[*Values]:
    """Return a query for adapters, or for some of their columns, of those alone that a reference can mean."""
    adapter = tables.AdapterRow
    if reference.kind == "name":
        return query.where(adapter.name == reference.value)
    if reference.kind == "digest":
        return query.where(begins_with(adapter.digest, reference.value)).order_by(adapter.id)
    query = query.join(adapter.task.of_type(tables.TaskRow)).where(tables.TaskRow.name == reference.task)
    if reference.kind == "version":
        return query.where(adapter.version == int(reference.value))
    if reference.kind == "latest":
        return query.where(adapter.version == latest_version())
    alias = tables.AliasRow
    return query.join(alias, alias.adapter_id == adapter.id).where(alias.name == reference.value)


def latest_version(at: datetime | None = None) -> ColumnElement[int]:
    """Return the version that `@latest` means: the newest, but one from `combine` only with a validation loss or if alone."""
    version, source, change = aliased(tables.AdapterRow), tables.AdapterSourceRow, tables.AmendmentRow
    versions = select(version.version).where(version.task_id == tables.TaskRow.id)
    measured: ColumnElement[bool] = version.val_loss.is_not(None)
    if at is not None:
        versions = versions.where(version.created_at <= at)
        later = select(change.before).where(
            change.adapter_id == version.id, change.field == "val_loss", change.since > at
        )
        first = later.order_by(change.id).limit(1).correlate(version).scalar_subquery()
        measured = case((first.is_not(None), first != "null"), else_=measured)
    computed = exists().where(source.adapter_id == version.id).correlate(version)
    newest_measured, newest = (
        query.order_by(version.version.desc()).limit(1).correlate(tables.TaskRow).scalar_subquery()
        for query in (versions.where(or_(measured, not_(computed))), versions)
    )
    return func.coalesce(newest_measured, newest)


def no_alias(session: Session, text: str) -> UnknownReferenceError:
    """Return the error for an alias that there is not, with those that may be meant."""
    task, _, wanted = text.strip().partition("#")
    alias = tables.AliasRow
    query = select(tables.TaskRow.name, alias.name).join(alias.task).order_by(alias.id)
    query = query.where(alias.adapter_id.is_not(None))
    own = [name for _, name in session.execute(query.where(tables.TaskRow.name == task).limit(1000))]
    if own:
        # What the names of a task have in common says nothing.
        hint = nearest(wanted[:200], own, most=1, before=f"{task}#") or (
            f"there are: {', '.join(f'{task}#{name}' for name in own[:5])}"
        )
    else:
        alias_names = [f"{name}#{one}" for name, one in session.execute(query.limit(1000))]
        hint = nearest(f"{task}#{wanted}", alias_names) or "fusery alias list"
    return UnknownReferenceError(f"there is no alias {text!r}", hint=hint)


def _no_adapter(session: Session, text: str) -> UnknownReferenceError:
    """Return the error for an adapter that there is not, with those that may be meant."""
    hint: str | None = "fusery list"
    try:
        if Reference.parse(text).kind == "alias":
            return no_alias(session, text)
    except BadInputError as error:
        hint = error.hint
    for column in (tables.FusedRow.key, tables.FusedRow.digest):
        for fused in _by_digest(session, column, text):
            name, or_show = fused.adapter.name, f", or: fusery show {text} --fidelity"
            return UnknownReferenceError(f"{text!r} is a fused model of {name}", hint=f"give {name}{or_show}")
    meant = _meant(session, text.strip().casefold()) or hint
    return UnknownReferenceError(f"there is no adapter {text!r}", hint=meant)


def _meant(session: Session, wanted: str) -> str | None:
    """Return a hint at the adapters that may be meant; None without such."""
    task, alias = wanted.partition("@")[0].partition("#")[0], tables.AliasRow
    held = select(tables.TaskRow.name).join(alias, alias.task_id == tables.TaskRow.id)
    held = held.where(alias.adapter_id.is_not(None)).limit(3)
    name = wanted.partition("@")[2]  # MLflow writes an alias with @
    if name and session.scalars(held.where(tables.TaskRow.name == task, alias.name == name)).first():
        return f"did you mean {task}#{name}?"
    newest = dict(session.execute(select(tables.TaskRow.name, latest_version()).limit(1000)).all())
    if task in newest:
        versions = select(tables.AdapterRow.version).join(tables.AdapterRow.task)
        numbers = sorted(session.scalars(versions.where(tables.TaskRow.name == task)))
        listed = ", ".join(f"{task}@{version}" for version in numbers[-5:])
        return f"there are: {listed}" if listed else None
    if named := session.scalars(held.where(alias.name == wanted)).all():
        return f"did you mean {' or '.join(f'{one}#{wanted}' for one in named)}?"
    names = session.scalars(select(tables.AdapterRow.name).order_by(tables.AdapterRow.id.desc()).limit(1000))
    suffix = wanted[len(task) :][:200]
    like_tasks = [f"{task_name}{suffix or f'@{version}'}" for task_name, version in newest.items() if version]
    return nearest(task + (suffix or "@1"), [*like_tasks, *names])


def resolve_base(session: Session, text: str) -> tables.BaseModelRow:
    """Return the base model that a name or a digest prefix means."""
    if (base := _find_base(session, text)) is None:
        base_names = session.scalars(select(tables.BaseNameRow.name).limit(1000)).all()
        hint = nearest(text.strip().casefold(), base_names) or (
            "fusery base list" if base_names else "fusery base add FOLDER"
        )
        raise UnknownReferenceError(f"there is no base model {text!r}", hint=hint)
    return base


def _find_base(session: Session, text: str) -> tables.BaseModelRow | None:
    base, folded = tables.BaseModelRow, text.strip().casefold()
    named = session.scalar(select(base).join(base.names).where(tables.BaseNameRow.folded == folded))
    if named is not None:
        return named
    matches: list[tables.BaseModelRow] = _by_digest(session, base.digest, folded)
    if len(matches) > 1:
        raise AmbiguousReferenceError(f"the digest {text} fits more than one base", hint="give more digits")
    return matches[0] if matches else None


def begins_with(column: Any, prefix: str) -> ColumnElement[bool]:
    """Return the condition that a digest begins so, as a range, which an index answers in every language's order."""
    return and_(column >= prefix, column < f"{prefix}g")


def digest_prefix(text: str) -> str:
    """Return a text as the beginning of a digest; empty if it cannot be one."""
    folded = text.strip().casefold()
    return folded if 8 <= len(folded) <= 64 and not folded.strip("0123456789abcdef") else ""


def _by_digest(session: Session, column: Any, text: str) -> list[Any]:
    if not (prefix := digest_prefix(text)):
        return []
    return list(session.scalars(select(column.class_).where(begins_with(column, prefix)).limit(2)))


def resolve_any(
    session: Session, text: str, among: Adapters | None = None
) -> tables.BaseModelRow | tables.AdapterRow | tables.FusedRow:
    """Return whatever a reference names: an adapter, a base model by name or digest, a fused artifact by digest or key."""
    fused: list[tables.FusedRow] = _by_digest(session, tables.FusedRow.digest, text)
    fused = fused or _by_digest(session, tables.FusedRow.key, text)
    if len(fused) > 1 and len({row.digest for row in fused}) == 1:
        # The same bytes, made here and claimed elsewhere.
        fused = [row for row in fused if row.origin is None] or fused[:1]
    row = fused[0] if len(fused) == 1 else _find_adapter(session, text, among) or _find_base(session, text)
    if row is None:
        raise _no_adapter(session, text)
    return row


def adapter_names(session: Session, numbers: Collection[int]) -> dict[int, str]:
    """Return the names of adapters by the numbers of their rows, in the order of these."""
    row = tables.AdapterRow
    query = select(row.id, row.name).order_by(row.id)
    row_batches = (session.execute(query.where(row.id.in_(some))) for some in batches(sorted(numbers)))
    return {adapter_row.id: adapter_row.name for rows in row_batches for adapter_row in rows}


def next_version(session: Session, task: tables.TaskRow) -> int:
    """Return the number after the highest version of a task.  Call it within a write transaction only."""
    highest = session.scalar(
        select(func.max(tables.AdapterRow.version)).where(tables.AdapterRow.task_id == task.id)
    )
    return (highest or 0) + 1


def require_version(session: Session, task: str, version: int) -> None:
    """Refuse a version so large that automatic numbering could run out."""
    if version <= MAX_DECLARED_VERSION:
        return
    row = session.scalar(select(tables.TaskRow).where(tables.TaskRow.name == task))
    newest = next_version(session, row) - 1 if row is not None else 0
    if version > newest + _STEP:
        raise BadInputError(
            f"invalid version: {version} (at most {MAX_DECLARED_VERSION})", hint="leave out --version"
        )


KINDS = ("base", "dataset", "adapter", "bundle")  # what may begin a reference, and a colon: `dataset:courses`


def find_things(
    session: Session, text: str, places: Sequence[str] | None = None, among: Adapters | None = None
) -> list[Thing]:
    """Return what a reference names: one thing, or all revisions of a dataset; `places` is `places_of(text)`."""
    kind, rest = _kind_of(text)
    lies = places_of(text) if places is None else places
    if kind == "base":
        return [resolve_base(session, rest)]
    if kind == "adapter":
        return [resolve_adapter(session, rest, among)]
    if kind == "dataset":
        return [*find_datasets(session, rest)]
    if (bundle := find_bundle(session, rest, lies)) is not None:
        return [bundle]
    if kind:
        raise UnknownReferenceError(f"there is no bundle {rest[:80]!r}", hint="fusery show REF --json")
    return [resolve_any(session, text, among)]


def places_of(text: str) -> list[str]:
    """Return how the place that a reference may name can have been recorded: as typed, and as a path of this machine."""
    place = _kind_of(text)[1]
    if "://" in place or "\0" in place:
        return [place]
    try:
        return [place, str(Path(place).expanduser().resolve())]
    except (OSError, RuntimeError):  # a loop of links, or nobody's home
        return [place]


def _kind_of(text: str) -> tuple[str, str]:
    kind, colon, rest = text.partition(":")
    if colon and kind in KINDS and rest.strip() and not rest.startswith("//"):
        return kind, rest.strip()
    return "", text


def find_datasets(session: Session, text: str) -> Sequence[tables.DatasetRow]:
    """Return the revisions of a dataset by its name, or the one with a digest."""
    dataset = tables.DatasetRow
    datasets = session.scalars(select(dataset).where(dataset.name == text).order_by(dataset.id)).all()
    if not datasets and (prefix := digest_prefix(text)):
        query = select(dataset).where(begins_with(dataset.digest, prefix)).order_by(dataset.id)
        datasets = session.scalars(query).all()
    if not datasets:
        raise UnknownReferenceError(f"there is no dataset {text[:80]!r}", hint="fusery list")
    return datasets


def find_bundle(session: Session, text: str, places: Sequence[str]) -> tables.BundleRow | None:
    """Return a bundle by where it lies, or by its digest; of several records the newest."""
    bundle = tables.BundleRow
    lies = select(bundle).where(bundle.path.in_(places)).order_by(bundle.id.desc()).limit(1)
    if (bundle_row := session.scalars(lies).first()) is not None:
        return bundle_row
    if not (prefix := digest_prefix(text)):
        return None
    query = select(bundle).where(begins_with(bundle.digest, prefix)).order_by(bundle.id.desc())
    rows = session.scalars(query).all()
    others = len({row.digest for row in rows}) > 1
    if rows and not others:
        with suppress(UnknownReferenceError):
            others = resolve_any(session, text) is not None
    if others:
        raise AmbiguousReferenceError(f"ambiguous digest {text}", hint="give more digits, or its place")
    return rows[0] if rows else None


def shippable(things: Sequence[Thing], text: str) -> tables.AdapterRow | tables.FusedRow | tables.BundleRow:
    """Return the one thing that can run somewhere."""
    thing = things[0]
    if isinstance(thing, tables.AdapterRow | tables.FusedRow | tables.BundleRow):
        return thing
    raise BadInputError(f"{text[:80]!r} is no adapter, fused model or bundle", hint="fusery list")
