"""Updates of a recorded adapter by a document: amendments, evaluations, yanks and signatures.

They are claims, which are recorded if they fit this registry's record.  Of two registries that amended a field or measured
something differently, each keeps its own value.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..actors import name_sender, person
from ..dsse import parse_envelope, read_statement
from ..errors import MissingExtraError, RegistryError, RoleError
from ..record import column_values
from ..records import EVALUATIONS, SIGNATURES, TAGS, YANKS, require_count, require_within
from ..records.amendments import DATASET, amend_row, is_free, require_few_amendments, state_of
from ..records.evaluation import key_of
from ..records.fused import FusedAnswers
from ..records.fused_rows import answers_in
from ..records.tokens import PARTS, Thing, allows, has_role, may_change, owner_of, parse_role
from ..records.views import SCHEME, is_good, manifest_of, stands
from ..registration.recorded import amendment_rows
from ..remote import documents
from ..workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Updates:
    """The parts of an adapter's document that are missing here, and the fields and metrics of which this registry keeps its own."""

    amendments: list[tables.AmendmentRow] = field(default_factory=list)
    yanks: list[documents.YankDocument] = field(default_factory=list)
    evaluations: list[documents.EvaluationDocument] = field(default_factory=list)
    withdrawn: list[tuple[tables.EvaluationRow, documents.EvaluationDocument]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        """Return the kinds of missing parts, as the log names them."""
        words = ["yank"] * len(self.yanks)
        words += ["amendment"] if self.amendments else []
        words += ["evaluation"] if self.evaluations else []
        return words + (["withdrawn evaluation"] if self.withdrawn else [])


def find_updates(session: Session, row: tables.AdapterRow, document: documents.AdapterDocument) -> Updates:
    """Return the parts of a document that an adapter's record lacks."""
    updates = Updates()
    _find_amendments(row, document, updates)
    _find_evaluations(row, document, updates)
    if any(yank.lifted_at is None for yank in document.yanks):
        rows = session.scalars(select(tables.YankRow).where(tables.YankRow.adapter_id == row.id)).all()
        recorded = {(yank.at, yank.reason) for yank in rows}
        standing = {yank.reason for yank in rows if yank.lifted_at is None}
        for yank in document.yanks:
            # This registry may have registered the adapter later, so yanks are compared by their reasons.
            at = max(yank.at, row.created_at)
            is_new = yank.reason not in standing and (at, yank.reason) not in recorded
            if yank.lifted_at is None and is_new:
                standing.add(yank.reason)
                updates.yanks.append(replace(yank, at=at))
    return updates


def record_updates(session: Session, row: tables.AdapterRow, updates: Updates, now: datetime) -> None:
    """Record updates, effective from now."""
    if updates.amendments:
        since = max([now, *(amendment.since for amendment in row.amendments)])
        for amendment in updates.amendments:
            amendment.at, amendment.since = min(amendment.at, now), since
        require_few_amendments(row.name, [*row.amendments, *updates.amendments])
        amend_row(session, row, updates.amendments)
        require_count(row.name, "tags", TAGS, len(row.tags))
    if updates.yanks:
        yanks = [tables.YankRow(adapter_id=row.id, **column_values(yank, _YANK)) for yank in updates.yanks]
        recorded = session.scalars(select(tables.YankRow).where(tables.YankRow.adapter_id == row.id))
        require_within(row.name, "yanks", YANKS, [*recorded, *yanks])
        session.add_all(yanks)
    for standing, end in updates.withdrawn:
        assert end.withdrawn_at is not None
        standing.withdrawn_at = min(end.withdrawn_at, now)
        standing.withdrawn_by, standing.withdrawn_reason = end.withdrawn_by, end.withdrawn_reason
    for evaluation in updates.evaluations:
        values = column_values(evaluation, _EVALUATION)
        for name in ("at", "withdrawn_at"):  # between the creation of this record and now
            if values[name] is not None:
                values[name] = min(max(values[name], row.created_at), now)
        row.evaluations.append(tables.EvaluationRow(**values))
    if updates.evaluations or updates.withdrawn:
        require_within(row.name, "evaluations", EVALUATIONS, row.evaluations)


_YANK, _EVALUATION = tables.YankRow.__table__, tables.EvaluationRow.__table__
_SIGNATURE = tables.SignatureRow.__table__


def _find_amendments(row: tables.AdapterRow, document: documents.AdapterDocument, updates: Updates) -> None:
    def key(amendment: tables.AmendmentRow) -> tuple[Any, ...]:
        # Leave out the author: a server records the sender instead of the name in the package.
        return amendment.field, amendment.before, amendment.after, amendment.reason, amendment.at

    counter = Counter(map(key, row.amendments))
    state, fitting, kept = state_of(row), list[tables.AmendmentRow](), set[str]()
    for amendment in amendment_rows(document):
        if counter[key(amendment)] > 0:
            counter[key(amendment)] -= 1
            continue
        was, will = json.loads(amendment.before), json.loads(amendment.after)
        if amendment.field not in kept and state.get(amendment.field) == was:
            state[amendment.field] = will
            fitting.append(amendment)
        elif state.get(amendment.field) != will:
            kept.add(amendment.field)
    if state["dataset"] is None and any(state[name] is not None for name in DATASET):
        kept |= {amendment.field for amendment in fitting if amendment.field in DATASET}
        fitting = [amendment for amendment in fitting if amendment.field not in DATASET]
    updates.amendments.extend(fitting)
    updates.kept.extend(sorted(kept))


def _find_evaluations(row: tables.AdapterRow, document: documents.AdapterDocument, updates: Updates) -> None:
    """Find missing evaluations and withdrawals; values withdrawn in either registry stay withdrawn."""

    def same(measurement: documents.EvaluationDocument | tables.EvaluationRow) -> tuple[Any, ...]:
        is_sent = isinstance(measurement, documents.EvaluationDocument)
        values = column_values(measurement, _EVALUATION) if is_sent else measurement  # type: ignore[arg-type]
        return *key_of(values), measurement.value

    dated = [(sent, sent.withdrawn_at) for sent in document.evaluations if sent.withdrawn_at is not None]
    ended = [sent for sent, _ in sorted(dated, key=lambda pair: pair[1])]
    sent_ends = {same(sent): sent for sent in ended}
    own_ends = {same(own): own.withdrawn_at for own in row.evaluations if own.withdrawn_at is not None}
    # Withdrawals are compared by value and reason: their dates may have been in the future.
    recorded_ends = {(*same(own), own.withdrawn_reason) for own in row.evaluations if not stands(own)}
    standing: dict[Any, tables.EvaluationRow] = {}
    for own in filter(stands, row.evaluations):
        end = sent_ends.get(same(own))
        if end is not None and end.withdrawn_at is not None and own.at <= end.withdrawn_at:
            updates.withdrawn.append((own, end))
            recorded_ends.add((*same(own), end.withdrawn_reason))
        else:
            standing[same(own)[:-1]] = own
    metrics = set()
    for sent in document.evaluations:
        if sent.withdrawn_at is not None:
            continue
        own_standing, withdrawn = standing.get(same(sent)[:-1]), own_ends.get(same(sent))
        if own_standing is not None:
            metrics |= {own_standing.metric} if own_standing.value != sent.value else set()
        elif withdrawn is None or sent.at > withdrawn:
            updates.evaluations.append(sent)
    ends = {(*same(sent), sent.withdrawn_reason): sent for sent in ended}
    updates.evaluations.extend(sent for end, sent in ends.items() if end not in recorded_ends)
    updates.kept.extend(sorted(metrics))


def require_allowed(workspace: Workspace, session: Session, row: tables.AdapterRow, updates: Updates) -> None:
    """Refuse updates that the sender's role does not allow; new adapters may have any history."""
    if not workspace.role:
        return
    role, sender = parse_role(workspace.role), person(workspace.actor)
    own = person(owner_of(session, row)) == sender
    changed = [("yank", own) for _ in updates.yanks]
    changed += [("note or tag" if is_free(row.field) else "amendment", own) for row in updates.amendments]
    changed += [("evaluation", own) for _ in updates.evaluations]
    changed += [("withdrawn evaluation", person(row.by) == sender) for row, _ in updates.withdrawn]
    for part, is_own in changed:
        needed = PARTS[part][0 if is_own else 1]
        if not allows(role, needed):
            problem = f"a new {part} of {row.name} needs the role {needed}; {workspace.actor} is {role}"
            raise RoleError(problem, hint=f"ask a user with the role {needed} to push it")


def with_sender(workspace: Workspace, document: documents.Item, origin: str) -> documents.Item:
    """Return a document with its authenticated sender as the author of the record and of all updates."""
    if not workspace.authenticated:
        return document

    def author(claimed: str) -> str:
        # Of a client of this registry the token says who it is.
        return workspace.actor if origin == workspace.identity else name_sender(workspace.actor, claimed)

    document = replace(document, created_by=author(document.created_by))

    def sent(row: Any) -> Any:
        authors = {name: getattr(row, name, None) for name in ("by", "lifted_by", "withdrawn_by")}
        given = {name: by for name, by in authors.items() if by is not None}
        return replace(row, **{name: author(by) for name, by in given.items()})

    parts = ("signatures", "yanks", "amendments", "evaluations")
    changed: Any = {name: tuple(map(sent, getattr(document, name, ()))) for name in parts}
    return replace(document, **{name: rows for name, rows in changed.items() if rows})


def missing_signatures(
    workspace: Workspace, session: Session, document: documents.Item, row: Thing | None
) -> tuple[list[documents.SignatureDocument], str | None]:
    """Return the signatures to record, and why others are left out; those by trusted keys are verified, others are claims."""
    if not isinstance(
        document, documents.AdapterDocument | documents.FusedDocument
    ):  # other documents have no signatures
        return [], None
    key = tables.TrustedKeyRow
    wanted = [signature.key_id for signature in document.signatures if signature.scheme == SCHEME]
    keys = session.scalars(select(key).where(key.key_id.in_(wanted)))
    trusted = {trusted_key.key_id: trusted_key for trusted_key in keys}
    missing = []
    for signature in document.signatures:
        public = trusted[signature.key_id].public_key if signature.key_id in trusted else None
        own = _recorded_signature(session, document, signature)
        is_unknown = own is None or (public is not None and not _is_by(session, own, public))
        if is_unknown and _is_claimable(session, _signature(document, signature), public):
            missing.append(signature)
    if not missing or row is None or may_change(workspace, session, "signature", row):
        return missing, None
    valid = {key_id for key_id, trusted_key in trusted.items() if trusted_key.revoked_at is None}
    allowed = [signature for signature in missing if signature.key_id in valid]
    if len(allowed) == len(missing):
        return allowed, None
    return allowed, "signatures by untrusted keys are left out; an approver may push them"


def is_own(workspace: Workspace, origin: str) -> bool:
    """Return whether a package comes from this registry's operator or an approver's client; all else is a claim."""
    return origin == workspace.identity and has_role(workspace, "approver")


def missing_answers(
    workspace: Workspace, origin: str, document: documents.Item, row: Thing | tables.BaseModelRow | None
) -> FusedAnswers | None:
    """Return a fused model's answers that are to be recorded: of this registry, for a model recorded as made here."""
    # A claim's signature does not cover them.
    if not isinstance(document, documents.FusedDocument) or not is_own(workspace, origin):
        return None
    if isinstance(row, tables.FusedRow) and (
        row.origin is not None or answers_in(row.answered, row.adapter) == document.answers
    ):
        return None
    return document.answers


def record_signatures(
    session: Session, document: documents.Item, missing: Sequence[documents.SignatureDocument]
) -> None:
    """Record signatures that are missing."""
    for signature in missing:
        row = _recorded_signature(session, document, signature)
        if row is None:
            session.add(_signature(document, signature))
        else:
            for name, value in column_values(signature, _SIGNATURE).items():
                setattr(row, name, value)
    if missing:
        session.flush()
        query = select(tables.SignatureRow).where(tables.SignatureRow.subject_digest == document.digest)
        require_within(document.name, "signatures", SIGNATURES, session.scalars(query).all())


def _signature(document: documents.Item, signature: documents.SignatureDocument) -> tables.SignatureRow:
    values = column_values(signature, _SIGNATURE)
    return tables.SignatureRow(subject_kind=document.kind, subject_digest=document.digest, **values)


def _recorded_signature(
    session: Session, document: documents.Item, signature: documents.SignatureDocument
) -> tables.SignatureRow | None:
    row = tables.SignatureRow
    by_key = (row.key_id == signature.key_id) & (row.scheme == signature.scheme)
    return session.scalar(select(row).where(row.subject_digest == document.digest, by_key))


def _is_claimable(session: Session, row: tables.SignatureRow, public: str | None) -> bool:
    """Return whether a signature covers these files and has the named key."""
    manifest = manifest_of(session, row.subject_digest)
    try:
        envelope = parse_envelope(row.envelope.encode(), "a signature in the package")
        if manifest is None or not read_statement(envelope).covers(manifest):
            return False
    except RegistryError:
        return False
    if row.scheme != SCHEME or envelope.hint not in ("", row.key_id):
        return False
    return public is None or _is_by(session, row, public)


def _is_by(session: Session, row: tables.SignatureRow, public: str) -> bool:
    """Return whether a signature verifies with a key; True if it cannot be verified on this machine."""
    try:
        return is_good(session, row, public)
    except MissingExtraError:
        return True
