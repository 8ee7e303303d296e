"""The records of fused artifacts: finding one by its key, and making one."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased

from fusery.storage.digest import Digest
from fusery.storage.manifest import Manifest

from . import events, tables
from .deposit import record_manifest
from .fusion.recipe import Recipe
from .ingredients import Ingredients

if TYPE_CHECKING:
    from .fusion.fidelity import Fidelity
    from .workspace import Workspace


def find_fused(session: Session, key: Digest) -> tables.Fused | None:
    """Return the record of a key, None if there is none."""
    return session.scalar(select(tables.Fused).where(tables.Fused.key == key))


def made_alike(
    session: Session, ingredients: Ingredients, recipe: Recipe, *, accept: bool
) -> tables.Fused | None:
    """Return the newest record of this recipe whatever engine made it, None if there is none.

    Args:
        session: of any transaction.
        ingredients: of the model.
        recipe: how it is to be made.
        accept: also what another registry says, and nobody has proved.
    """
    from .foreign import counts

    wanted = {**recipe.to_dict(), "engine": ""}
    query = (
        select(tables.Fused)
        .join(tables.Fused.adapter)
        .where(
            tables.Fused.base_id == ingredients.base_id, tables.Adapter.digest == ingredients.adapter.digest
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


def aliased_keys(session: Session) -> list[str]:
    """Return the keys of fused models whose adapter has an alias: somebody relies on them."""
    named, same = aliased(tables.Adapter), aliased(tables.Adapter)
    relied_on = (
        select(same.id)
        .join(named, named.digest == same.digest)
        .join(tables.Alias, tables.Alias.adapter_id == named.id)
    )
    added = select(tables.FusedExtra.fused_id).where(tables.FusedExtra.adapter_id.in_(relied_on))
    fused = tables.Fused
    return list(
        session.scalars(select(fused.key).where(or_(fused.adapter_id.in_(relied_on), fused.id.in_(added))))
    )


def record_fused(
    workspace: Workspace,
    session: Session,
    ingredients: Ingredients,
    recipe: Recipe,
    key: Digest,
    manifest: Manifest,
    fidelity: Fidelity,
    seconds: float,
) -> tables.Fused:
    """Record a fused artifact and say so in the log; its bytes lie in the cache already."""
    now = workspace.database.utcnow(session)
    row = tables.Fused(
        key=key,
        base_id=ingredients.base_id,
        adapter_id=ingredients.adapter.id,
        recipe=recipe.to_dict(),
        engine=recipe.engine,
        precision=recipe.precision,
        quantization=_quantization(ingredients, recipe),
        manifest_id=record_manifest(session, manifest).id,
        digest=manifest.digest,
        bytes=manifest.size,
        seconds=seconds,
        verdict=fidelity.verdict,
        retained=fidelity.retained,
        cosine=fidelity.cosine,
        relative_error=fidelity.relative_error,
        noise=fidelity.noise,
        created_at=now,
        created_by=workspace.actor,
        used_at=now,
        modules=[tables.ModuleFidelity(**module.to_dict()) for module in fidelity.modules],
        extras=[
            tables.FusedExtra(position=position, adapter_id=part.id, weight=part.weight)
            for position, part in enumerate(ingredients.extras, start=1)
        ],
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    events.record(
        session,
        action="fused.made",
        kind="fused",
        subject=key,
        detail={
            "adapter": ingredients.adapter.name,
            "with": {part.name: part.weight for part in ingredients.extras},
            "base": ingredients.base_digest,
            "digest": manifest.digest,
            "precision": recipe.precision,
            "verdict": fidelity.verdict,
            "retained": fidelity.retained,
            "tool": f"fusery {version('fusery')}",
        },
        actor=workspace.actor,
        at=now,
    )
    return row


def _quantization(ingredients: Ingredients, recipe: Recipe) -> dict[str, Any] | None:
    """Return how the result is quantised: MLX's entry, with the bits of the touched modules if they have more."""
    if recipe.quantization is not None:
        return dict(recipe.quantization)
    if recipe.precision == "dequantize" or ingredients.quantization is None:
        return None
    plain = {
        key: value for key, value in ingredients.quantization.items() if not isinstance(value, dict | bool)
    }
    if recipe.precision != "mixed":
        return ingredients.quantization
    return {**plain, "touched_bits": recipe.bits.get("", dict(recipe.bits))}


def make_room(workspace: Workspace, key: Digest) -> None:
    """Evict from the cache what is over its limit; the model of a key stays, and so does what an alias holds."""
    with workspace.database.read() as session:
        spared = {key, *aliased_keys(session)}
    workspace.cache.evict(workspace.settings.cache_limit, spared).execute()
