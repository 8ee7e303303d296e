"""Why a fuse is a cache hit or a miss: the inputs of its key, and which files are here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from .. import tables
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record, described
from ..records.fused_rows import fused_from, label_record
from ..records.references import resolve_adapter, resolve_any
from .adapter_part import AdapterPart
from .cache import Here, aliases_of, entry_named, parts_of
from .fuse_inputs import gather
from .known import record_of_row, recorded_measurement
from .records import in_words
from .request import FuseRequest, candidates
from .views import find_fused, foreign_record, is_published

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


class Ingredient(Record):
    """A base or an adapter that a fused model is made from."""

    name: str = described("name")
    digest: str = described("digest of its manifest")


class WeightedIngredient(Ingredient):
    """A further adapter of a sum."""

    weight: float = described("factor of its update")


class KeyInputs(Record):
    """The inputs of a fused model's key."""

    base: Ingredient = described("the base")
    adapter: Ingredient = described("the first adapter")
    with_: tuple[WeightedIngredient, ...] = described("further ones")
    recipe: Mapping[str, object] = described("how it is made")


class OnRecord(Record):
    """The record of a fused model."""

    digest: str = described("digest of its manifest")
    bytes: int = described("size in bytes of its files")
    created_at: datetime = described("when it was made")


class ExplainedModel(Record):
    """Why getting a fused model is a hit or a miss; unrecorded values are None."""

    key: str = described("digest of the inputs and the method")
    status: Literal["hit", "miss", "refused"] = described("`hit`, `miss` or `refused`")
    reason: str = described("why, in a sentence")
    scale: float | None = described("factor of the first adapter's update", default=None)
    combined: str | None = described("its adapters, with their weights", default=None)
    format: str | None = described("its precision in words", default=None)
    label: str | None = described("both", default=None)
    inputs: KeyInputs | None = described("the inputs of its key", default=None)
    asked: bool = described("the request may lead to it", default=False)
    differs: tuple[str, ...] = described("entries of the recipe that differ from the request", default=())
    recorded: OnRecord | None = described("its record, if it was ever made", default=None)
    aliases: tuple[str, ...] = described("aliases of its adapters, as `task#alias`", default=())
    here: Here | None = described("the entry in this machine's cache; None without one")
    published: bool = described("its files are recorded in the store", default=False)
    missing: tuple[str, ...] = described("needed files that the store lacks", default=())


class Explanation(Record):
    """Why a fuse is a hit or a miss."""

    reference: str = described("the reference of the request")
    models: tuple[ExplainedModel, ...] = described(
        "the fused model that is meant, or each that fusing the adapter could give or has given"
    )


def explain(workspace: Workspace, reference: str, request: FuseRequest | None = None) -> Explanation:
    """Explain whether a fused artifact, or each one that fusing an adapter could give, is here, and why."""
    with workspace.database.read() as session:
        try:
            subject = resolve_any(session, reference)
        except UnknownReferenceError:
            if (entry := entry_named(workspace, reference)) is None:
                raise
            reason = "in the cache, but not recorded in this registry, so no fuse uses it"
            here = _here(workspace, entry.key)
            model = ExplainedModel(key=entry.key, status="miss", reason=reason, here=here)
            return Explanation(reference=reference, models=(model,))
        if isinstance(subject, tables.FusedRow):
            model = _recorded(workspace, session, subject)
            return Explanation(reference=reference, models=(model,))
        if isinstance(subject, tables.BaseModelRow):
            hint = "fusery admin cache explain ADAPTER"
            raise BadInputError(f"{reference} is a base model, and not fused itself", hint=hint)
    asked = _asked(workspace, reference, request or FuseRequest())
    requested_keys, others = {model.key for model in asked}, []
    with workspace.database.read() as session:
        for row in fused_from(session, resolve_adapter(session, reference)):
            if row.key not in requested_keys:
                model = _recorded(workspace, session, row)
                # The nearest of those that were asked for: the one it differs from in the fewest entries.
                differences = [_differences(model.inputs, other.inputs) for other in asked]
                others.append(replace(model, differs=min(differences, key=len, default=())))
    return Explanation(reference=reference, models=(*asked, *others))


