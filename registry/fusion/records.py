"""The records of fused artifacts, and their files in the shared store, where each file of a published one is a blob."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, StorageError
from fusery.storage.manifest import Manifest
from fusery.storage.progress import Reporter, tally
from fusery.storage.transfer import Need, require_rooms

from .. import tables
from ..database import events
from ..engine.recipe import Recipe
from ..errors import BadInputError
from ..records.bases import blob_generations
from ..records.deposit import record_manifest
from ..records.fused import Fused, FusedRecord
from .views import claims, counts, find_fused, is_published

if TYPE_CHECKING:
    from ..engine.fidelity import FuseFidelity
    from ..records.deposit import Deposit
    from ..workspace.workspace import Workspace
    from .fuse_inputs import FuseInputs


def aliased_keys(session: Session) -> list[str]:
    """Return the keys of fused models whose adapter is held by an alias."""
    named, same = aliased(tables.AdapterRow), aliased(tables.AdapterRow)
    relied_on = (
        select(same.id)
        .join(named, named.digest == same.digest)
        .join(tables.AliasRow, tables.AliasRow.adapter_id == named.id)
    )
    added = select(tables.FusedExtraRow.fused_id).where(tables.FusedExtraRow.adapter_id.in_(relied_on))
    fused = tables.FusedRow
    is_relied_on = or_(fused.adapter_id.in_(relied_on), fused.id.in_(added))
    return list(session.scalars(select(fused.key).where(is_relied_on)))


_FIGURES = ("verdict", "retained", "cosine", "relative_error", "noise")


def record_fused(
    session: Session,
    fuse_inputs: FuseInputs,
    recipe: Recipe,
    key: Digest,
    manifest: Manifest,
    fidelity: FuseFidelity,
    seconds: float,
) -> tables.FusedRow:
    """Record and log a fused artifact whose bytes are in the cache."""
    workspace = fuse_inputs.workspace
    now = workspace.database.utcnow(session)
    # MLX's entry, with the bits of the touched modules if they have more.
    quantization = None if recipe.precision == "dequantize" else fuse_inputs.quantization
    if recipe.quantization is not None:
        quantization = dict(recipe.quantization)
    elif quantization is not None and recipe.precision == "mixed":
        common = {key: value for key, value in quantization.items() if not isinstance(value, dict | bool)}
        quantization = {**common, "touched_bits": recipe.bits.get("", dict(recipe.bits))}
    row = tables.FusedRow(
        key=key,
        base_id=fuse_inputs.base.id,
        adapter_id=fuse_inputs.adapter.id,
        recipe=recipe.to_dict(),
        engine=recipe.engine,
        precision=recipe.precision,
        quantization=quantization,
        manifest_id=record_manifest(session, manifest).id,
        digest=manifest.digest,
        bytes=manifest.size,
        seconds=seconds,
        **{name: getattr(fidelity, name) for name in _FIGURES},
        created_at=now,
        created_by=workspace.actor,
        used_at=now,
        modules=[tables.ModuleFidelityRow(**asdict(module)) for module in fidelity.modules],
        extras=[
            tables.FusedExtraRow(position=position, adapter_id=part.id, weight=part.weight)
            for position, part in enumerate(fuse_inputs.extras, start=1)
        ],
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    events.record(
        session,
        "fused.made",
        "fused",
        key,
        {
            "adapter": fuse_inputs.adapter.name,
            "with": {part.name: part.weight for part in fuse_inputs.extras},
            "base": fuse_inputs.base_digest,
            "digest": manifest.digest,
            "precision": recipe.precision,
            "verdict": fidelity.verdict,
            "retained": fidelity.retained,
            "tool": f"fusery {version('fusery')}",
        },
        at=now,
    )
    return row


def make_room(workspace: Workspace, key: Digest) -> None:
    """Evict models until the cache is within its limit; the model of `key` and those held by an alias stay."""
    with workspace.database.read() as session:
        spared = {key, *aliased_keys(session)}
    workspace.cache.evict(workspace.settings.cache_limit, spared).execute()


def on_this_machine(record: FusedRecord, path: Path, source: Literal["cache", "store", "computed"]) -> Fused:
    """Return a fused model whose files are in the local cache."""
    return Fused.extending(record, path=path, source=source, cached=source == "cache")


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


Publish = Literal["full", "recipe"]
# The published part of a fused model: its files, or its record alone, by which it can be rebuilt
PUBLISH: tuple[Publish, ...] = ("full", "recipe")


def checked_publish(wanted: str) -> str:
    """Return one of `PUBLISH`."""
    if wanted not in PUBLISH:
        raise BadInputError(f"cannot publish {wanted[:40]!r}", hint=f"--publish {'|'.join(PUBLISH)}")
    return wanted


def record_published(deposit: Deposit, session: Session, key: str, manifest: Manifest) -> None:
    """Commit the files of a fused artifact, and log that they are now in the store."""
    deposit.commit(session)
    session.expire_all()  # the manifest's rows were read before the deposit set their blobs
    events.record(
        session, "fused.published", "fused", key, {"digest": manifest.digest, "bytes": manifest.size}
    )


def fetch_published(
    workspace: Workspace, manifest: Manifest, folder: Path, *, check: Callable[[], None], reporter: Reporter
) -> None:
    """Write the files of a published model into an empty folder, each verified; a damaged blob is put aside."""
    byte_tally = tally(reporter.progress, manifest.size)
    workspace.cache.sweep()  # what a killed fetch left may be as large as what is coming
    held = workspace.cache.in_use_here()
    need = Need(folder.parent, [held, *(entry.size for entry in manifest)], taken=held)
    require_rooms([need, *workspace.notes], hint="fusery admin cache prune")

    def arrived(number: int) -> None:
        check()
        byte_tally(number)

    generations = blob_generations(workspace, [entry.sha256 for entry in manifest])
    for entry in manifest:
        target, generation = folder / entry.path, generations[entry.sha256]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            workspace.store.fetch(entry.sha256, target, generation=generation, progress=arrived)
        except BlobCorruptError:
            # Only so that good bytes can take its place; who may not write to the store goes on without.
            with suppress(StorageError):
                workspace.store.quarantine(entry.sha256, generation=generation)
            raise


CONFIRMED, REFUTED = "fused.confirmed", "fused.refuted"


def counting(session: Session, key: Digest, *, accept: bool) -> tables.FusedRow | None:
    """Return the record of an artifact that was made here, or else an accepted claim whose files are in the store."""
    if (row := find_fused(session, key)) is not None:
        return row
    published_claims = (row for row in claims(session, key) if is_published(row))
    return next((row for row in published_claims if accept or counts(session, row)), None)


def compare_claims(session: Session, key: Digest, manifest: Manifest) -> list[str]:
    """Log which claims about an artifact turned out to be true when it was made here, and return that in words."""
    sentences = []
    for row in claims(session, key):
        true, registry = row.digest == manifest.digest, str(row.origin)[:8]
        same = f"what registry {registry} has under this key are the same bytes"
        other = f"WARNING: what registry {registry} has under this key is FALSE: other bytes came out here, and ours count"
        sentences.append(same if true else other)
        bundle = tables.BundleRow
        made = select(bundle).where(bundle.fused_id == row.id).order_by(bundle.id)
        bundles = [] if true else [{"path": one.path, "digest": one.digest} for one in session.scalars(made)]
        detail = {"registry": row.origin, "key": key, "claimed": row.digest, "made": manifest.digest}
        action = CONFIRMED if true else REFUTED
        events.record(session, action, "fused", row.key, {**detail, "bundles": bundles})
    return sentences
