"""Claims: fused artifacts of other registries, until they are rebuilt here or signed by a trusted key.

A claim is stored in the table of fused artifacts under a key of its own.  So a lookup by key never finds a claim, in the
database or in the cache, and an artifact that is made here gets its own record beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, object_session

from fusery.storage.digest import Digest, digest_json
from fusery.storage.manifest import Manifest

from .. import tables
from ..database import events
from ..engine.recipe import Recipe, artifact_key
from ..errors import MissingExtraError
from ..records.fused import Foreign
from ..records.signatures import SCHEME, is_good, signed_name
from .fuse_inputs import FuseInputs
from .published import is_published
from .records import find_fused

if TYPE_CHECKING:
    from ..workspace import Workspace

FORMAT = "fusery.foreign.v1"
CONFIRMED, REFUTED = "fused.confirmed", "fused.refuted"


def foreign_key(origin: str, key: str) -> Digest:
    """Return the key that another registry's artifact has in this database and cache.

    Args:
        origin: the id of the registry.
        key: of the artifact according to that registry.
    """
    return digest_json({"format": FORMAT, "registry": origin, "key": key})


def disown(row: tables.Fused, origin: str) -> None:
    """Turn a record into a claim of another registry."""
    row.key, row.origin = foreign_key(origin, row.key), origin


def recipe_key(row: tables.Fused) -> Digest:
    """Return the key that follows from an artifact's base, adapters and recipe: the one it would have if it were made here."""
    return recipe_key_of(row.base.digest, row.adapter.digest, row.recipe)[0]


def recipe_key_of(base: str, adapter: str, form: Mapping[str, Any]) -> tuple[Digest, Recipe]:
    """Return the key that follows from the digests of a base and an adapter and the JSON form of a recipe, and that.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not the form of a recipe.
    """
    recipe = Recipe.from_dict(form)
    return artifact_key(base, adapter, recipe), recipe


def claims(session: Session, key: str) -> list[tables.Fused]:
    """Return the claims about a key, those signed by a trusted key first."""
    fused = tables.Fused
    origins = session.scalars(select(fused.origin).where(fused.origin.is_not(None)).distinct()).all()
    keys = [foreign_key(str(origin), key) for origin in origins]
    found = session.scalars(select(fused).where(fused.key.in_(keys)).order_by(fused.id)).all() if keys else ()
    return sorted(found, key=lambda row: not counts(session, row))


def counts(session: Session, row: tables.Fused) -> bool:
    """Tell whether an artifact counts like one that was made here."""
    return row.origin is None or bool(signers(session, row))


def counting(session: Session, key: Digest, *, accept: bool) -> tables.Fused | None:
    """Return the record of an artifact that was made here, or else the claim that may stand in for it, None if there is none.

    Only a claim whose files are in the store: without them it would have to be made anyway, and then what is said of it
    is of no use.

    Args:
        session: of any transaction.
        key: of the artifact.
        accept: the user accepts claims without proof.
    """
    if (row := find_fused(session, key)) is not None:
        return row
    there = (row for row in claims(session, key) if is_published(row))
    return next((row for row in there if accept or counts(session, row)), None)


def signers(session: Session, row: tables.Fused) -> list[str]:
    """Return the names of the keys that count for fused artifacts and have signed one: its files, its key and its verdict.

    Args:
        session: of any transaction.
        row: the artifact.

    Where signatures cannot be checked, since cryptography is not installed, none counts.
    """
    key, signature = tables.TrustedKey, tables.Signature
    rows = session.execute(
        select(key, signature)
        .join(signature, signature.key_id == key.key_id)
        .where(
            signature.subject_kind == "fused",
            signature.subject_digest == row.digest,
            signature.scheme == SCHEME,
            key.revoked_at.is_(None),
        )
        .order_by(key.name)
    ).all()
    name = signed_name(recipe_key(row), row.verdict)
    try:
        return [
            trusted.name
            for trusted, found in rows
            if trusted.fused and is_good(session, found, trusted.public_key, name=name)
        ]
    except MissingExtraError:
        return []


def foreign_record(row: tables.Fused) -> Foreign | None:
    """Return where an artifact comes from that was not made here; None if it was.

    What a rebuild here gave is looked up too: the same bytes or others.
    """
    if row.origin is None:
        return None
    session, key = object_session(row), recipe_key(row)
    assert session is not None
    own = find_fused(session, key)
    rebuilt = None if own is None else "same" if own.digest == row.digest else "other"
    return Foreign(registry=row.origin, key=key, signed_by=tuple(signers(session, row)), rebuilt=rebuilt)


def compare_claims(
    workspace: Workspace, session: Session, key: Digest, manifest: Manifest
) -> Sequence[tuple[str, bool]]:
    """Log which claims about an artifact turned out to be true when it was made here.

    Args:
        workspace: the registry's parts.
        session: of the transaction that records it.
        key: of the artifact.
        manifest: what came out here.

    Returns:
        of each claim its registry, and whether it was true.
    """
    told = []
    for row in claims(session, key):
        true = row.digest == manifest.digest
        told.append((str(row.origin), true))
        events.record(
            session,
            action=CONFIRMED if true else REFUTED,
            kind="fused",
            subject=row.key,
            detail={
                "registry": row.origin,
                "key": key,
                "claimed": row.digest,
                "made": manifest.digest,
                "bundles": [] if true else _bundles(session, row),
            },
            actor=workspace.actor,
        )
    return told


def _bundles(session: Session, row: tables.Fused) -> list[dict[str, str]]:
    made = session.scalars(
        select(tables.Bundle).where(tables.Bundle.fused_id == row.id).order_by(tables.Bundle.id)
    )
    return [{"path": bundle.path, "digest": bundle.digest} for bundle in made]


def made_alike(
    session: Session, fuse_inputs: FuseInputs, recipe: Recipe, *, accept: bool
) -> tables.Fused | None:
    """Return the newest record of this recipe by any engine, None if there is none.

    Args:
        session: of any transaction.
        fuse_inputs: of the model.
        recipe: how it is to be made.
        accept: also what another registry says, and nobody has proved.
    """
    wanted = {**recipe.to_dict(), "engine": ""}
    query = (
        select(tables.Fused)
        .join(tables.Fused.adapter)
        .where(
            tables.Fused.base_id == fuse_inputs.base_id, tables.Adapter.digest == fuse_inputs.adapter.digest
        )
        .order_by(tables.Fused.id.desc())
    )
    return next(
        (
            row
            for row in session.scalars(query)
            if {**row.recipe, "engine": ""} == wanted and (accept or counts(session, row))
        ),
        None,
    )
