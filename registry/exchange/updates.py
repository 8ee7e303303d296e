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
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..actors import name_sender, person
from ..errors import MissingExtraError, RegistryError, RoleError
from ..limits import EVALUATIONS, SIGNATURES, TAGS, YANKS, require_count, require_within
from ..record import column_values
from ..records.amendments import DATASET, amend_row, is_free, require_few_amendments, state_of
from ..records.evaluation import key_of
from ..records.roles import PARTS, Thing, allows, may_change, owner_of, parse_role
from ..records.views import SCHEME, is_good, manifest_of, stands
from ..registration.recorded import amendment_rows
from ..remote.documents import (
    AdapterDocument,
    EvaluationDocument,
    FusedDocument,
    Item,
    SignatureDocument,
    YankDocument,
)

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Updates:
    """The parts of an adapter's document that are missing here, and the fields and metrics of which this registry keeps its own."""

    amendments: list[tables.AmendmentRow] = field(default_factory=list)
    yanks: list[YankDocument] = field(default_factory=list)
    evaluations: list[EvaluationDocument] = field(default_factory=list)
    withdrawn: list[tuple[tables.EvaluationRow, EvaluationDocument]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    @property
    def any(self) -> bool:
        """Whether there are updates."""
        return bool(self.amendments or self.yanks or self.evaluations or self.withdrawn)

    def words(self) -> list[str]:
        """Return the kinds of missing parts, as the log names them."""
        words = ["yank"] * len(self.yanks)
        words += ["amendment"] if self.amendments else []
        words += ["evaluation"] if self.evaluations else []
        return words + (["withdrawn evaluation"] if self.withdrawn else [])


def find_updates(session: Session, row: tables.AdapterRow, document: AdapterDocument) -> Updates:
    """Return the parts of a document that an adapter's record lacks."""
    updates = Updates()
    _find_amendments(row, document, updates)
    _find_evaluations(row, document, updates)
    if any(yank.lifted_at is None for yank in document.yanks):
        rows = session.scalars(select(tables.YankRow).where(tables.YankRow.adapter_id == row.id)).all()
        known = {(yank.at, yank.reason) for yank in rows}
        standing = {yank.reason for yank in rows if yank.lifted_at is None}
        for yank in document.yanks:
            # This registry may have registered the adapter later, so yanks are compared by their reasons.
            at = max(yank.at, row.created_at)
            if yank.lifted_at is None and (at, yank.reason) not in known and yank.reason not in standing:
                standing.add(yank.reason)
                updates.yanks.append(replace(yank, at=at))
    return updates


def record_updates(session: Session, row: tables.AdapterRow, updates: Updates, now: datetime) -> None:
    """Record updates, effective from now."""
    if updates.amendments:
        since = max([now, *(known.since for known in row.amendments)])
        for amendment in updates.amendments:
            amendment.at, amendment.since = min(amendment.at, now), since
        require_few_amendments(row.name, [*row.amendments, *updates.amendments])
        amend_row(session, row, updates.amendments)
        require_count(row.name, "tags", TAGS, len(row.tags))
    if updates.yanks:
        yanks = [tables.YankRow(adapter_id=row.id, **column_values(each, _YANK)) for each in updates.yanks]
        there = session.scalars(select(tables.YankRow).where(tables.YankRow.adapter_id == row.id)).all()
        require_within(row.name, "yanks", YANKS, [*there, *yanks])
        session.add_all(yanks)
    for known, end in updates.withdrawn:
        assert end.withdrawn_at is not None
        known.withdrawn_at = min(end.withdrawn_at, now)
        known.withdrawn_by, known.withdrawn_reason = end.withdrawn_by, end.withdrawn_reason
    for each in updates.evaluations:
        values = column_values(each, _EVALUATION)
        for name in ("at", "withdrawn_at"):  # between the creation of this record and now
            if values[name] is not None:
                values[name] = min(max(values[name], row.created_at), now)
        row.evaluations.append(tables.EvaluationRow(**values))
    if updates.evaluations or updates.withdrawn:
        require_within(row.name, "evaluations", EVALUATIONS, row.evaluations)


_YANK, _EVALUATION = tables.YankRow.__table__, tables.EvaluationRow.__table__


def _find_amendments(row: tables.AdapterRow, document: AdapterDocument, updates: Updates) -> None:
    def key(each: tables.AmendmentRow) -> tuple[Any, ...]:
        # Leave out the author: a server records the sender instead of the name in the package.
        return each.field, each.before, each.after, each.reason, each.at

    known = Counter(map(key, row.amendments))
    state, fitting, kept = state_of(row), list[tables.AmendmentRow](), set[str]()
    for each in amendment_rows(document):
        if known[key(each)] > 0:
            known[key(each)] -= 1
            continue
        was, will = json.loads(each.before), json.loads(each.after)
        if each.field not in kept and state.get(each.field) == was:
            state[each.field] = will
            fitting.append(each)
        elif state.get(each.field) != will:
            kept.add(each.field)
    if state["dataset"] is None and any(state[name] is not None for name in DATASET):
        kept |= {each.field for each in fitting if each.field in DATASET}
        fitting = [each for each in fitting if each.field not in DATASET]
    updates.amendments.extend(fitting)
    updates.kept.extend(sorted(kept))


def _find_evaluations(row: tables.AdapterRow, document: AdapterDocument, updates: Updates) -> None:
    """Find missing evaluations and withdrawals; values withdrawn in either registry stay withdrawn."""

    def same(each: EvaluationDocument | tables.EvaluationRow) -> tuple[Any, ...]:
        values = column_values(each, _EVALUATION) if isinstance(each, EvaluationDocument) else each
        return *key_of(values), each.value

    ended = [(each, each.withdrawn_at) for each in document.evaluations if each.withdrawn_at is not None]
    ended.sort(key=lambda pair: pair[1])
    last_there = {same(each): (each, at) for each, at in ended}
    ended_here = {same(each): each.withdrawn_at for each in row.evaluations if each.withdrawn_at is not None}
    known_ends = {(*same(each), each.withdrawn_reason) for each in row.evaluations if not stands(each)}
    standing: dict[Any, tables.EvaluationRow] = {}
    for known in filter(stands, row.evaluations):
        end = last_there.get(same(known))
        if end is not None and known.at <= end[1]:
            updates.withdrawn.append((known, end[0]))
            known_ends.add((*same(known), end[0].withdrawn_reason))
        else:
            standing[same(known)[:-1]] = known
    metrics = set()
    for each in document.evaluations:
        if each.withdrawn_at is not None:
            continue
        own, withdrawn = standing.get(same(each)[:-1]), ended_here.get(same(each))
        if own is not None:
            metrics |= {own.metric} if own.value != each.value else set()
        elif withdrawn is None or each.at > withdrawn:
            updates.evaluations.append(each)
    # Withdrawals are compared by value and reason: their dates may have been in the future.
    ends = {(*same(each), each.withdrawn_reason): each for each, _ in ended}
    updates.evaluations.extend(each for end, each in ends.items() if end not in known_ends)
    updates.kept.extend(sorted(metrics))


def require_allowed(workspace: Workspace, session: Session, row: tables.AdapterRow, updates: Updates) -> None:
    """Refuse updates that the sender's role does not allow; new adapters may have any history."""
    if not workspace.role:
        return
    role, sender = parse_role(workspace.role), person(workspace.actor)
    own = person(owner_of(session, row)) == sender
    changed = [("yank", own) for _ in updates.yanks]
    changed += [("note or tag" if is_free(each.field) else "amendment", own) for each in updates.amendments]
    changed += [("evaluation", own) for _ in updates.evaluations]
    changed += [("withdrawn evaluation", person(known.by) == sender) for known, _ in updates.withdrawn]
    for part, is_own in changed:
        needed = PARTS[part][0 if is_own else 1]
        if not allows(role, needed):
            raise RoleError(
                f"the role {needed} is needed for a new {part} of {row.name}; {workspace.actor} has the role {role}",
                hint=f"ask a user with the role {needed} to push it",
            )


def with_sender(workspace: Workspace, document: Item) -> Item:
    """Return a document with its authenticated sender as the author of the record and of all updates."""
    if not workspace.authenticated:
        return document
    document = replace(document, created_by=name_sender(workspace.actor, document.created_by))

    def sent(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            replace(
                row,
                **{
                    name: name_sender(workspace.actor, getattr(row, name))
                    for name in ("by", "lifted_by", "withdrawn_by")
                    if getattr(row, name, None) is not None
                },
            )
            for row in rows
        )

    parts = ("signatures", "yanks", "amendments", "evaluations")
    changed: Any = {name: sent(getattr(document, name)) for name in parts if hasattr(document, name)}
    return replace(document, **changed)


def missing_signatures(
    workspace: Workspace, session: Session, document: Item, row: Thing | None
) -> tuple[list[SignatureDocument], str | None]:
    """Return the signatures to record, and the reason why others are left out.

    Signatures by trusted keys are verified at once.  Other
    signatures are claims, verified when their keys are trusted; on existing records they need a role.
    """
    if not isinstance(document, AdapterDocument | FusedDocument):  # other documents have no signatures
        return [], None
    key = tables.TrustedKeyRow
    wanted = [each.key_id for each in document.signatures if each.scheme == SCHEME]
    trusted = {each.key_id: each for each in session.scalars(select(key).where(key.key_id.in_(wanted)))}
    missing = []
    for each in document.signatures:
        public = trusted[each.key_id].public_key if each.key_id in trusted else None
        known = _known_signature(session, document, each)
        if _is_claimable(session, _signature(document, each), public) and (
            known is None or (public is not None and not _is_by(session, known, public))
        ):
            missing.append(each)
    if not missing or row is None or may_change(workspace, session, "signature", row):
        return missing, None
    allowed = [
        each
        for each in missing
        if each.scheme == SCHEME and each.key_id in trusted and trusted[each.key_id].revoked_at is None
    ]
    if len(allowed) == len(missing):
        return allowed, None
    return allowed, "signatures by untrusted keys are left out; an approver may push them"


def record_signatures(session: Session, document: Item, missing: Sequence[SignatureDocument]) -> None:
    """Record signatures that are missing."""
    for each in missing:
        known = _known_signature(session, document, each)
        if known is None:
            session.add(_signature(document, each))
        else:
            for name, value in column_values(each, tables.SignatureRow.__table__).items():
                setattr(known, name, value)
    if missing:
        session.flush()
        query = select(tables.SignatureRow).where(tables.SignatureRow.subject_digest == document.digest)
        require_within(document.name, "signatures", SIGNATURES, session.scalars(query).all())


def _signature(document: Item, each: SignatureDocument) -> tables.SignatureRow:
    values = column_values(each, tables.SignatureRow.__table__)
    return tables.SignatureRow(subject_kind=document.kind, subject_digest=document.digest, **values)


def _known_signature(session: Session, document: Item, each: SignatureDocument) -> tables.SignatureRow | None:
    signature = tables.SignatureRow
    return session.scalar(
        select(signature).where(
            signature.subject_digest == document.digest,
            signature.key_id == each.key_id,
            signature.scheme == each.scheme,
        )
    )


def _is_claimable(session: Session, row: tables.SignatureRow, public: str | None) -> bool:
    """Return whether a signature covers these files and has the named key."""
    from ..dsse import parse_envelope, read_statement

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
