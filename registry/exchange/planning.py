"""What of a package is missing where it goes, and what keeps a thing of it out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..access.roles import PARTS, allows, may_change, owner_of, parse_role
from ..actors import name_sender, person
from ..database.batches import batches
from ..errors import RoleError
from ..records.amendments import is_free
from ..records.transfer import Moved, State
from .corrections import missing_corrections, why_kept
from .finding import Row, find_base, find_many, is_complete, known_fused, missing_yanks, require_name
from .measurements import evaluation_changes
from .package import Adapter, Base, Calibration, Fused, Item, Values
from .signed import missing_signatures

if TYPE_CHECKING:
    from ..workspace import Workspace


def plan(destination: Workspace, package: list[Item], origin: str, *, unmade: bool) -> list[Moved]:
    """Say of each thing whether it is missing, and how many bytes would be copied.

    Raises:
        AlreadyExistsError: one cannot come in.
        RoleError: an item has changes that the sender's role does not allow.
    """
    counted: set[str] = set()
    if unmade:
        return [moved_as(item, item.name, "copied", _bytes((), item, counted)) for item in package]
    with destination.database.read() as session:
        rows = find_many(session, package, origin)
        ready = _ready(session, package)
        return [
            _planned(destination, session, item, row, origin, counted, ready)
            for item, row in zip(package, rows, strict=True)
        ]


def _planned(
    destination: Workspace,
    session: Session,
    item: Item,
    row: Row | None,
    origin: str,
    counted: set[str],
    ready: Collection[str],
) -> Moved:
    if row is None:
        if isinstance(item, Base):
            require_name(session, item, item.values.get("content"))
        if (reason := _obstacle(destination, session, item, origin)) is not None:
            return moved_as(item, item.name, "left out", 0, reason)
        return moved_as(item, item.name, "copied", _bytes(ready, item, counted))
    name = item.name
    if isinstance(row, tables.BaseModel | tables.Adapter):
        name = row.name
    signatures, kept = missing_signatures(destination, session, item, row)
    complete = is_complete(row, item) and not signatures
    if isinstance(row, tables.Adapter) and isinstance(item, Adapter):
        corrections, fields = missing_corrections(row, item)
        evaluations = evaluation_changes(row, item)
        lacks = evaluations.missing or evaluations.withdrawn or corrections
        complete = complete and not missing_yanks(session, row, item) and not lacks
        own = why_kept([*fields, *sorted({each.metric for each in evaluations.kept})])
        kept = "; ".join(filter(None, (own, kept))) or None
        if not complete:
            require_allowed(destination, session, row, item)
    if complete:
        return moved_as(item, name, "present", 0, kept)
    return moved_as(item, name, "completed", _bytes(ready, item, counted), kept)


def require_allowed(workspace: Workspace, session: Session, row: tables.Adapter, item: Adapter) -> None:
    """Refuse a package that changes more of an adapter than its sender's role allows.

    Args:
        workspace: the registry that receives, with the sender's name and role.
        session: of any transaction there.
        row: the adapter there; a new adapter may bring its whole history.
        item: the adapter in the package.

    Raises:
        RoleError: the role does not allow a change.
    """
    if not workspace.role:
        return
    role, sender = parse_role(workspace.role), person(workspace.actor)
    own, evaluations = person(owner_of(session, row)) == sender, evaluation_changes(row, item)
    changed = [("yank", own) for _ in missing_yanks(session, row, item)]
    for amendment in missing_corrections(row, item)[0]:
        changed.append(("note or tag" if is_free(amendment.field) else "amendment", own))
    changed += [("evaluation", own) for _ in evaluations.missing]
    changed += [("withdrawn evaluation", person(known.by) == sender) for known, _ in evaluations.withdrawn]
    for part, is_own in changed:
        needed = PARTS[part][0 if is_own else 1]
        if not allows(role, needed):
            raise RoleError(
                f"{workspace.actor} has the role {role}, and this package has a new {part} of {row.name}, "
                f"which needs the role {needed}",
                hint=f"ask somebody with the role {needed} to push it",
            )


def with_sender(workspace: Workspace, item: Item) -> Item:
    """Return an item with its authenticated sender as the author of its yanks, amendments, evaluations and signatures."""
    if not workspace.authenticated:
        return item

    def sent(row: Values) -> Values:
        names = {key for key in row if key == "by" or key.endswith("_by")}
        return {
            key: name_sender(workspace.actor, value) if key in names and value is not None else value
            for key, value in row.items()
        }

    item = replace(item, signatures=[sent(row) for row in item.signatures])
    if not isinstance(item, Adapter):
        return item
    return replace(
        item,
        yanks=[sent(row) for row in item.yanks],
        amendments=[sent(row) for row in item.amendments],
        evaluations=[sent(row) for row in item.evaluations],
    )


def _obstacle(destination: Workspace, session: Session, item: Item, origin: str) -> str | None:
    """Return why a new item is left out; None if it is not.

    A fused model's key is made from the digest of its base, so it needs the same base there.  A calibration
    changes later fuses of its base or its adapter.
    """
    if isinstance(item, Calibration):
        of: Row | None = find_base(session, item.base)
        if (adapter := item.values["adapter"]) is not None:
            table = tables.Adapter
            of = session.scalars(select(table).where(table.digest == adapter).order_by(table.id)).first()
        if of is not None and not may_change(destination, session, "calibration", of):
            return "later fuses there would take it: an approver may push it"
    if not isinstance(item, Fused):
        return None
    base = find_base(session, item.base)
    if base is not None and base.digest != item.base.digest:
        return "the base there holds the same in other files, from which other keys follow"
    for row in known_fused(session, item, origin):
        if row.origin is None:
            return "it was made there, and other bytes came out: what is claimed is false"
        return "other bytes were claimed before"
    return None


def moved_as(item: Item, there: str, state: State, size: int, reason: str | None = None) -> Moved:
    """Return what became of an item, or will."""
    return Moved(item.kind, item.name, there, item.digest, state, size, reason)


def files_to_copy(
    destination: Workspace, package: list[Item], planned: list[Moved], *, unmade: bool
) -> list[int]:
    """Return the sizes of the files that what was planned copies."""
    counted: set[str] = set()
    coming = [item for item, moved in zip(package, planned, strict=True) if moved.bytes]
    if unmade:
        return [size for item in coming for size in _missing((), item, counted)]
    with destination.database.read() as session:
        ready = _ready(session, coming)
    return [size for item in coming for size in _missing(ready, item, counted)]


def _ready(session: Session, package: Iterable[Item]) -> set[str]:
    """Return the digests of those files of some things that are in the store."""
    blob, found = tables.Blob, set[str]()
    wanted = (entry.sha256 for item in package if item.files.there for entry in item.files.manifest)
    for some in batches(wanted):
        found |= set(session.scalars(select(blob.digest).where(blob.digest.in_(some), blob.state == "ready")))
    return found


def _bytes(ready: Collection[str], item: Item, counted: set[str]) -> int:
    return sum(_missing(ready, item, counted))


def _missing(ready: Collection[str], item: Item, counted: set[str]) -> list[int]:
    """Return the sizes of an item's files that are neither in the store nor counted already."""
    if not item.files.there:
        return []
    sizes = {entry.sha256: entry.size for entry in item.files.manifest if entry.sha256 not in counted}
    counted |= sizes.keys()
    return [size for digest, size in sizes.items() if digest not in ready]
