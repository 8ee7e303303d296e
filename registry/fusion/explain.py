"""Why a fuse is a cache hit or a miss: the inputs of its key, and which files are here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest

from .. import tables
from ..engine.recipe import Recipe, artifact_key
from ..errors import BadInputError, UnknownReferenceError
from ..records.fused_label import label_record, names
from ..records.references import fused_from, resolve_adapter, resolve_any
from ..records.views import moment
from .cache import aliases_of, entry_named
from .foreign import foreign_record
from .fuse_inputs import FuseInputs, gather
from .known import known_measurement
from .published import is_published
from .records import find_fused, in_words
from .request import FuseRequest, candidates

if TYPE_CHECKING:
    from ..workspace import Workspace


def explain(workspace: Workspace, reference: str, request: FuseRequest | None = None) -> dict[str, Any]:
    """Explain whether a fused artifact, or each one that fusing an adapter could give, is here, and why.

    Args:
        workspace: the registry's parts.
        reference: a fused artifact by key or digest, or an adapter.
        request: how an adapter would be fused; as `fuse` takes it.

    Returns:
        `reference`, and `models`: each with `key`, `status` (`hit`, `miss` or `refused`), `reason`, `inputs` (what makes
        the key: `base`, `adapter`, `with`, `recipe`), `asked` (whether the request may lead to it), `differs` (the
        recipe entries in which it differs from the request), `recorded`, `here`, `published` (its files are on record as being in the
        store, from where they are fetched) and `missing` (files that getting it would need).

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
            return {"reference": reference, "models": [_unrecorded(workspace, reference)]}
        if subject.fused is not None:
            return {"reference": reference, "models": [_recorded(workspace, session, subject.fused)]}
        if subject.adapter is None:
            raise BadInputError(
                f"{reference} is a base model, and not fused itself", hint="fusery cache explain ADAPTER"
            )
    models = _asked(workspace, reference, request or FuseRequest())
    models += _others(workspace, reference, models)
    return {"reference": reference, "models": models}


def _asked(workspace: Workspace, reference: str, request: FuseRequest) -> list[dict[str, Any]]:
    """Explain the keys that a fuse of the adapter would try, in its order."""
    request.check()
    fuse_inputs = gather(workspace, reference, request.extras)
    models = []
    for recipe in candidates(request, fuse_inputs):
        key = artifact_key(fuse_inputs.base_digest, fuse_inputs.adapter.digest, recipe)
        with workspace.database.read() as session:
            row = find_fused(session, key)
            if row is not None:
                models.append({**_recorded(workspace, session, row), "asked": True})
                continue
        models.append(_never_made(workspace, fuse_inputs, recipe, key))
    return models


def _others(workspace: Workspace, reference: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Explain what else was fused from the adapter, and what keeps the request from leading to it."""
    known = {model["key"] for model in asked}
    others = []
    with workspace.database.read() as session:
        for row in session.scalars(fused_from(resolve_adapter(session, reference))):
            if row.key in known:
                continue
            model = _recorded(workspace, session, row)
            # The nearest of those that were asked for: the one it differs from in the fewest entries.
            differences = [_differences(model["inputs"], other["inputs"]) for other in asked]
            others.append({**model, "differs": min(differences, key=len, default=[])})
    return others


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = sorted({*one["recipe"], *other["recipe"]})
    differs = [name for name in names if one["recipe"].get(name) != other["recipe"].get(name)]
    return [part for part in ("base", "adapter") if one[part]["digest"] != other[part]["digest"]] + differs


def _recorded(workspace: Workspace, session: Session, row: tables.Fused) -> dict[str, Any]:
    manifest = row.manifest.value
    here = _here(workspace, row.key)
    inputs = {
        "base": {"name": row.base.name, "digest": row.base.digest},
        "adapter": {"name": row.adapter.name, "digest": row.adapter.digest},
        "with": [
            {"name": extra.adapter.name, "digest": extra.adapter.digest, "weight": extra.weight}
            for extra in row.extras
        ],
        "recipe": row.recipe,
    }
    missing: list[str] = []
    if here is None:
        status = "miss"
        reason, missing = _to_be_had(workspace, session, row)
    elif workspace.cache.is_vouched(row.key, manifest):
        status, reason = "hit", "in the cache, and untouched since it was last hashed"
    else:
        status, reason = "hit", "in the cache, and hashed again before it is served"
    return {
        "key": row.key,
        "status": status,
        "reason": reason,
        **label_record(row),
        "inputs": inputs,
        "asked": False,
        "differs": [],
        "recorded": {"digest": row.digest, "bytes": row.bytes, "created_at": moment(row.created_at)},
        "aliases": aliases_of(session, row),
        "here": here,
        "published": is_published(row),
        "missing": missing,
    }


def _to_be_had(workspace: Workspace, session: Session, row: tables.Fused) -> tuple[str, list[str]]:
    """Say how a fused model that is not in the cache would be had, as `fuse` goes about it, and what it lacks for that."""
    published, where = is_published(row), "made once, and not in this machine's cache"
    if (foreign := foreign_record(row)) is not None and not foreign["signed_by"]:
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


def _never_made(workspace: Workspace, fuse_inputs: FuseInputs, recipe: Recipe, key: Digest) -> dict[str, Any]:
    measured = known_measurement(workspace, key)
    status, reason = "miss", "never made under this key"
    if measured is not None:
        status, reason = "refused", f"looked at before and passed over: {measured.in_words}"
    return {
        "key": key,
        "status": status,
        "reason": reason,
        **names(fuse_inputs.adapter.name, recipe, [(part.name, part.weight) for part in fuse_inputs.extras]),
        "inputs": {
            "base": {"name": fuse_inputs.base.name, "digest": fuse_inputs.base_digest},
            "adapter": {"name": fuse_inputs.adapter.name, "digest": fuse_inputs.adapter.digest},
            "with": [
                {"name": part.name, "digest": part.digest, "weight": part.weight}
                for part in fuse_inputs.extras
            ],
            "recipe": recipe.to_dict(),
        },
        "asked": True,
        "differs": [],
        "recorded": None,
        "aliases": [],
        "here": _here(workspace, key),
        "published": False,
        "missing": [],
    }


def _unrecorded(workspace: Workspace, reference: str) -> dict[str, Any]:
    entry = entry_named(workspace, reference)
    assert entry is not None
    return {
        "key": entry.key,
        "status": "miss",
        "reason": "in the cache, and on record nowhere in this registry: nothing looks it up",
        "scale": None,
        "combined": None,
        "format": None,
        "label": None,
        "inputs": None,
        "asked": False,
        "differs": [],
        "recorded": None,
        "aliases": [],
        "here": _here(workspace, entry.key),
        "published": False,
        "missing": [],
    }


def _here(workspace: Workspace, key: str) -> dict[str, Any] | None:
    cache = workspace.cache
    if not cache.entry(key).is_dir():
        return None
    return {
        "path": str(cache.entry(key)),
        "last_used": moment(datetime.fromtimestamp(cache.last_used(key), UTC)),
        "pinned": key in cache.pinned(),
        "in_use": cache.is_in_use(key),
    }


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
