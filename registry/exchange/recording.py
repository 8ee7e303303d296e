"""Record examined documents: the facts computed from their files, and the values declared in the other registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fusery.storage.manifest import Manifest

from .. import tables
from ..adapters.render import Form
from ..admission.rules import took_part
from ..database import Database, events
from ..engine.recipe import Recipe
from ..errors import BadInputError
from ..fusion.records import compare_claims
from ..fusion.views import foreign_key
from ..record import column_values
from ..records import CALIBRATIONS, CLAIMS, require_count
from ..records.amendments import amend_row
from ..records.deposit import Deposit, record_manifest
from ..records.fused_rows import ANSWERED
from ..records.references import require_version
from ..records.renderings import record_rendering
from ..records.transfer import Moved
from ..registration.add_base import base_row
from ..registration.new_adapter import Examined, add_adapter
from ..registration.recorded import AUDIT_ORIGIN, amendment_rows
from ..remote.documents import AdapterDocument, BaseDocument, CalibrationDocument, FusedDocument, Item
from ..workspace.workspace import Workspace
from . import planning
from .updates import (
    find_updates,
    is_own,
    missing_answers,
    missing_signatures,
    record_signatures,
    record_updates,
    require_allowed,
    with_sender,
)

RECEIVED = "received"  # second word of the actions: `adapter.received`


@dataclass(frozen=True, slots=True)
class ExaminedDocument:
    """A document whose files were examined: those to store, columns computed from them, and what the document contradicts."""

    document: Item
    moved: Moved
    paths: Mapping[str, Path] | None = None
    values: Mapping[str, Any] | None = None
    adapter: Examined | None = None
    forms: Sequence[tuple[Form, Manifest]] = ()
    corrected: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records documents in a registry."""

    destination: Workspace
    origin: str

    def record(self, arrived: Sequence[ExaminedDocument], deposit: Deposit | None) -> list[Moved]:
        """Record documents in one transaction."""
        name = arrived[0].document.name
        try:
            with self.destination.database.write() as session:
                stored = deposit.commit_many(session) if deposit is not None else {}
                now, done = Database.utcnow(session), list[Moved]()
                for one in arrived:
                    name = one.document.name
                    row = planning.find(self.destination, session, one.document, self.origin)
                    done.append(self._recorded(session, one, row, stored, now))
            return done
        except IntegrityError as error:
            problem = f"invalid values in the record of {name}"
            raise BadInputError(problem, hint=AUDIT_ORIGIN) from error
        finally:
            if deposit is not None:
                deposit.abandon()

    def _recorded(
        self,
        session: Session,
        one: ExaminedDocument,
        row: planning.Row | None,
        stored: Mapping[str, tables.ManifestRow],
        now: datetime,
    ) -> Moved:
        workspace, document = self.destination, with_sender(self.destination, one.document, self.origin)
        is_of_client = workspace.authenticated and self.origin == workspace.identity
        if is_of_client and row is None and not isinstance(document, AdapterDocument):
            document = replace(document, created_at=now)  # amendments of an adapter are later than it
        if isinstance(document, BaseDocument) and row is None and one.values is not None:
            content = one.values["content"]
            if (row := planning.with_content(session, content)) is not None:
                same = {"name": document.name, "content": content, "same_as": row.digest}
                detail = {**same, "origin": {"registry": self.origin}}
                events.record(session, planning.RECOGNISED, "base", document.digest, detail)
        added = ["record"] if row is None else []
        if row is None or (isinstance(document, FusedDocument) and one.paths is not None):
            if row is not None and one.moved.state == "completed":
                added.append("files")
            files = stored.get(document.manifest.digest) or record_manifest(session, document.manifest)
            if row is None:
                row = self._inserted(session, one, document, files, now)
                session.flush()
        added += self._attach(session, row, one, document, now, new="record" in added)
        if added:
            self._log(session, one, document, row, added, now)
        if not added:  # recorded meanwhile, or known in other files
            name = row.name if isinstance(row, tables.BaseModelRow) else one.moved.new_name
            return planning.moved_as(document, name, "present", 0)
        if one.corrected:
            facts = ", ".join(one.corrected)
            return replace(one.moved, reason=f"recorded from its files instead of as declared: {facts}")
        return one.moved

    def _inserted(
        self,
        session: Session,
        one: ExaminedDocument,
        document: Item,
        files: tables.ManifestRow,
        now: datetime,
    ) -> planning.Row:
        row: planning.Row
        created = document.created_at
        if isinstance(document, AdapterDocument):
            assert one.adapter is not None
            require_version(session, document.task, document.version)
            seen = replace(one.adapter, document=document)
            adapter = add_adapter(self.destination, session, seen, seen.name, files)
            amend_row(session, adapter, amendment_rows(document, now))
            session.add_all(
                tables.YankRow(adapter_id=adapter.id, **column_values(yank, tables.YankRow.__table__))
                for yank in document.yanks
                if yank.lifted_at is not None
            )
            return adapter
        if isinstance(document, BaseDocument):
            names = planning.free_names(session, document, "")
            assert one.values is not None
            name_row, revision = tables.BaseNameRow, tables.BaseRevisionRow
            row = base_row(one.values, files, None, created, document.created_by)
            row.names = [name_row(name=name, folded=name.casefold(), created_at=created) for name in names]
            row.revisions = [
                revision(source=source.source, revision=source.revision or "", created_at=created)
                for source in document.sources
            ]
        elif isinstance(document, CalibrationDocument):
            base = planning.required_base(session, document.base_digest, document.base)
            require_count(base.name, "calibrations", CALIBRATIONS, len(base.calibrations) + 1)
            values = {**column_values(document, tables.CalibrationRow.__table__), **(one.values or {})}
            row = tables.CalibrationRow(**values, manifest_id=files.id, base_id=base.id)
        else:
            row = self._claim(session, document, files)
        session.add(row)
        return row

    def _claim(self, session: Session, document: FusedDocument, files: tables.ManifestRow) -> tables.FusedRow:
        """Return the record of a fused model: this registry's own, or a claim under another key."""
        fused, module_row, extra_row = tables.FusedRow, tables.ModuleFidelityRow, tables.FusedExtraRow
        adapter = planning.required_adapter(session, document.adapter.name, document.adapter.digest)
        values = column_values(document, fused.__table__)
        if is_own(self.destination, self.origin):
            compare_claims(session, document.key, document.manifest)
        else:
            counted = select(func.count()).where(fused.adapter_id == adapter.id, fused.origin.is_not(None))
            require_count(adapter.name, "claims of fused models", CLAIMS, (session.scalar(counted) or 0) + 1)
            values |= {"key": foreign_key(self.origin, document.key), "origin": self.origin}
        weights = [weight for _, weight in Recipe.from_dict(document.recipe).extras]
        extras = [planning.required_adapter(session, extra.name, extra.digest) for extra in document.extras]
        return fused(
            **values,
            manifest_id=files.id,
            base_id=planning.required_base(session, document.base_digest, "its base model").id,
            adapter_id=adapter.id,
            modules=[
                module_row(**column_values(module, module_row.__table__)) for module in document.modules
            ],
            extras=[
                extra_row(position=position, weight=weight, adapter_id=extra.id)
                for position, (extra, weight) in enumerate(zip(extras, weights, strict=True))
            ],
        )

    def _attach(
        self,
        session: Session,
        row: planning.Row,
        one: ExaminedDocument,
        document: Item,
        now: datetime,
        *,
        new: bool,
    ) -> list[str]:
        """Add parts that are newer than the record, and return their names."""
        added = []
        if isinstance(document, AdapterDocument) and isinstance(row, tables.AdapterRow):
            updates = find_updates(session, row, document)
            if not new:
                require_allowed(self.destination, session, row, updates)
                for form, manifest in one.forms:
                    record_rendering(session, row, form, manifest, now)
                    added.append(f"form {form}")
            record_updates(session, row, updates, now)
            added += updates.words()
        signatures, _ = missing_signatures(self.destination, session, document, None if new else row)
        record_signatures(session, document, signatures)
        session.flush()
        answers = missing_answers(self.destination, self.origin, document, row)
        if answers is not None and isinstance(row, tables.FusedRow):
            detail = {"adapter": row.adapter.name, "answers": answers.to_dict()}
            events.record(session, ANSWERED, "fused", row.key, detail, at=now)
            added.append("answers")
        return added + ["signature"] * len(signatures)

    def _log(
        self,
        session: Session,
        one: ExaminedDocument,
        document: Item,
        row: planning.Row,
        added: list[str],
        now: datetime,
    ) -> None:
        """Log the added parts and their origin."""
        kind, subject = document.kind, row.digest
        is_of_client = bool(self.destination.role) and self.origin == self.destination.identity
        if isinstance(row, tables.BaseModelRow) and is_of_client and "record" in added:
            source = row.revisions[-1].source if row.revisions else None
            detail = {"name": row.name, "source": source, "reference": False, "created": True}
            events.record(session, "base.added", kind, subject, detail, at=now)
            return
        if isinstance(row, tables.AdapterRow | tables.FusedRow):
            subject = row.name if isinstance(row, tables.AdapterRow) else row.key
        recorded_hashes = set[str]()
        if "record" not in added:
            for entry in events.history(session, kind=kind, subject=subject, action=f"{kind}.{RECEIVED}"):
                recorded_hashes |= set(json.loads(entry.detail)["origin"].get("events", ()))
        hashes = [str(entry["hash"]) for entry in document.log]
        others = took_part() if kind == "adapter" else None
        content = {
            "digest": document.digest,
            "added": added,
            **({"corrected": list(one.corrected)} if one.corrected else {}),
            **({"plugins": others} if others else {}),
            "origin": {
                "registry": self.origin,
                **({"client": True} if is_of_client else {}),
                "name": document.name,
                "event": hashes[-1] if hashes else None,
                "events": [event_hash for event_hash in hashes if event_hash not in recorded_hashes],
            },
        }
        events.record(session, f"{kind}.{RECEIVED}", kind, subject, content, at=now)
