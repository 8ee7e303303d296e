"""The records of fused artifacts: find one by its key, or make one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased

from fusery.storage.digest import Digest
from fusery.storage.manifest import Manifest

from .. import tables
from ..database import events
from ..engine.recipe import Recipe
from ..records.deposit import record_manifest
from ..records.fused import Fused, FusedRecord
from .fuse_inputs import FuseInputs

if TYPE_CHECKING:
    from ..engine.fidelity import Fidelity
    from ..workspace import Workspace


def find_fused(session: Session, key: Digest) -> tables.Fused | None:
    """Return the record of a key, None if there is none."""
    return session.scalar(select(tables.Fused).where(tables.Fused.key == key))


def aliased_keys(session: Session) -> list[str]:
    """Return the keys of fused models whose adapter is held by an alias."""
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
    fuse_inputs: FuseInputs,
    recipe: Recipe,
    key: Digest,
    manifest: Manifest,
    fidelity: Fidelity,
    seconds: float,
) -> tables.Fused:
    """Record and log a fused artifact whose bytes are in the cache."""
    now = workspace.database.utcnow(session)
    row = tables.Fused(
        key=key,
        base_id=fuse_inputs.base_id,
        adapter_id=fuse_inputs.adapter.id,
        recipe=recipe.to_dict(),
        engine=recipe.engine,
        precision=recipe.precision,
        quantization=_quantization(fuse_inputs, recipe),
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
            for position, part in enumerate(fuse_inputs.extras, start=1)
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
            "adapter": fuse_inputs.adapter.name,
            "with": {part.name: part.weight for part in fuse_inputs.extras},
            "base": fuse_inputs.base_digest,
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


def _quantization(fuse_inputs: FuseInputs, recipe: Recipe) -> dict[str, Any] | None:
    """Return how the result is quantised: MLX's entry, with the bits of the touched modules if they have more."""
    if recipe.quantization is not None:
        return dict(recipe.quantization)
    if recipe.precision == "dequantize" or fuse_inputs.quantization is None:
        return None
    plain = {
        key: value for key, value in fuse_inputs.quantization.items() if not isinstance(value, dict | bool)
    }
    if recipe.precision != "mixed":
        return fuse_inputs.quantization
    return {**plain, "touched_bits": recipe.bits.get("", dict(recipe.bits))}


def make_room(workspace: Workspace, key: Digest) -> None:
    """Evict models until the cache is within its limit; the model of `key` and those held by an alias stay."""
    with workspace.database.read() as session:
        spared = {key, *aliased_keys(session)}
    workspace.cache.evict(workspace.settings.cache_limit, spared).execute()


def on_this_machine(known: FusedRecord, path: Path, source: Literal["cache", "store", "computed"]) -> Fused:
    """Return a fused model whose files are in the local cache.

    Args:
        known: what is on record about it.
        path: its folder.
        source: where it is from.
    """
    facts = {each.name: getattr(known, each.name) for each in fields(FusedRecord)}
    return Fused(**facts, path=path, source=source, cached=source == "cache")


def in_words(foreign: Mapping[str, Any] | None) -> str | None:
    """Return the origin of an artifact in words; None if it was made here."""
    if foreign is None:
        return None
    registry = str(foreign["registry"])[:8]
    if foreign["rebuilt"] == "same":
        return f"from registry {registry}; made again here, with the same bytes"
    if foreign["rebuilt"] == "other":
        return f"from registry {registry}, and FALSE: other bytes came out here"
    if foreign["signed_by"]:
        return f"from registry {registry}, signed by {', '.join(foreign['signed_by'])}"
    return f"foreign: registry {registry} says so, and it was not made again here"
