"""What of a package the receiving registry has already, under whatever name, and what keeps a thing out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..database import events
from ..database.batches import batches
from ..errors import AlreadyExistsError
from ..fusion.foreign import foreign_key
from ..records.references import next_version
from ..records.renderings import own_form
from ..records.withdrawals import stands, stands_at
from .package import Adapter, Base, Calibration, Fused, Item

RECOGNISED = "base.recognised"
"""The action of an entry of the log that says which base here holds what other files hold."""

Row = tables.BaseModel | tables.Calibration | tables.Adapter | tables.Fused


def find(session: Session, item: Item, origin: str) -> Row | None:
    """Return the record of the same thing, or None if it is missing.

    Args:
        session: of any transaction of the registry that receives.
        item: the thing.
        origin: the id of the registry it comes from.

    Raises:
        AlreadyExistsError: it cannot come in, because its name belongs to something else there.
    """
    if isinstance(item, Base):
        return find_base(session, item)
    if isinstance(item, Calibration):
        return find_calibration(session, item)
    if isinstance(item, Adapter):
        return find_adapter(session, item)
    return next((row for row in known_fused(session, item, origin) if row.digest == item.digest), None)


def find_many(session: Session, package: Sequence[Item], origin: str) -> list[Row | None]:
    """Return what `find` does for each of some things, in few statements for adapters that are all there, or all missing.

    Raises:
        AlreadyExistsError: as `find`, of the first that cannot come in.
    """
    known = _known_at_once(session, [item for item in package if isinstance(item, Adapter)])
    return [known[id(item)] if id(item) in known else find(session, item, origin) for item in package]


def _known_at_once(session: Session, items: Sequence[Adapter]) -> dict[int, tables.Adapter | None]:
    """Return the adapters of which a look at names, digests and versions alone tells whether they are there, by `id`."""
    if len(items) < 2:
        return {}
    adapter = tables.Adapter
    named, digests, taken = dict[str, tables.Adapter](), set[str](), set[tuple[str, int]]()
    for names in batches(item.name for item in items):
        named |= {row.name: row for row in session.scalars(select(adapter).where(adapter.name.in_(names)))}
    for wanted in batches(item.digest for item in items):
        digests |= set(session.scalars(select(adapter.digest).where(adapter.digest.in_(wanted))))
    for tasks in batches(item.task for item in items):
        versions = batches(item.values["version"] for item in items)
        for some in versions:
            query = select(tables.Task.name, adapter.version).join(adapter.task)
            found = session.execute(query.where(tables.Task.name.in_(tasks), adapter.version.in_(some)))
            taken |= {(task, version) for task, version in found}
    told: dict[int, tables.Adapter | None] = {}
    for item in items:
        row = named.get(item.name)
        if row is not None and row.digest == item.digest:
            told[id(item)] = row
        elif row is None and item.digest not in digests and (item.task, item.values["version"]) not in taken:
            told[id(item)] = None
    return told


def find_base(session: Session, item: Base) -> tables.BaseModel | None:
    """Return the base with these files, or else one that was found to hold the same in other files.

    What the item claims to hold is not asked: only the bytes tell, and the log remembers what they told.
    """
    base = tables.BaseModel
    found = session.scalar(select(base).where(base.digest == item.digest))
    if found is not None:
        return found
    told = events.history(session, kind="base", subject=item.digest, action=RECOGNISED, limit=1)
    return with_content(session, json.loads(told[0].detail)["content"]) if told else None


def with_content(session: Session, content: str) -> tables.BaseModel | None:
    """Return the first base that holds something."""
    base = tables.BaseModel
    return session.scalars(select(base).where(base.content == content).order_by(base.id)).first()


def require_name(session: Session, item: Base, content: str | None) -> None:
    """Refuse a base that can have none of its names.

    Args:
        session: of any transaction of the registry that receives.
        item: the base.
        content: what it holds, or claims to hold: one that holds the same is no obstacle.

    Raises:
        AlreadyExistsError: all of its names belong to bases that hold something else.
    """
    folded = [name["folded"] for name in item.names]
    name = tables.BaseName
    holders = session.scalars(select(name).where(name.folded.in_(folded))).all()
    if len(holders) < len(folded) or any(holder.base.content in (content, None) for holder in holders):
        return
    raise AlreadyExistsError(
        f"the name {item.name!r} belongs to a base model with other bytes there",
        hint=f"give it another name first: fusery base add SOURCE --name OTHER ({item.digest[:12]})",
    )


def known_fused(session: Session, item: Fused, origin: str) -> list[tables.Fused]:
    """Return what is there under a fused artifact's key: made there, or claimed by the registry it comes from."""
    key, fused = str(item.values["key"]), tables.Fused
    keys = (key, foreign_key(origin, key))
    return list(session.scalars(select(fused).where(fused.key.in_(keys)).order_by(fused.id)))


