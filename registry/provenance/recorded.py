"""Recorded signatures, and the keys that are trusted, with the aliases that each counts for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fusery.storage.errors import visible
from fusery.storage.jsonfile import is_keepable

from .. import tables
from ..actors import person
from ..database import events
from ..dsse import BadSignatureError, key_id, parse_envelope, parse_public_key, public_pem, read_statement
from ..errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from ..names import parse_slug
from ..records.tokens import require_may_change, require_role
from ..records.trust import KnownKey, RecordedEnvelope, RecordedFiles, Signatures, TrustedKey
from ..records.views import SCHEME, is_good, manifest_of, signatures_of, signed_name
from ..workspace.workspace import Workspace
from .sign import find_on_record
from .verify import KeyChecker


def look_up(workspace: Workspace, digest: str, *, lone: bool) -> RecordedFiles:
    """Return the record of a list of files; with `lone`, of a single file with that digest."""
    with workspace.database.read() as session:
        recorded_digest = _alone(session, digest) if lone else digest or None
        kinds = _kinds_of(session, recorded_digest) if recorded_digest is not None else {}
        kind = next(iter(kinds), None)
        rows = session.scalars(select(tables.TrustedKeyRow).order_by(tables.TrustedKeyRow.name))
        keys = tuple(KnownKey.from_row(key, revoked=key.revoked_at is not None) for key in rows)
        signature = tables.SignatureRow
        texts = select(signature.envelope).where(signature.subject_digest == (recorded_digest or ""))
        texts = texts.where(signature.scheme == SCHEME)
        envelopes = tuple(session.scalars(texts.order_by(signature.id.desc())))
    return RecordedFiles(
        kind=kind, event=kinds.get(kind or "", ""), digest=recorded_digest, keys_=keys, envelopes=envelopes
    )


def record_signature(
    workspace: Workspace, kind: str, digest: str, *, key_id: str, scheme: str, envelope: str, public: str
) -> RecordedEnvelope:
    """Record a signature, or return the recorded one; `public` is the public key as PEM."""
    if scheme != SCHEME:
        raise BadInputError(f"unknown scheme {visible(scheme)[:60]!r}", hint=SCHEME)
    parsed = parse_envelope(envelope.encode(), "the new signature")
    signature = tables.SignatureRow
    with workspace.database.write() as session:
        kinds = _kinds_of(session, digest) if is_keepable(digest) else {}
        manifest = manifest_of(session, digest) if kinds else None
        if manifest is None:
            message = f"nothing on record has the digest {visible(digest)[:12]}"
            raise UnknownReferenceError(message, hint="fusery list")
        if kind not in kinds:
            raise BadInputError(f"invalid kind: {visible(kind)[:60]!r} (it is: {', '.join(kinds)})")
        # Files of an adapter may be recorded as a bundle, too, which does not change what a signature counts for.
        kind, event = next(iter(kinds.items()))
        if not read_statement(parsed).covers(manifest):
            raise BadSignatureError("the signature is over other files")
        key = KeyChecker.parse("the key", public)
        if key.key_id != key_id or not parsed.signed_by(key.key):
            raise BadSignatureError("the signature is not by this key")
        _require_may_sign(workspace, session, kind, event, key_id)
        query = select(signature).where(signature.subject_digest == digest, signature.key_id == key_id)
        row = session.scalar(query.where(signature.scheme == scheme))
        if row is not None and _same(session, row, kind, public):
            return RecordedEnvelope(envelope=row.envelope, existed=True)
        if row is not None and person(row.by) != person(workspace.actor):
            require_role(workspace, "approver", "replacing another's signature")
        now = workspace.database.utcnow(session)
        if row is None:
            row = signature(subject_digest=digest, key_id=key_id, scheme=scheme)
            session.add(row)
        row.subject_kind, row.envelope, row.at, row.by = kind, envelope, now, workspace.actor
        detail = {"digest": digest, "key_id": key_id, "scheme": scheme}
        events.record(session, f"{kind}.signed", kind, event, detail, at=now)
        return RecordedEnvelope(envelope=envelope, existed=False)


def _require_may_sign(workspace: Workspace, session: Session, kind: str, event: str, key_id: str) -> None:
    """Refuse a signature over another's thing, except by a trusted key."""
    key, bundle = tables.TrustedKeyRow, tables.BundleRow
    trusted = select(key.id).where(key.key_id == key_id, key.revoked_at.is_(None))
    if session.scalar(trusted) is not None:
        return
    if kind == "bundle":
        first = select(bundle.created_by).where(bundle.digest == event).order_by(bundle.id).limit(1)
        if person(session.scalars(first).one()) != person(workspace.actor):
            require_role(workspace, "approver", "another's signature")
        return
    adapters = select(tables.AdapterRow).where(tables.AdapterRow.name == event)
    models = select(tables.FusedRow).where(tables.FusedRow.key == event)
    row = session.scalars(adapters if kind == "adapter" else models).one()
    require_may_change(workspace, session, "signature", row)


def _same(session: Session, row: tables.SignatureRow, kind: str, public: str) -> bool:
    if row.subject_kind != kind:
        return False
    fused = tables.FusedRow
    query = select(fused).where(fused.digest == row.subject_digest, fused.origin.is_(None))
    made = session.scalars(query).first() if kind == "fused" else None
    name = "" if made is None else signed_name(made.key, made.verdict)
    return is_good(session, row, public, name=name)


def list_signatures(workspace: Workspace, reference: str) -> Signatures:
    """Return the signatures over an adapter, a fused model or a bundle on record."""
    subject = find_on_record(workspace, reference)
    with workspace.database.read() as session:
        signatures = tuple(signatures_of(session, subject.digest))
    return Signatures(kind=str(subject.kind), name=subject.name, digest=subject.digest, signatures=signatures)