def _asked(workspace: Workspace, reference: str, request: FuseRequest) -> list[ExplainedModel]:
    request.check()
    ours = gather(workspace, reference, request.extras, base=request.base)
    models = []
    recipes = candidates(request, ours)
    for recipe in recipes:
        key = ours.key(recipe)
        with workspace.database.read() as session:
            if (row := find_fused(session, key)) is not None:
                model = replace(_recorded(workspace, session, row), asked=True)
                measured = record_of_row(session, key, row).measured
                strict = recipe is not recipes[-1]
                # Within a budget, what passes depends on the other formats.
                if request.budget is None and measured and not measured.passes(request, strict=strict):
                    reason = f"on record, and not taken: {measured.in_words}"
                    model = replace(model, status="refused", reason=reason)
                models.append(model)
                continue
        measurement = recorded_measurement(workspace, key)
        # The last format is computed, even if its sample was refused.
        measured = measurement.settled if recipe is recipes[-1] else measurement.measured
        reason = "never made under this key"
        if measured is not None:
            reason = f"looked at before and passed over: {measured.in_words}"
        extras = [(part, part.weight) for part in ours.extras]
        model = ExplainedModel(
            key=key,
            status="miss" if measured is None else "refused",
            reason=reason,
            **ours.label(recipe),
            inputs=_key_inputs(ours.base, ours.adapter, extras, recipe.to_dict()),
            asked=True,
            here=_here(workspace, key),
        )
        models.append(model)
    return models


def _key_inputs(
    base: tables.BaseModelRow,
    adapter: tables.AdapterRow | AdapterPart,
    extras: Sequence[tuple[tables.AdapterRow | AdapterPart, float]],
    recipe: Mapping[str, object],
) -> KeyInputs:
    added = [WeightedIngredient(name=part.name, digest=part.digest, weight=weight) for part, weight in extras]
    return KeyInputs(
        base=Ingredient(name=base.name, digest=base.digest),
        adapter=Ingredient(name=adapter.name, digest=adapter.digest),
        with_=tuple(added),
        recipe=recipe,
    )


def _differences(one: KeyInputs | None, other: KeyInputs | None) -> tuple[str, ...]:
    assert one is not None and other is not None
    parts = [name for name in ("base", "adapter") if getattr(one, name).digest != getattr(other, name).digest]
    names = sorted({*one.recipe, *other.recipe})
    return (*parts, *(name for name in names if one.recipe.get(name) != other.recipe.get(name)))


def _recorded(workspace: Workspace, session: Session, row: tables.FusedRow) -> ExplainedModel:
    here, parts = _here(workspace, row.key), parts_of(row)
    by_part = aliases_of(session, parts)
    missing: list[str] = []
    if here is None:
        reason, missing = _to_be_had(workspace, session, row)
    elif workspace.cache.is_verified(row.key, row.manifest.value):
        reason = "in the cache, and untouched since it was last hashed"
    else:
        reason = "in the cache, and hashed again before it is served"
    return ExplainedModel(
        key=row.key,
        status="miss" if here is None else "hit",
        reason=reason,
        **label_record(row),
        inputs=_key_inputs(
            row.base, row.adapter, [(extra.adapter, extra.weight) for extra in row.extras], row.recipe
        ),
        recorded=OnRecord(digest=row.digest, bytes=row.bytes, created_at=row.created_at),
        aliases=tuple(sorted({name for part in parts for name in by_part.get(part, ())})),
        here=here,
        published=is_published(row),
        missing=tuple(missing),
    )


def _to_be_had(workspace: Workspace, session: Session, row: tables.FusedRow) -> tuple[str, list[str]]:
    """Say how a fused model that is not in the cache would be had, as `fuse` goes about it, and what it lacks for that."""
    published, where = is_published(row), "made once, and not in this machine's cache"
    if (foreign := foreign_record(row)) is not None and not foreign.signed_by:
        return f"{in_words(foreign)}: it is fetched with --accept-foreign, if its files are published", []
    if published and not _missing(workspace, session, [row.manifest]):
        return "published, and not in this machine's cache: it is fetched from the store", []
    if published:
        where = "published, but not whole in the store, and not in this machine's cache"
    parts = [row.adapter.manifest, *(extra.adapter.manifest for extra in row.extras)]
    if row.base.location is None:
        parts.append(row.base.manifest)
    if missing := _missing(workspace, session, parts):
        return f"{where}; and not to be made again while files are missing in the store", missing
    return f"{where}: it is made again, to the same digest", []


def _here(workspace: Workspace, key: str) -> Here | None:
    cache = workspace.cache
    if not cache.entry(key).is_dir():
        return None
    return Here(
        path=cache.entry(key),
        last_used=datetime.fromtimestamp(cache.last_used(key), UTC),
        pinned=key in cache.pinned(),
        in_use=cache.is_in_use(key),
    )


def _missing(workspace: Workspace, session: Session, manifests: list[tables.ManifestRow]) -> list[str]:
    missing = []
    for manifest in manifests:
        for file in manifest.files:
            blob = session.get(tables.BlobRow, file.sha256)
            stored_size = (
                workspace.store.size(Digest(file.sha256), generation=blob.generation)
                if blob is not None and blob.state == "ready"
                else None
            )
            if stored_size != file.size:
                missing.append(file.path)
    return missing
