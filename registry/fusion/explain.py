"""Why a fuse is a cache hit or a miss: the inputs of its key, and which files are here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from .. import tables
from ..engine.recipe import Recipe, artifact_key
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record, described
from ..records.fused_label import label_record, names
from ..records.references import fused_from, resolve_adapter, resolve_any
from .cache import Here, aliases_of, entry_named
from .foreign import foreign_record
from .fuse_inputs import FuseInputs, gather
from .known import known_measurement
from .published import is_published
from .records import find_fused, in_words
from .request import FuseRequest, candidates

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredient(Record):
    """A base or an adapter that a fused model is made from."""

    name: str = described("name")
    digest: str = described("digest of its manifest")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedIngredient(Ingredient):
    """A further adapter of a sum."""

    weight: float = described("factor of its update")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInputs(Record):
    """What makes the key of a fused model."""

    base: Ingredient = described("the base")
    adapter: Ingredient = described("the first adapter")
    with_: tuple[WeightedIngredient, ...] = described("further ones")
    recipe: Mapping[str, object] = described("how it is made")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRecord(Record):
    """What is on record of a fused model."""

    digest: str = described("digest of its manifest")
    bytes: int = described("size in bytes of its files")
    created_at: datetime = described("when it was made")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedModel(Record):
    """Why getting a fused model is a hit or a miss.

    Attributes:
        scale: that the first adapter's update is multiplied by, where that is not its own.
        combined: its adapters, with their weights; None if it is on record nowhere.
        format: its precision in words; likewise.
        label: both; likewise.
        inputs: what makes the key; likewise.
        asked: the request may lead to it.
        differs: entries of the recipe, `base` and `adapter`, in which it differs from what is asked for.
        recorded: what is on record of it; None if it was never made.
        aliases: that stand for an adapter in it, as `task#alias`.
        published: its files are on record as being in the store, from where they are fetched.
        missing: files that getting it would need, and the store lacks.
    """

    key: str = described("digest of what it is made from and how")
    status: Literal["hit", "miss", "refused"] = described("`hit`, `miss` or `refused`")
    reason: str = described("why, in a sentence")
    scale: float | None = None
    combined: str | None = None
    format: str | None = None
    label: str | None = None
    inputs: KeyInputs | None = None
    asked: bool = False
    differs: tuple[str, ...] = ()
    recorded: OnRecord | None = None
    aliases: tuple[str, ...] = ()
    here: Here | None = described("the entry in this machine's cache; None without one")
    published: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Record):
    """Why a fuse is a hit or a miss."""

    reference: str = described("the reference of the request")
    models: tuple[ExplainedModel, ...] = described(
        "the fused model that is meant, or each that fusing the adapter could give or has given"
    )


def explain(workspace: Workspace, reference: str, request: FuseRequest | None = None) -> Explanation:
    """Explain whether a fused artifact, or each one that fusing an adapter could give, is here, and why.

    Args:
        workspace: the registry's parts.
        reference: a fused artifact by key or digest, or an adapter.
        request: how an adapter would be fused; as `fuse` takes it.

    Raises:
        UnknownReferenceError: nothing has that name.
        BadInputError: it is a base model, or the request makes no sense.
    """
    with workspace.database.read() as session:
        try:
            subject = resolve_any(session, reference)
        except UnknownReferenceError:
            if entry_named(workspace, reference) is None:
                raise
            return Explanation(reference=reference, models=(_unrecorded(workspace, reference),))
        if subject.fused is not None:
            model = _recorded(workspace, session, subject.fused)
            return Explanation(reference=reference, models=(model,))
        if subject.adapter is None:
            raise BadInputError(
                f"{reference} is a base model, and not fused itself", hint="fusery cache explain ADAPTER"
            )
    models = _asked(workspace, reference, request or FuseRequest())
    models += _others(workspace, reference, models)
    return Explanation(reference=reference, models=tuple(models))


def _asked(workspace: Workspace, reference: str, request: FuseRequest) -> list[ExplainedModel]:
    """Explain the keys that a fuse of the adapter would try, in its order."""
    request.check()
    fuse_inputs = gather(workspace, reference, request.extras)
    models = []
    recipes = candidates(request, fuse_inputs)
    for recipe in recipes:
        key = artifact_key(fuse_inputs.base_digest, fuse_inputs.adapter.digest, recipe)
        with workspace.database.read() as session:
            row = find_fused(session, key)
            if row is not None:
                models.append(replace(_recorded(workspace, session, row), asked=True))
                continue
        models.append(_never_made(workspace, fuse_inputs, recipe, key, last=recipe is recipes[-1]))
    return models


def _others(workspace: Workspace, reference: str, asked: Sequence[ExplainedModel]) -> list[ExplainedModel]:
    """Explain what else was fused from the adapter, and what keeps the request from leading to it."""
    known = {model.key for model in asked}
    others = []
    with workspace.database.read() as session:
        for row in session.scalars(fused_from(resolve_adapter(session, reference))):
            if row.key in known:
                continue
            model = _recorded(workspace, session, row)
            # The nearest of those that were asked for: the one it differs from in the fewest entries.
            differences = [_differences(model.inputs, other.inputs) for other in asked]
            others.append(replace(model, differs=min(differences, key=len, default=())))
    return others


def _differences(one: KeyInputs | None, other: KeyInputs | None) -> tuple[str, ...]:
    assert one is not None
    assert other is not None
    names = sorted({*one.recipe, *other.recipe})
    differs = [name for name in names if one.recipe.get(name) != other.recipe.get(name)]
    parts = [("base", one.base, other.base), ("adapter", one.adapter, other.adapter)]
    return (*(name for name, ours, theirs in parts if ours.digest != theirs.digest), *differs)


def _recorded(workspace: Workspace, session: Session, row: tables.Fused) -> ExplainedModel:
    manifest = row.manifest.value
    here = _here(workspace, row.key)
    inputs = KeyInputs(
        base=Ingredient(name=row.base.name, digest=row.base.digest),
        adapter=Ingredient(name=row.adapter.name, digest=row.adapter.digest),
        with_=tuple(
            WeightedIngredient(name=extra.adapter.name, digest=extra.adapter.digest, weight=extra.weight)
            for extra in row.extras
        ),
        recipe=row.recipe,
    )
    missing: list[str] = []
    if here is None:
        reason, missing = _to_be_had(workspace, session, row)
    elif workspace.cache.is_vouched(row.key, manifest):
        reason = "in the cache, and untouched since it was last hashed"
    else:
        reason = "in the cache, and hashed again before it is served"
    return ExplainedModel(
        key=row.key,
        status="miss" if here is None else "hit",
        reason=reason,
        **label_record(row),
        inputs=inputs,
        recorded=OnRecord(digest=row.digest, bytes=row.bytes, created_at=row.created_at),
        aliases=tuple(aliases_of(session, row)),
        here=here,
        published=is_published(row),
        missing=tuple(missing),
    )


def _to_be_had(workspace: Workspace, session: Session, row: tables.Fused) -> tuple[str, list[str]]:
    """Say how a fused model that is not in the cache would be had, as `fuse` goes about it, and what it lacks for that."""
    published, where = is_published(row), "made once, and not in this machine's cache"
    if (foreign := foreign_record(row)) is not None and not foreign.signed_by:
        return (
            f"{in_words(foreign)}: it is fetched with --accept-foreign only, if its files are published",
            [],
        )
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


def _never_made(
    workspace: Workspace, fuse_inputs: FuseInputs, recipe: Recipe, key: Digest, *, last: bool
) -> ExplainedModel:
    known = known_measurement(workspace, key)
    # What was passed over by a sample is computed where there is nothing else to take.
    measured = known.settled if last else known.measured
    reason = "never made under this key"
    if measured is not None:
        reason = f"looked at before and passed over: {measured.in_words}"
    return ExplainedModel(
        key=key,
        status="miss" if measured is None else "refused",
        reason=reason,
        **names(fuse_inputs.adapter.name, recipe, [(part.name, part.weight) for part in fuse_inputs.extras]),
        inputs=KeyInputs(
            base=Ingredient(name=fuse_inputs.base.name, digest=fuse_inputs.base_digest),
            adapter=Ingredient(name=fuse_inputs.adapter.name, digest=fuse_inputs.adapter.digest),
            with_=tuple(
                WeightedIngredient(name=part.name, digest=part.digest, weight=part.weight)
                for part in fuse_inputs.extras
            ),
            recipe=recipe.to_dict(),
        ),
        asked=True,
        here=_here(workspace, key),
    )


def _unrecorded(workspace: Workspace, reference: str) -> ExplainedModel:
    entry = entry_named(workspace, reference)
    assert entry is not None
    return ExplainedModel(
        key=entry.key,
        status="miss",
        reason="in the cache, and on record nowhere in this registry: nothing looks it up",
        here=_here(workspace, entry.key),
    )


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


def _missing(workspace: Workspace, session: Session, manifests: list[tables.Manifest]) -> list[str]:
    missing = []
    for manifest in manifests:
        for file in manifest.files:
            blob = session.get(tables.Blob, file.sha256)
            found = (
                workspace.store.size(Digest(file.sha256), generation=blob.generation)
                if blob is not None and blob.state == "ready"
                else None
            )
            if found != file.size:
                missing.append(file.path)
    return missing