def free_names(session: Session, item: Base) -> list[dict[str, object]]:
    """Return those of a base's names that nobody has there."""
    folded = [name["folded"] for name in item.names]
    taken = set(session.scalars(select(tables.BaseName.folded).where(tables.BaseName.folded.in_(folded))))
    return [name for name in item.names if name["folded"] not in taken]


def find_calibration(session: Session, item: Calibration) -> tables.Calibration | None:
    """Return the same calibration of the same base."""
    base = find_base(session, item.base)
    if base is None:
        return None
    made = tables.Calibration
    return session.scalar(select(made).where(made.base_id == base.id, made.digest == item.digest))


def find_adapter(session: Session, item: Adapter) -> tables.Adapter | None:
    """Return the adapter with these bytes and this name, or with these bytes under this task.

    Under another name it is another record where it is withdrawn and this is not, or where something else is said that is
    never amended: withdrawn bytes may be registered anew.
    """
    adapter, version = tables.Adapter, item.values["version"]
    named = session.scalar(select(adapter).where(adapter.name == item.name))
    if named is not None and named.digest == item.digest:
        return named
    of_task = select(adapter).join(adapter.task).where(tables.Task.name == item.task)
    same = session.scalars(of_task.where(adapter.digest == item.digest).order_by(adapter.id)).all()
    withdrawn = _withdrawn(session, [row.id for row in same])
    if not any(stands(yank) for yank in item.yanks):
        same = [row for row in same if row.id not in withdrawn]
    base = find_base(session, item.base) if same else None
    for row in same:
        if row.alpha == item.values["alpha"] and (base is None or row.base_id == base.id):
            return row
    taken = named or session.scalar(of_task.where(adapter.version == version))
    if taken is not None:
        again = next_version(session, taken.task)
        raise AlreadyExistsError(
            f"{taken.name} is there with other bytes, registered by {taken.created_by} on "
            f"{taken.created_at:%Y-%m-%d}: {item.name} cannot take version {version} of {item.task}",
            hint=f"export it, and register it there with --version {again}",
        )
    return None


def _withdrawn(session: Session, numbers: list[int]) -> set[int]:
    yank = tables.Yank
    query = select(yank.adapter_id).where(yank.adapter_id.in_(numbers), stands_at())
    return set(session.scalars(query))


def is_complete(row: Row, item: Item) -> bool:
    """Tell whether a record lacks nothing that came later: files that were published, withdrawals, other forms."""
    if isinstance(item, Fused) and isinstance(row, tables.Fused):
        return not item.files.stored or all(file.blob is not None for file in row.manifest.files)
    if isinstance(item, Adapter) and isinstance(row, tables.Adapter):
        forms = {form.form for form in row.renderings}
        return all(values["form"] in (*forms, own_form(row)) for values, _ in item.renderings)
    return True


def missing_yanks(session: Session, row: tables.Adapter, item: Adapter) -> list[dict[str, object]]:
    """Return the active yanks of a package that are not on record.

    A yank counts as on record if an active yank has the same reason, whatever its date.
    """
    if not any(map(stands, item.yanks)):
        return []
    rows = session.scalars(select(tables.Yank).where(tables.Yank.adapter_id == row.id)).all()
    known = {(yank.at, yank.reason) for yank in rows}
    standing, missing = {yank.reason for yank in rows if yank.lifted_at is None}, []
    for values in filter(stands, item.yanks):
        # This registry may have registered the adapter later than the other one.
        values = {**values, "at": max(values["at"], row.created_at)}
        if (values["at"], values["reason"]) not in known and values["reason"] not in standing:
            standing.add(values["reason"])
            missing.append(values)
    return missing
