"""From what a user typed to the thing that is meant, of any kind: bundles and datasets too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from .. import tables
from ..errors import AmbiguousReferenceError, BadInputError, UnknownReferenceError
from .references import begins_with, resolve_adapter, resolve_any, resolve_base

Thing = tables.BaseModel | tables.Dataset | tables.Adapter | tables.Fused | tables.Bundle


KINDS = ("base", "dataset", "adapter", "bundle")
"""What a reference may begin with, and a colon, where it would not be clear: `dataset:courses`, `bundle:out`."""


_SHORTEST = 8


def find_things(
    session: Session,
    text: str,
    places: Sequence[str] | None = None,
    among: Select[tables.Adapter] | None = None,
) -> list[Thing]:
    """Return what a reference names: one thing, or all revisions of a dataset.

    Args:
        session: of any transaction.
        text: an adapter's name, `task@version`, `task#alias`; a base's name; a fused artifact's digest or key; a bundle's
            digest, or the place where it was written; `dataset:NAME`.  Each with its kind before a colon, if need be.
        places: `places_of(text)`, where the session writes: no file is looked at while others wait.
        among: as `resolve_adapter` has it.

    Raises:
        UnknownReferenceError: nothing has that name.
        AmbiguousReferenceError: a digest prefix fits several things.
    """
    kind, rest = _kind_of(text)
    lies = places_of(text) if places is None else places
    if kind:
        return _of_kind(session, kind, rest, lies, among)
    if (bundle := find_bundle(session, text, lies)) is not None:
        return [bundle]
    subject = resolve_any(session, text, among)
    found = subject.base or subject.adapter or subject.fused
    assert found is not None
    return [found]


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
    """Return the kind that a reference begins with, if any, and the rest."""
    kind, colon, rest = text.partition(":")
    if colon and kind in KINDS and rest.strip() and not rest.startswith("//"):
        return kind, rest.strip()
    return "", text


def _of_kind(
    session: Session, kind: str, text: str, places: Sequence[str], among: Select[tables.Adapter] | None
) -> list[Thing]:
    if kind == "base":
        return [resolve_base(session, text)]
    if kind == "adapter":
        return [resolve_adapter(session, text, among)]
    if kind == "dataset":
        return [*find_datasets(session, text)]
    if (bundle := find_bundle(session, text, places)) is None:
        raise UnknownReferenceError(f"there is no bundle {text[:80]!r}", hint="fusery show REF --json")
    return [bundle]


def find_datasets(session: Session, text: str) -> Sequence[tables.Dataset]:
    """Return the revisions of a dataset by its name, or the one with a digest.

    Raises:
        UnknownReferenceError: nothing was trained on anything of that name.
    """
    dataset = tables.Dataset
    found = session.scalars(select(dataset).where(dataset.name == text).order_by(dataset.id)).all()
    if not found and _is_digest(text):
        query = select(dataset).where(begins_with(dataset.digest, text.casefold())).order_by(dataset.id)
        found = session.scalars(query).all()
    if not found:
        raise UnknownReferenceError(
            f"there is no dataset {text[:80]!r}", hint="fusery list --where 'dataset = NAME'"
        )
    return found


def find_bundle(session: Session, text: str, places: Sequence[str]) -> tables.Bundle | None:
    """Return a bundle by where it lies, or by its digest; of several records the newest.

    Raises:
        AmbiguousReferenceError: a digest prefix fits several bundles, or a bundle and something else.
    """
    bundle = tables.Bundle
    lies = select(bundle).where(bundle.path.in_(places)).order_by(bundle.id.desc()).limit(1)
    if (found := session.scalars(lies).first()) is not None:
        return found
    if not _is_digest(text):
        return None
    query = select(bundle).where(begins_with(bundle.digest, text.casefold())).order_by(bundle.id.desc())
    rows = session.scalars(query).all()
    if len({row.digest for row in rows}) > 1 or (rows and _else_named(session, text)):
        raise AmbiguousReferenceError(
            f"the digest {text} fits more than one thing", hint="give more digits, or its place"
        )
    return rows[0] if rows else None


def _else_named(session: Session, text: str) -> bool:
    try:
        resolve_any(session, text)
    except UnknownReferenceError:
        return False
    return True


def _is_digest(text: str) -> bool:
    return _SHORTEST <= len(text) <= 64 and not text.casefold().strip("0123456789abcdef")


def shippable(things: Sequence[Thing], text: str) -> tables.Adapter | tables.Fused | tables.Bundle:
    """Return the one thing that can run somewhere.

    Raises:
        BadInputError: it is a base or a dataset.
    """
    thing = things[0]
    if isinstance(thing, tables.Adapter | tables.Fused | tables.Bundle):
        return thing
    raise BadInputError(
        f"{text[:80]!r} is neither an adapter, a fused model nor a bundle", hint="fusery list"
    )
