"""One candidate of a fuse: in the cache, else under the lease: fetched, or computed, measured, published and recorded."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, BlobMissingError, StorageError, StoreUnavailableError
from fusery.storage.manifest import Manifest
from fusery.storage.progress import Reporter, tally

from ..database import events, leases
from ..engine.recipe import Recipe, written_as
from ..errors import DatabaseReadOnlyError, FidelityError, RebuildDiffersError
from ..parsing import plural
from ..records.deposit import Deposit
from ..records.fused import Fused, FusedAnswers, FusedRecord
from ..records.fused_rows import describe
from .fuse_inputs import FuseInputs, InputFiles
from .known import REFUSED, TRIED, KeyRecord, MeasuredFuse, SecondOpinion, record_of_row, refused
from .records import (
    compare_claims,
    counting,
    fetch_published,
    in_words,
    make_room,
    on_this_machine,
    record_fused,
    record_published,
)
from .request import FuseRequest
from .views import find_fused, fused_record

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FuseCandidate:
    """One candidate: a recipe, and how to get its model; the key's record is read before the lease, after it, and at the end."""

    inputs: InputFiles
    recipe: Recipe
    request: FuseRequest
    publish: str
    reporter: Reporter
    strict: bool = False  # take only PASS: there is a larger candidate
    sound: bool = False  # take only PASS or what is near it: there is another candidate within the budget
    on_record: KeyRecord | None = None  # the record of the key, if it was read already
    opinion: SecondOpinion | None = None  # by which the model is asked where its weights do not decide

    @property
    def fuse_inputs(self) -> FuseInputs:
        """The base and the adapters."""
        return self.inputs.fuse_inputs

    @property
    def workspace(self) -> Workspace:
        """The registry's parts."""
        return self.inputs.fuse_inputs.workspace

    @property
    def key(self) -> Digest:
        """Of the result."""
        return self.fuse_inputs.key(self.recipe)

    @property
    def _format(self) -> str:
        return written_as(describe(self.recipe))

    @property
    def _name(self) -> str:
        return f"{self.fuse_inputs.adapter.name} ({self._format})"

    def run(self, *, compute: bool = True) -> Fused | None:
        """Return the model; None if it does not pass and there is another candidate, or if it would have to be computed."""
        lookup = self.on_record or self.look_up()
        asks = self.asks(lookup)
        if lookup.settled is not None and not asks and not self._taken(lookup.settled):
            return None
        if (model := self._cached(lookup.own)) is not None:
            return self._finished(model, lookup)
        if (model := self._claimed(lookup)) is not None:
            return self._finished(model, lookup)
        return self._build(compute=compute) if compute or lookup.published else None

    def look_up(self) -> KeyRecord:
        """Return what is on record about the key; the same bytes may be registered under other names, too."""
        with self.workspace.database.read() as session:
            row = counting(session, self.key, accept=self.request.accept_foreign)
            if row is None:
                return refused(session, self.key)
            record = record_of_row(session, self.key, row)
            if record.measured is None or not self.passes(record.measured):
                return record
            return replace(record, view=fused_record(row, self.fuse_inputs.adapter.name))

    def asks(self, record: KeyRecord) -> bool:
        """Tell whether the model is to be asked before it is taken or passed over."""
        return self.opinion is not None and self.opinion.asks(record, lost=not (self.strict or self.sound))

    def passes(self, measured: MeasuredFuse) -> bool:
        """Tell whether a model with these figures may be taken."""
        return measured.passes(self.request, strict=self.strict, sound=self.sound)

    def pass_over(self, measured: MeasuredFuse) -> None:
        """Report why the next candidate is tried; in detail, the figures and the limit that they missed."""
        detail = measured.reason(self.request)
        if measured.sampled:
            without = ", without the calibration" if measured.at_random else ""
            detail += f"; from an eighth of the rows{without}"
        meaning = measured.meaning(self.request)
        self.reporter.say(f"{self._format}: {meaning}; trying the next format", detail)

    def record_refusal(self, session: Session, measured: MeasuredFuse) -> None:
        """Log what was measured, and why it was not published."""
        events.record(
            session,
            TRIED if self.strict or self.sound else REFUSED,
            "fused",
            self.key,
            {
                "adapter": self.fuse_inputs.adapter.name,
                "label": self.fuse_inputs.label(self.recipe).label,
                "precision": self.recipe.precision,
                **asdict(replace(measured, answers=None)),
                "verdict": measured.verdict,
                "reason": measured.reason(self.request),
            },
            at=self.workspace.database.utcnow(session),
        )

    def _answers(self, opinion: SecondOpinion, folder: Path, key: str) -> FusedAnswers | None:
        if (answers := opinion.ask(folder, key, self.reporter)) is not None and answers.prompts:
            kept = f"keeps {answers.gained - answers.lost:.2f} of {answers.gained:.2f} nats of gain"
            alike = f"{100 * answers.agreement:.0f} % of next tokens the same"
            figures = f"{kept}, {alike}, KL {answers.general_kl:.3f} on general text"
            self.reporter.say(
                f"{self._format}, asked {plural(answers.prompts, 'prompt')}: {answers.verdict}", figures
            )
        return answers

    def _finished(self, model: Fused, record: KeyRecord) -> Fused | None:
        """Return a model that is here after asking it, if that is still to do; None if the next candidate is tried."""
        if self.opinion is not None and record.measured is not None and self.asks(record):
            answers = self._answers(self.opinion, model.path, model.key)
            measured = record.measured.with_answers(answers)
            if not self._taken(measured):
                return None
            fidelity = replace(model.fidelity, verdict=measured.verdict, answers=measured.answers)
            model = replace(model, fidelity=fidelity)
        return self._shared(model)

    def _taken(self, measured: MeasuredFuse) -> bool:
        """Return True to go on, False to try the next candidate; raise if this is the last one."""
        if self.passes(measured):
            return True
        if not self.strict and not self.sound:
            raise self._lost(measured)
        self.pass_over(measured)
        return False

    def _lost(self, measured: MeasuredFuse) -> FidelityError:
        inputs, recipe = self.fuse_inputs, self.recipe
        message = f"{self._format}: {measured.meaning(self.request)} ({measured.in_words})"
        larger = recipe.precision != "dequantize" and inputs.quantization is not None
        again, accept = f"fusery fuse {inputs.adapter.name}", "--accept-loss publishes it"
        if self.request.budget is not None:
            hint = "allow more: --budget 1.5x, or leave it out"
        elif inputs.aware is not None:  # more bits are no nearer to what was trained
            hint = accept if recipe.quantization is not None or self.request.precision == "auto" else again
        elif larger:
            hint = f"{again} --as {'auto' if recipe.precision == 'keep' else '16bit'}"
        else:
            hint = accept
        return FidelityError(message, hint=hint)

    def _cached(self, view: FusedRecord | None) -> Fused | None:
        if view is None:
            return None
        path = self.workspace.cache.lookup(Digest(view.key), Manifest.of(view.files))
        return on_this_machine(view, path, "cache") if path else None

    def _claimed(self, lookup: KeyRecord) -> Fused | None:
        if (view := lookup.claim) is None:
            return None
        self.reporter.say(f"{self.fuse_inputs.adapter.name}: {in_words(view.foreign)}")
        if (model := self._cached(view)) is not None:
            return model
        try:
            lease = self._lease(Digest(view.key))
        except DatabaseReadOnlyError:
            return self._fetched(None, view)
        with lease.keep():
            model = self._fetched(lease, view)
            with self.workspace.database.write() as session:
                lease.release(session)
        return model

    def _build(self, *, compute: bool = True) -> Fused | None:
        try:
            lease = self._lease(self.key)
        except DatabaseReadOnlyError as error:
            # Two processes may fetch a published model at a time; a computed one could not be recorded.
            if (model := self._fetched(None, self.look_up().published)) is None and compute:
                name, hint = self.fuse_inputs.adapter.name, "have somebody who may write run: fusery fuse"
                message = f"{self._name} is not published, and a fuse has to write: {error.message}"
                raise DatabaseReadOnlyError(message, hint=f"{hint} {name} --publish full") from error
            return model
        with lease.keep():
            # After the lease, not before: its last owner may just have published.
            lookup = self.look_up()
            model = self._cached(lookup.own) or self._fetched(lease, lookup.published)
            if model is not None or not compute:
                with self.workspace.database.write() as session:
                    lease.release(session)
                return model and self._finished(model, lookup)
            return self._compute(lease, lookup)

    def _lease(self, key: Digest) -> leases.Lease:
        workspace, say = self.workspace, self.reporter.say
        return leases.wait(
            workspace.database,
            key,
            workspace.owner(),
            on_busy=lambda busy: say(f"being fused by {busy}, waiting"),
        )

    def _fetched(self, lease: leases.Lease | None, view: FusedRecord | None) -> Fused | None:
        """Return the model of a record from the store, None if it is not published or cannot be had."""
        if view is None:
            return None
        key, manifest, cache = Digest(view.key), Manifest.of(view.files), self.workspace.cache
        self.reporter.say(f"fetching {self._name} from the store")
        try:
            with cache.build(key, lease.fence if lease else 0) as folder:
                check = lease.check if lease else lambda: None
                fetch_published(self.workspace, manifest, folder, check=check, reporter=self.reporter)
                path = cache.publish(key, folder, manifest, hashed=True)
        except (BlobCorruptError, BlobMissingError, StoreUnavailableError) as error:
            self.reporter.say(f"what is published of {key[:12]} cannot be used: {error.message}")
            return None
        make_room(self.workspace, key)
        return on_this_machine(view, path, "store")

    def _shared(self, model: Fused) -> Fused:
        """Return a model that is there already; its files go to the store if they are to and are not."""
        if self.publish != "full" or model.published or model.foreign is not None:
            return model
        manifest = Manifest.of(model.files)
        with self.workspace.cache.using(self.key) as folder:
            if folder is None:  # evicted since: what was asked for is a model, and there is one no more
                return model
            deposit = self._upload(manifest, folder)
        with deposit.recording() as session:
            record_published(deposit, session, self.key, manifest)
        return replace(model, published=True)

    def _upload(self, manifest: Manifest, folder: Path) -> Deposit:
        """Store the files of a fused model; they count once a transaction commits the deposit."""
        self.reporter.say(f"publishing {self._name}")
        deposit = Deposit(self.workspace.database, self.workspace.store, self.workspace.owner())
        files = {entry.path: folder / entry.path for entry in manifest}
        deposit.put(files, manifest=manifest, progress=tally(self.reporter.progress, manifest.size))
        return deposit

    def _compute(self, lease: leases.Lease, lookup: KeyRecord) -> Fused | None:
        started, cache, full = time.monotonic(), self.workspace.cache, self.publish == "full"
        with cache.build(self.key, lease.fence) as folder:
            self.reporter.say(f"fusing {self._name}")
            manifest, fidelity = self.inputs.compute(
                self.recipe, self.key, folder, lease.check, self.reporter.progress, publish=full
            )
            measured = MeasuredFuse.of(fidelity, self.recipe).with_answers(lookup.answers)
            if self.opinion is not None and self.asks(replace(lookup, measured=measured)):
                measured = measured.with_answers(self._answers(self.opinion, folder, self.key))
            if not self.passes(measured):
                with self.workspace.database.write() as session:
                    self.record_refusal(session, measured)
                    lease.release(session)
                self._taken(measured)
                return None
            lease.check()
            if lookup.own is not None and lookup.own.digest != manifest.digest:
                digests = f"{manifest.digest[:12]} (recorded: {lookup.own.digest[:12]})"
                message = f"rebuilding {self.key[:12]} gave other bytes: {digests}"
                raise RebuildDiffersError(message, hint="fusery audit")
            path = cache.publish(self.key, folder, manifest, hashed=True)
        seconds = time.monotonic() - started
        deposit, failure = self._deposit(lookup, manifest, path)
        with deposit.recording() if deposit else self.workspace.database.write() as session:
            lease.publish(session)
            row, claims = find_fused(session, self.key), list[str]()
            if row is None:
                row = record_fused(
                    session, self.fuse_inputs, self.recipe, self.key, manifest, fidelity, seconds
                )
                claims = compare_claims(session, self.key, manifest)
            if deposit:
                record_published(deposit, session, self.key, manifest)
            view = fused_record(row, self.fuse_inputs.adapter.name)
        for claim in claims:
            self.reporter.say(claim)
        if failure is not None:
            raise failure  # the model is here and on record; the same command only publishes it then
        make_room(self.workspace, self.key)
        return on_this_machine(view, path, "computed")

    def _deposit(
        self, lookup: KeyRecord, manifest: Manifest, path: Path
    ) -> tuple[Deposit | None, StorageError | None]:
        """Upload the files if they are to be published, while the lease holds: no other process fuses the model."""
        if self.publish != "full" and lookup.published is None:
            return None, None
        try:
            return self._upload(manifest, path), None
        except StorageError as error:
            return None, error if self.publish == "full" else None
