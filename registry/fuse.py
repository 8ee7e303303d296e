"""Fusing on demand: look in the cache, else take the lease, look again, compute, measure, publish, record.

`auto` tries the base's own format first and goes on to the next larger one when the fused weights do not hold what
the adapter learned.  A refused fuse leaves its measurement in the log, so that it is not computed a second time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry, Manifest

from . import events, tables
from .database import leases
from .errors import BadInputError, FidelityError, RebuildDiffersError
from .fusion.recipe import Recipe, artifact_key
from .ingredients import Ingredients, gather
from .views import fused_view

if TYPE_CHECKING:
    from .fusion.fidelity import Fidelity
    from .workspace import Workspace

PRECISIONS = ("auto", "keep", "dequantize")
_REFUSED = "fuse.refused"


@dataclass(frozen=True, slots=True)
class FuseRequest:
    """How to fuse.

    Attributes:
        precision: `keep`, `dequantize`, or `auto` for the smaller of the two that passes.
        min_fidelity: share of the update that must be retained, 0 to 1; None for the verdict alone.
        accept_loss: publish even what is LOST or below `min_fidelity`.
    """

    precision: str = "auto"
    min_fidelity: float | None = None
    accept_loss: bool = False


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


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a fuse was found to retain, from a record or from the log."""

    verdict: str
    retained: float | None

    def passes(self, request: FuseRequest, *, strict: bool) -> bool:
        """Tell whether it may be published; `strict` asks for PASS, as `auto` does while there is an alternative."""
        if request.accept_loss and not strict:
            return True
        if request.min_fidelity is not None and (self.retained or 0.0) < request.min_fidelity:
            return False
        return self.verdict == "PASS" if strict else self.verdict != "LOST"


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
        FusionUnsupportedError: this base or adapter is outside of what the engine can do.
        BadInputError: the adapter is yanked, or there is no such precision.
        UnknownReferenceError: there is no such adapter.
        OutOfSpaceError: there is no room for the result.
    """
    if request.min_fidelity is not None and not 0 <= request.min_fidelity <= 1:
        raise BadInputError(
            "the share that must be retained is a number from 0 to 1", hint="--min-fidelity 0.9"
        )
    ingredients = gather(workspace, reference)
    candidates = _candidates(request.precision, ingredients)
    for position, precision in enumerate(candidates):
        strict = position + 1 < len(candidates)
        job = _Job(workspace, ingredients, Recipe(precision=precision), request, strict, say, progress)
        if (model := job.run()) is not None:
            return model
    raise AssertionError("the last candidate either returns or raises")


def _candidates(precision: str, ingredients: Ingredients) -> tuple[str, ...]:
    if precision not in PRECISIONS:
        raise BadInputError(
            f"there is no precision {precision[:40]!r}", hint=f"--precision {'|'.join(PRECISIONS)}"
        )
    if precision != "auto":
        return (precision,)
    return ("keep", "dequantize") if ingredients.quantized else ("keep",)


@dataclass(frozen=True, slots=True)
class _Job:
    """One candidate: a key, and how to get its model."""

    workspace: Workspace
    ingredients: Ingredients
    recipe: Recipe
    request: FuseRequest
    strict: bool
    say: Callable[[str], None]
    progress: Callable[[int, int], None] | None

    @property
    def key(self) -> Digest:
        return artifact_key(self.ingredients.base_digest, self.ingredients.adapter_digest, self.recipe)

    def run(self) -> FusedModel | None:
        """Return the model, or None when it does not pass and there is another candidate."""
        if (known := self._known()) is not None and not self._passes(known):
            return None
        if (model := self._cached()) is not None:
            return model
        return self._build()

    def _known(self) -> _Measured | None:
        with self.workspace.database.read() as session:
            row = _row(session, self.key)
            if row is not None:
                return _Measured(row.verdict, row.retained)
            refusals = events.history(session, kind="fused", subject=self.key, action=_REFUSED, limit=1)
        if not refusals:
            return None
        detail = json.loads(refusals[0].detail)
        return _Measured(detail["verdict"], detail["retained"])

    def _passes(self, measured: _Measured) -> bool:
        """Return True to go on, False to try the next candidate; raise when there is none."""
        if measured.passes(self.request, strict=self.strict):
            return True
        if self.strict:
            self.say(
                f"{self.recipe.precision}: {measured.verdict}, {100 * (measured.retained or 0):.1f} % of the update retained; "
                "trying the next larger format"
            )
            return False
        raise _lost(self.ingredients, self.recipe, measured, self.request)

    def _cached(self) -> FusedModel | None:
        with self.workspace.database.read() as session:
            row = _row(session, self.key)
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
        cache.sweep()
        with cache.build(self.key, lease.fence) as folder:
            self.say(f"fusing {self.ingredients.adapter_name} ({self.recipe.precision})")
            made = self.ingredients.compute(
                self.recipe, self.key, folder, check=lease.check, progress=self.progress
            )
            measured = _Measured(made.fidelity.verdict, made.fidelity.retained)
            if not measured.passes(self.request, strict=self.strict):
                self._refuse(lease, measured)
                return None
            lease.check()
            self._require_same(made.manifest)
            path = cache.publish(self.key, folder, made.manifest, hashed=True)
        with self.workspace.database.write() as session:
            lease.publish(session)
            view = self._record(session, made.manifest, made.fidelity, time.monotonic() - started)
            spared = {self.key, *_aliased_keys(session)}
        cache.evict(self.workspace.settings.cache_limit, spared).execute()
        return FusedModel(path, False, view)

    def _refuse(self, lease: leases.Lease, measured: _Measured) -> None:
        with self.workspace.database.write() as session:
            events.record(
                session,
                action=_REFUSED,
                kind="fused",
                subject=self.key,
                detail={
                    "adapter": self.ingredients.adapter_name,
                    "precision": self.recipe.precision,
                    "verdict": measured.verdict,
                    "retained": measured.retained,
                },
                actor=self.workspace.actor,
                at=self.workspace.database.utcnow(session),
            )
            lease.release(session)
        self._passes(measured)

    def _require_same(self, manifest: Manifest) -> None:
        with self.workspace.database.read() as session:
            row = _row(session, self.key)
        if row is not None and row.digest != manifest.digest:
            raise RebuildDiffersError(
                f"rebuilding {self.key[:12]} gave other bytes than are recorded: {manifest.digest[:12]}, "
                f"recorded is {row.digest[:12]}",
                hint="fusery audit",
            )

    def _record(
        self, session: Session, manifest: Manifest, fidelity: Fidelity, seconds: float
    ) -> dict[str, Any]:
        from .deposit import record_manifest

        row = _row(session, self.key)
        if row is None:
            row = self._new_row(session, record_manifest(session, manifest), manifest, fidelity, seconds)
        return self._view(row)

    def _view(self, row: tables.Fused) -> dict[str, Any]:
        """Return the record under the name that was asked for: the same bytes may be registered under another, too."""
        return {**fused_view(row), "adapter": self.ingredients.adapter_name}

    def _new_row(
        self,
        session: Session,
        stored: tables.Manifest,
        manifest: Manifest,
        fidelity: Fidelity,
        seconds: float,
    ) -> tables.Fused:
        now = self.workspace.database.utcnow(session)
        row = tables.Fused(
            key=self.key,
            base_id=self.ingredients.base_id,
            adapter_id=self.ingredients.adapter_id,
            recipe=self.recipe.to_dict(),
            engine=self.recipe.engine,
            precision=self.recipe.precision,
            quantization=self.ingredients.quantization if self.recipe.precision == "keep" else None,
            manifest_id=stored.id,
            digest=manifest.digest,
            bytes=manifest.size,
            seconds=seconds,
            verdict=fidelity.verdict,
            retained=fidelity.retained,
            cosine=fidelity.cosine,
            relative_error=fidelity.relative_error,
            created_at=now,
            created_by=self.workspace.actor,
            used_at=now,
            modules=[
                tables.ModuleFidelity(
                    module=module.module,
                    norm=module.norm,
                    retained=module.retained,
                    cosine=module.cosine,
                    relative_error=module.relative_error,
                )
                for module in fidelity.modules
            ],
        )
        session.add(row)
        session.flush()
        session.refresh(row)
        events.record(
            session,
            action="fused.made",
            kind="fused",
            subject=self.key,
            detail={
                "adapter": self.ingredients.adapter_name,
                "base": self.ingredients.base_digest,
                "digest": manifest.digest,
                "precision": self.recipe.precision,
                "verdict": fidelity.verdict,
                "retained": fidelity.retained,
            },
            actor=self.workspace.actor,
            at=now,
        )
        return row


def _row(session: Session, key: Digest) -> tables.Fused | None:
    return session.scalar(select(tables.Fused).where(tables.Fused.key == key))


def _aliased_keys(session: Session) -> list[str]:
    """Return the keys of fused models whose adapter has an alias: somebody relies on them."""
    named, fused = aliased(tables.Adapter), aliased(tables.Adapter)
    query = (
        select(tables.Fused.key)
        .join(fused, fused.id == tables.Fused.adapter_id)
        .join(named, named.digest == fused.digest)
        .join(tables.Alias, tables.Alias.adapter_id == named.id)
    )
    return list(session.scalars(query))


def _manifest(view: Mapping[str, Any]) -> Manifest:
    return Manifest.of(_entries(view["files"]))


def _entries(files: list[dict[str, Any]]) -> Iterator[FileEntry]:
    return (FileEntry(file["path"], file["size"], Digest(file["sha256"])) for file in files)


def _waiting(busy: leases.Busy) -> str:
    who = busy.owner.description if busy.owner else "another process"
    return f"being fused by {who}, waiting"


def _lost(
    ingredients: Ingredients, recipe: Recipe, measured: _Measured, request: FuseRequest
) -> FidelityError:
    share = f"{100 * (measured.retained or 0.0):.1f} %"
    if measured.verdict == "LOST":
        message = f"{recipe.precision} would lose the adapter: only {share} of its update would be in the fused weights"
    else:
        message = f"{recipe.precision} retains {share} of the update, and at least {request.min_fidelity} was asked for"
    keeps = recipe.precision == "keep" and ingredients.quantized
    hint = (
        f"fusery fuse {ingredients.adapter_name} --precision dequantize"
        if keeps
        else "--accept-loss publishes it"
    )
    return FidelityError(message, hint=hint)
