"""Fusing on demand: look in the cache, else take the lease, look again, compute, measure, publish, record.

`auto` tries the base's own format first and goes on to the next larger one when the fused weights do not hold what
the adapter learned.  A refused fuse leaves its measurement in the log, so that it is not computed a second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import StoreUnavailableError
from fusery.storage.manifest import FileEntry, Manifest

from . import tables
from .database import leases
from .errors import FidelityError, FusionUnsupportedError, RebuildDiffersError, UnknownReferenceError
from .fuse_choice import Choice, Measured, describe, known_measurement, record_refusal
from .fuse_request import FuseRequest, candidates
from .fused_records import aliased_keys, find_fused, record_fused
from .fusion.recipe import Recipe, artifact_key
from .ingredients import Ingredients, Inputs, gather
from .views import fused_view

if TYPE_CHECKING:
    from .fusion.fidelity import Fidelity
    from .workspace import Workspace

__all__ = ["FuseRequest", "FusedModel", "fuse", "fuse_to_read", "remake"]

_ATTEMPTS = 5
"""How often a fused model is looked up that vanishes before it can be held."""


@dataclass(frozen=True, slots=True)
class FusedModel:
    """A fused model in the local cache.

    Attributes:
        path: its folder, which `mlx_lm.load` takes; read-only.
        cached: it was there already.
        view: the record, as `views.fused_view` has it.
    """

    path: Path
    cached: bool
    view: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as DESIGN section 9 prints it."""
        return {**self.view, "path": str(self.path), "cached": self.cached}


