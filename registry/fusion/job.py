"""One candidate of a fuse: in the cache, else under the lease: fetched, or computed, measured, published and recorded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StorageError, StoreUnavailableError
from fusery.storage.manifest import Manifest
from fusery.storage.progress import Reporter

from .. import tables
from ..database import leases
from ..engine.recipe import Recipe, artifact_key
from ..errors import DatabaseReadOnlyError
from ..records.fused import Fused
from ..records.fused_label import describe
from .choice import record_refusal
from .foreign import compare_claims
from .fuse_inputs import FuseInputs, InputFiles
from .known import Known, Measured, look_up
from .published import deposit_files, fetch_published, is_published, record_published
from .records import find_fused, in_words, make_room, on_this_machine, record_fused
from .request import FuseRequest
from .views import fused_record
from .words import claim_in_words, differing, lost, unpublished, waiting

if TYPE_CHECKING:
    from ..engine.fidelity import Fidelity
    from ..records.deposit import Deposit
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Job:
    """One candidate: a key, and how to get its model.

    What is on record about the key is looked up three times: before the lease, after it, and where the model is recorded.
    `found` is what was found before the lease, if somebody has looked already.  `strict` and `sound` say what it has to be, as
    `Measured.passes` takes them.
    """

    workspace: Workspace
    fuse_inputs: FuseInputs
    inputs: InputFiles
    recipe: Recipe
    request: FuseRequest
    strict: bool
    publish: str
    reporter: Reporter
    found: Known | None = None
    sound: bool = False

    @property
    def key(self) -> Digest:
        """Of the result."""
        return artifact_key(self.fuse_inputs.base_digest, self.fuse_inputs.adapter.digest, self.recipe)

    def run(self) -> Fused | None:
        """Return the model, or None when it does not pass and there is another candidate."""
        known = self.found or self.look_up()
        if known.settled is not None and not self._passes(known.settled):
            return None
        if (model := self._cached(known)) is not None:
            return self.shared(model)
        return self._claimed(known) or self._build()

    def at_hand(self) -> Fused | None:
        """Return the model if it need not be computed, None if it would have to be, or does not pass."""
        known = self.found or self.look_up()
        if known.settled is not None and not self._passes(known.settled):
            return None
        if (model := self._cached(known)) is not None:
            return model
        return self._build(compute=False) if known.published else self._claimed(known)

    def look_up(self) -> Known:
        """Return what is on record about the key."""
        name = self.fuse_inputs.adapter.name
        return look_up(self.workspace, self.key, name, self.request, strict=self.strict, sound=self.sound)

    def _passes(self, measured: Measured) -> bool:
        """Return True to go on, False to try the next candidate; raise when there is none."""
        if measured.passes(self.request, strict=self.strict, sound=self.sound):
            return True
        if self.strict or self.sound:
            self.reporter.say(
                f"{describe(self.recipe)}: {measured.passed_over(self.request, sound=self.sound)}"
            )
            return False
        raise lost(self.fuse_inputs, self.recipe, measured, self.request)

    def _cached(self, known: Known) -> Fused | None:
        if (view := known.own) is None:
            return None
        path = self.workspace.cache.lookup(self.key, Manifest.of(view.files))
        return on_this_machine(view, path, "cache") if path else None

    def _claimed(self, known: Known) -> Fused | None:
        """Return what another registry says is this model, if it has its files and the user or a signature says so."""
        if (view := known.claim) is None:
            return None
        key = Digest(view.key)
        self.reporter.say(f"{self.fuse_inputs.adapter.name}: {in_words(view.foreign)}")
        manifest = Manifest.of(view.files)
        if (path := self.workspace.cache.lookup(key, manifest)) is not None:
            return on_this_machine(view, path, "cache")
        try:
            lease = self._lease(key)
        except DatabaseReadOnlyError:
            path = self._fetch(None, key, manifest)
            return on_this_machine(view, path, "store") if path else None
        with lease.keep():
            path = self._fetch(lease, key, manifest)
            with self.workspace.database.write() as session:
                lease.release(session)
        return on_this_machine(view, path, "store") if path else None

    def _build(self, *, compute: bool = True) -> Fused | None:
        try:
            lease = self._lease(self.key)
        except DatabaseReadOnlyError as error:
            # What is published may be fetched by two at a time; what is computed could not be recorded.
            if (model := self._fetched(None, self.look_up())) is None and compute:
                raise unpublished(self.fuse_inputs, self.recipe, error) from error
            return model
        with lease.keep():
            # After the lease, not before: whoever held it may just have published.
            known = self.look_up()
            model = self._cached(known) or self._fetched(lease, known)
            if model is not None or not compute:
                with self.workspace.database.write() as session:
                    lease.release(session)
                return model and self.shared(model)
            return self._compute(lease, known)

    def _lease(self, key: Digest) -> leases.Lease:
        workspace = self.workspace
        return leases.wait(
            workspace.database, key, workspace.owner(), told=lambda busy: self.reporter.say(waiting(busy))
        )

    def _fetched(self, lease: leases.Lease | None, known: Known) -> Fused | None:
        """Return the model from the store, None if it is not published or cannot be had."""
        if (view := known.published) is None:
            return None
        path = self._fetch(lease, self.key, Manifest.of(view.files))
        return on_this_machine(view, path, "store") if path else None

    def _fetch(self, lease: leases.Lease | None, key: Digest, manifest: Manifest) -> Path | None:
        """Bring files from the store into the cache, under a key; None if they cannot be had."""
        cache = self.workspace.cache
        self.reporter.say(
            f"fetching {self.fuse_inputs.adapter.name} ({describe(self.recipe)}) from the store"
        )
        try:
            with cache.build(key, lease.fence if lease else 0) as folder:
                check = lease.check if lease else lambda: None
                fetch_published(
                    self.workspace, manifest, folder, check=check, progress=self.reporter.progress
                )
                path = cache.publish(key, folder, manifest, hashed=True)
        except (BlobCorruptError, BlobMissingError, StoreUnavailableError) as error:
            self.reporter.say(f"what is published of {key[:12]} cannot be used: {error.message}")
            return None
        make_room(self.workspace, key)
        return path

    def shared(self, model: Fused) -> Fused:
        """Return a model that is there already; its files go to the store if they are to and are not."""
        if self.publish != "full" or model.published:
            return model
        manifest = Manifest.of(model.files)
        with self.workspace.cache.using(self.key) as folder:
            if folder is None:  # evicted since: what was asked for is a model, and there is one no more
                return model
            self.reporter.say(f"publishing {self.fuse_inputs.adapter.name} ({describe(self.recipe)})")
            deposit = deposit_files(self.workspace, manifest, folder, self.reporter.progress)
        with deposit.recording() as session:
            deposit.commit(session)
            record_published(self.workspace, session, self.key, manifest)
        return replace(model, published=True)

    def _compute(self, lease: leases.Lease, known: Known) -> Fused | None:
        started = time.monotonic()
        cache = self.workspace.cache
        with cache.build(self.key, lease.fence) as folder:
            self.reporter.say(f"fusing {self.fuse_inputs.adapter.name} ({describe(self.recipe)})")
            full, tell = self.publish == "full", self.reporter.progress
            made = self.inputs.compute(
                self.recipe, self.key, folder, lease.check, tell, say=self.reporter.say, publish=full
            )
            measured = Measured.of(made.fidelity, self.recipe)
            if not measured.passes(self.request, strict=self.strict, sound=self.sound):
                self._refuse(lease, measured)
                return None
            lease.check()
            if known.own is not None and known.own["digest"] != made.manifest.digest:
                raise differing(self.key, made.manifest.digest, known.own["digest"])
            path = cache.publish(self.key, folder, made.manifest, hashed=True)
        seconds = time.monotonic() - started
        deposit, failure = self._deposit(known, made.manifest, path)
        with deposit.recording() if deposit else self.workspace.database.write() as session:
            lease.publish(session)
            row, told = self._record(session, made.manifest, made.fidelity, seconds)
            if deposit:
                deposit.commit(session)
                record_published(self.workspace, session, self.key, made.manifest)
            view = fused_record(row, self.fuse_inputs.adapter.name, published=is_published(row))
        for registry, true in told:
            self.reporter.say(claim_in_words(registry, true))
        if failure is not None:
            raise failure  # the model is here and on record; the same command only publishes it then
        make_room(self.workspace, self.key)
        return on_this_machine(view, path, "computed")

    def _deposit(
        self, known: Known, manifest: Manifest, path: Path
    ) -> tuple[Deposit | None, StorageError | None]:
        """Bring the files into the store if they are to be there; while the lease holds, so that nobody fuses it too."""
        if self.publish != "full" and known.published is None:
            return None, None
        self.reporter.say(f"publishing {self.fuse_inputs.adapter.name} ({describe(self.recipe)})")
        try:
            return deposit_files(self.workspace, manifest, path, self.reporter.progress), None
        except StorageError as error:
            return None, error if self.publish == "full" else None

    def _refuse(self, lease: leases.Lease, measured: Measured) -> None:
        with self.workspace.database.write() as session:
            record_refusal(
                self.workspace, session, self.fuse_inputs, self.recipe, self.key, measured, self.request
            )
            lease.release(session)
        self._passes(measured)

    def _record(
        self, session: Session, manifest: Manifest, fidelity: Fidelity, seconds: float
    ) -> tuple[tables.Fused, Sequence[tuple[str, bool]]]:
        """Record the model if it is not; also return which registries had said what it is, and whether that was true."""
        row = find_fused(session, self.key)
        if row is not None:
            return row, ()
        row = record_fused(
            self.workspace, session, self.fuse_inputs, self.recipe, self.key, manifest, fidelity, seconds
        )
        return row, compare_claims(self.workspace, session, self.key, manifest)