def _alone(session: Session, sha256: str) -> str | None:
    """Return the digest of a bundle on record that is this one file, under whatever name."""
    bundle, file = tables.BundleRow, tables.ManifestFileRow
    having = select(bundle).join(file, file.manifest_id == bundle.manifest_id)
    rows = session.scalars(having.where(file.sha256 == sha256))
    return next((row.digest for row in rows if len(row.manifest.files) == 1), None)


def _kinds_of(session: Session, digest: str) -> dict[str, str]:
    """Return as what a digest is on record, the strongest claim first: what the log calls it, by kind."""
    adapter, fused, bundle = tables.AdapterRow, tables.FusedRow, tables.BundleRow
    events_by_kind = {
        "adapter": session.scalar(select(adapter.name).where(adapter.digest == digest).limit(1)),
        "fused": session.scalar(select(fused.key).where(fused.digest == digest).order_by(fused.id).limit(1)),
        "bundle": session.scalar(select(bundle.digest).where(bundle.digest == digest).limit(1)),
    }
    return {kind: event for kind, event in events_by_kind.items() if event is not None}


_PATTERN = re.compile(r"[a-z0-9._*?-]{1,128}#[a-z0-9._*?-]{1,128}")
_MOST = 100  # patterns of aliases


def add_key(
    workspace: Workspace, name: str, pem: str, aliases: Sequence[str] = (), *, fused: bool = False
) -> TrustedKey:
    """Trust a key for patterns of `TASK#ALIAS`, which replace earlier ones, and with `fused` for models of other registries."""
    called = parse_slug(name, "key")
    patterns = _patterns(aliases, may_be_none=fused)
    public = parse_public_key(pem.encode(), "the key")
    number = key_id(public)
    key = tables.TrustedKeyRow
    with workspace.database.write() as session:
        row = session.scalar(select(key).where(key.key_id == number))
        other = session.scalar(select(key).where(key.name == called))
        if row is not None and row.revoked_at is not None:
            problem = f"this key was trusted as {row.name} and revoked, and is not trusted again"
            raise AlreadyExistsError(problem, hint="fusery admin trust keygen NAME makes a new one")
        if row is not None and row.name != called:
            raise AlreadyExistsError(f"this key is trusted as {row.name}", hint="fusery admin trust list")
        if other is not None and other is not row:
            raise AlreadyExistsError(f"{called} is the name of another key", hint="choose another name")
        now = workspace.database.utcnow(session)
        if row is None:
            row = key(key_id=number, name=called, public_key=public_pem(public), created_at=now)
            row.created_by = workspace.actor
            session.add(row)
        elif (row.aliases, bool(row.fused)) == (patterns, fused):
            return _view(session, row)
        row.aliases, row.fused = patterns, fused or None
        detail = {"key_id": row.key_id, "aliases": patterns, "fused": fused}
        events.record(session, "key.trusted", "key", row.name, detail, at=now)
        return _view(session, row)


def _patterns(aliases: Sequence[str], *, may_be_none: bool) -> list[str]:
    folded = sorted({alias.strip().casefold() for alias in aliases})
    for alias in folded:
        if not _PATTERN.fullmatch(alias):
            raise BadInputError(
                f"{alias[:60]!r} is no pattern for aliases", hint="--for 'course_rec#prod', or --for '*#prod'"
            )
    if not (folded or may_be_none) or len(folded) > _MOST:
        raise BadInputError(
            "a key is trusted for 1 to 100 patterns of aliases, or for fused artifacts of other registries",
            hint="--for 'course_rec#prod', or --fused",
        )
    return folded


def revoke_key(workspace: Workspace, name: str, *, reason: str = "") -> TrustedKey:
    """Revoke a key, also for signatures made before: nothing proves when one was made."""
    with workspace.database.write() as session:
        row = find_key(session, name)
        if row.revoked_at is None:
            now = workspace.database.utcnow(session)
            row.revoked_at, row.revoked_by = now, workspace.actor
            detail = {"key_id": row.key_id, "reason": reason}
            events.record(session, "key.revoked", "key", row.name, detail, at=now)
        return _view(session, row)


def find_key(session: Session, name: str) -> tables.TrustedKeyRow:
    """Return a key by its name or the beginning of its id."""
    key = tables.TrustedKeyRow
    wanted = name.strip().casefold()
    row = session.scalar(select(key).where(key.name == wanted))
    if row is None and len(wanted) >= 8:
        beginning = key.key_id.startswith(wanted, autoescape=True)
        rows = session.scalars(select(key).where(beginning).limit(2)).all()
        row = rows[0] if len(rows) == 1 else None
    if row is None:
        raise UnknownReferenceError(f"there is no key {name[:60]!r}", hint="fusery admin trust list")
    return row


def list_keys(workspace: Workspace) -> list[TrustedKey]:
    """Return all keys, the revoked ones too, by name."""
    with workspace.database.read() as session:
        rows = session.scalars(select(tables.TrustedKeyRow).order_by(tables.TrustedKeyRow.name))
        return [_view(session, row) for row in rows]


def _view(session: Session, row: tables.TrustedKeyRow) -> TrustedKey:
    signature = tables.SignatureRow
    by_key = select(func.count(signature.id)).where(signature.key_id == row.key_id)
    made = session.scalar(by_key.where(signature.scheme == SCHEME))
    return TrustedKey.from_row(row, fused=bool(row.fused), signatures=made or 0)