def fuse(
    workspace: Workspace,
    reference: str,
    request: FuseRequest,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> FusedModel:
    """Return the fused model of an adapter, from the cache or computed.

    Args:
        workspace: the registry's parts.
        reference: the adapter.
        request: how to fuse.
        say: told what is going on.
        progress: told bytes done and bytes in all while computing.

    Raises:
        FidelityError: the fused weights would not hold what the adapter learned; nothing was published.
        FusionUnsupportedError: this base or adapter cannot be fused, or `mlx_lm.fuse` would write wrong weights.
        MissingExtraError: the base needs mlx-lm, which is not installed.
        BadInputError: the adapter is yanked, or the request makes no sense.
        UnknownReferenceError: there is no such adapter.
        OutOfSpaceError: there is no room for the result.
    """
    request.check()
    ingredients = gather(workspace, reference, request.extras)
    with ingredients.opened() as inputs:
        choice = Choice(workspace, ingredients, inputs, request, say)
        for recipe, last in choice.recipes(candidates(request, ingredients)):
            job = _Job(workspace, ingredients, inputs, recipe, request, not last, say, progress)
            if (model := job.run()) is not None:
                return model
    raise AssertionError("the last candidate either returns or raises")


@contextmanager
def fuse_to_read(
    workspace: Workspace,
    reference: str,
    request: FuseRequest,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[FusedModel]:
    """Fuse, and keep the model in the cache for as long as the block reads it; as `fuse` otherwise.

    Raises:
        StoreUnavailableError: it was removed again and again.
    """
    for _ in range(_ATTEMPTS):
        model = fuse(workspace, reference, request, say=say, progress=progress)
        with workspace.cache.using(model.view["key"]) as here:
            if here is not None:
                yield model
                return
    raise StoreUnavailableError(
        f"{model.path} is removed as soon as it is made", hint="set a larger FUSERY_CACHE_LIMIT"
    )


def remake(
    workspace: Workspace,
    key: Digest,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> FusedModel:
    """Return a recorded fused model, from the cache or made again by its recipe.

    Raises:
        RebuildDiffersError: it came out different from its record; nothing was published.
        FusionUnsupportedError: it was made by another engine than there is here.
        BadInputError: an adapter of it is yanked.
    """
    with workspace.database.read() as session:
        row = find_fused(session, key)
        if row is None:
            raise UnknownReferenceError(f"there is no fused artifact {key[:12]}", hint="fusery cache list")
        adapter, recipe = row.adapter.name, Recipe.from_dict(row.recipe)
        extras = tuple((extra.adapter.name, extra.weight) for extra in row.extras)
    ingredients = gather(workspace, adapter, extras)
    engine = ingredients.engine(quantize=recipe.quantization is not None)
    if engine != recipe.engine:
        raise FusionUnsupportedError(
            f"{key[:12]} was made by {recipe.engine}, and here is {engine}", hint=f"fusery fuse {adapter}"
        )
    with ingredients.opened() as inputs:
        request = FuseRequest(accept_loss=True, extras=extras)
        model = _Job(workspace, ingredients, inputs, recipe, request, False, say, progress).run()
    assert model is not None  # everything passes a request that accepts loss
    return model


@dataclass(frozen=True, slots=True)
class _Job:
    """One candidate: a key, and how to get its model."""

    workspace: Workspace
    ingredients: Ingredients
    inputs: Inputs
    recipe: Recipe
    request: FuseRequest
    strict: bool
    say: Callable[[str], None]
    progress: Callable[[int, int], None] | None

    @property
    def key(self) -> Digest:
        return artifact_key(self.ingredients.base_digest, self.ingredients.adapter.digest, self.recipe)

    def run(self) -> FusedModel | None:
        """Return the model, or None when it does not pass and there is another candidate."""
        if (known := known_measurement(self.workspace, self.key)) is not None and not self._passes(known):
            return None
        if (model := self._cached()) is not None:
            return model
        return self._build()

    def _passes(self, measured: Measured) -> bool:
        """Return True to go on, False to try the next candidate; raise when there is none."""
        if measured.passes(self.request, strict=self.strict):
            return True
        if self.strict:
            self.say(f"{describe(self.recipe)}: {measured.in_words}; trying the next larger format")
            return False
        raise _lost(self.ingredients, self.recipe, measured, self.request)

    def _cached(self) -> FusedModel | None:
        with self.workspace.database.read() as session:
            row = find_fused(session, self.key)
            view = self._view(row) if row else None
        if view is None:
            return None
        path = self.workspace.cache.lookup(self.key, _manifest(view))
        return FusedModel(path, True, view) if path else None

    def _build(self) -> FusedModel | None:
        lease = leases.wait(
            self.workspace.database,
            self.key,
            self.workspace.owner(),
            told=lambda busy: self.say(_waiting(busy)),
        )
        with lease.keep():
            # After the lease, not before: whoever held it may just have published.
            model = self._cached()
            if model is not None:
                with self.workspace.database.write() as session:
                    lease.release(session)
                return model
            return self._compute(lease)

    def _compute(self, lease: leases.Lease) -> FusedModel | None:
        started = time.monotonic()
        cache = self.workspace.cache
        with cache.build(self.key, lease.fence) as folder:
            self.say(f"fusing {self.ingredients.adapter.name} ({describe(self.recipe)})")
            made = self.inputs.compute(
                self.recipe, self.key, folder, check=lease.check, progress=self.progress
            )
            measured = Measured.of(made.fidelity)
            if not measured.passes(self.request, strict=self.strict):
                self._refuse(lease, measured)
                return None
            lease.check()
            self._require_same(made.manifest)
            path = cache.publish(self.key, folder, made.manifest, hashed=True)
        with self.workspace.database.write() as session:
            lease.publish(session)
            view = self._record(session, made.manifest, made.fidelity, time.monotonic() - started)
            spared = {self.key, *aliased_keys(session)}
        cache.evict(self.workspace.settings.cache_limit, spared).execute()
        return FusedModel(path, False, view)

    def _refuse(self, lease: leases.Lease, measured: Measured) -> None:
        with self.workspace.database.write() as session:
            record_refusal(self.workspace, session, self.ingredients, self.recipe, self.key, measured)
            lease.release(session)
        self._passes(measured)

    def _require_same(self, manifest: Manifest) -> None:
        with self.workspace.database.read() as session:
            row = find_fused(session, self.key)
        if row is not None and row.digest != manifest.digest:
            raise RebuildDiffersError(
                f"rebuilding {self.key[:12]} gave other bytes than are recorded: {manifest.digest[:12]}, "
                f"recorded is {row.digest[:12]}",
                hint="fusery audit",
            )

    def _record(
        self, session: Session, manifest: Manifest, fidelity: Fidelity, seconds: float
    ) -> dict[str, Any]:
        row = find_fused(session, self.key)
        if row is None:
            row = record_fused(
                self.workspace, session, self.ingredients, self.recipe, self.key, manifest, fidelity, seconds
            )
        return self._view(row)

    def _view(self, row: tables.Fused) -> dict[str, Any]:
        """Return the record under the name that was asked for: the same bytes may be registered under another, too."""
        return {**fused_view(row), "adapter": self.ingredients.adapter.name}


def _manifest(view: Mapping[str, Any]) -> Manifest:
    return Manifest.of(_entries(view["files"]))


def _entries(files: list[dict[str, Any]]) -> Iterator[FileEntry]:
    return (FileEntry(file["path"], file["size"], Digest(file["sha256"])) for file in files)


def _waiting(busy: leases.Busy) -> str:
    who = busy.owner.description if busy.owner else "another process"
    return f"being fused by {who}, waiting"


def _lost(
    ingredients: Ingredients, recipe: Recipe, measured: Measured, request: FuseRequest
) -> FidelityError:
    share, name = f"{100 * (measured.retained or 0.0):.1f} %", describe(recipe)
    if request.min_fidelity is not None and (measured.retained or 0.0) < request.min_fidelity:
        message = f"{name} retains {share} of the update, and at least {request.min_fidelity} was asked for"
    else:
        message = f"{name} would lose the adapter: {measured.in_words}"
    larger = recipe.precision != "dequantize" and ingredients.quantized
    if request.budget is not None:
        hint = "allow more: --budget 1.5x, or leave it out"
    elif recipe.precision == "keep" and larger:
        hint = f"fusery fuse {ingredients.adapter.name} --precision auto"
    else:
        hint = (
            f"fusery fuse {ingredients.adapter.name} --precision dequantize"
            if larger
            else "--accept-loss publishes it"
        )
    return FidelityError(message, hint=hint)
