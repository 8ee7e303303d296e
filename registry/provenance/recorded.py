"""Signatures on record: listing those over a thing, writing one to a file, and what the registry says of a found bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from fusery.storage.plaintext import is_keepable, visible

from .. import tables
from ..actors import person
from ..database import events
from ..documents import write_picture
from ..dsse import BadSignatureError, parse_envelope, read_bytes, read_statement
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record, described
from ..records.roles import require_may_change, require_role
from ..records.trust import KnownKey, OneSignature, RecordedEnvelope, RecordedFiles, Signatures
from ..records.views import SCHEME, is_good, manifest_of, signatures_of, signed_name
from .sign import find_recorded
from .signed_claim import FileProblem
from .verify import KeyChecker, RecordedState, Verification, beside_of, examine, judge

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace
    from .sign import SignatureLog


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedSignature(Record):
    """A signature that was written to a file."""

    kind: str = described("kind of the signed object: `adapter`, `fused` or `bundle`")
    name: str = described("its name")
    digest: str = described("digest of its manifest")
    key_id: str = described("id of the key")
    path: Path = described("the file")


def look_up(workspace: Workspace, digest: str, *, lone: bool) -> RecordedFiles:
    """Return what is on record of a list of files; with `lone`, of a file with that digest that is alone."""
    with workspace.database.read() as session:
        found = _alone(session, digest) if lone else digest or None
        kinds = _kinds_of(session, found) if found is not None else {}
        kind = next(iter(kinds), None)
        rows = session.scalars(select(tables.TrustedKeyRow).order_by(tables.TrustedKeyRow.name))
        keys = tuple(
            KnownKey(
                name=key.name,
                key_id=key.key_id,
                public_key=key.public_key,
                revoked=key.revoked_at is not None,
                aliases=tuple(key.aliases),
            )
            for key in rows
        )
        signature = tables.SignatureRow
        texts = select(signature.envelope).where(
            signature.subject_digest == (found or ""), signature.scheme == SCHEME
        )
        envelopes = tuple(session.scalars(texts.order_by(signature.id.desc())))
    return RecordedFiles(
        kind=kind, event=kinds.get(kind or "", ""), digest=found, keys_=keys, envelopes=envelopes
    )


def record_signature(
    workspace: Workspace, kind: str, digest: str, *, key_id: str, scheme: str, envelope: str, public: str
) -> RecordedEnvelope:
    """Record a signature, or return the recorded one.

    Args:
        kind: of what was signed; the kind that the digest is recorded as is recorded.
        public: the public key as PEM.
    """
    if scheme != SCHEME:
        raise BadInputError(f"unknown scheme {visible(scheme)[:60]!r}", hint=SCHEME)
    parsed = parse_envelope(envelope.encode(), "the new signature")
    signature = tables.SignatureRow
    with workspace.database.write() as session:
        kinds = _kinds_of(session, digest) if is_keepable(digest) else {}
        manifest = manifest_of(session, digest) if kinds else None
        if manifest is None:
            raise UnknownReferenceError(
                f"nothing on record has the digest {visible(digest)[:12]}", hint="fusery list"
            )
        if kind not in kinds:
            raise BadInputError(
                f"invalid kind: {visible(kind)[:60]!r} (the digest is that of: {', '.join(kinds)})"
            )
        # Files of an adapter may be recorded as a bundle, too: nobody changes by that what a signature counts for.
        kind, event = next(iter(kinds.items()))
        if not read_statement(parsed).covers(manifest):
            raise BadSignatureError("the signature is over other files")
        key = KeyChecker.parse("the key", public)
        if key.key_id != key_id or not parsed.signed_by(key.key):
            raise BadSignatureError("the signature is not by this key")
        _require_may_sign(workspace, session, kind, event, key_id)
        query = select(signature).where(
            signature.subject_digest == digest, signature.key_id == key_id, signature.scheme == scheme
        )
        row = session.scalar(query)
        if row is not None and _same(session, row, kind, public):
            return RecordedEnvelope(envelope=row.envelope, existed=True)
        if row is not None and person(row.by) != person(workspace.actor):
            require_role(workspace, "approver", "replacing another's signature")
        now = workspace.database.utcnow(session)
        if row is None:
            row = signature(subject_digest=digest, key_id=key_id, scheme=scheme)
            session.add(row)
        row.subject_kind, row.envelope, row.at, row.by = kind, envelope, now, workspace.actor
        events.record(
            session,
            f"{kind}.signed",
            kind,
            event,
            {"digest": digest, "key_id": key_id, "scheme": scheme},
            at=now,
        )
        return RecordedEnvelope(envelope=envelope, existed=False)


def _require_may_sign(workspace: Workspace, session: Session, kind: str, event: str, key_id: str) -> None:
    """Refuse a signature over another's thing, except by a trusted key."""
    key, bundle = tables.TrustedKeyRow, tables.BundleRow
    trusted = select(key.id).where(key.key_id == key_id, key.revoked_at.is_(None))
    if session.scalar(trusted) is not None:
        return
    if kind == "bundle":
        by = session.scalar(
            select(bundle.created_by).where(bundle.digest == event).order_by(bundle.id).limit(1)
        )
        if by is not None and person(by) != person(workspace.actor):
            require_role(workspace, "approver", "another's signature")
        return
    row: tables.AdapterRow | tables.FusedRow | None = None
    if kind == "adapter":
        row = session.scalar(select(tables.AdapterRow).where(tables.AdapterRow.name == event))
    elif kind == "fused":
        row = session.scalar(select(tables.FusedRow).where(tables.FusedRow.key == event))
    if row is not None:
        require_may_change(workspace, session, "signature", row)


def _same(session: Session, row: tables.SignatureRow, kind: str, public: str) -> bool:
    """Return whether a signature on record is as good as a new one."""
    if row.scheme != SCHEME or row.subject_kind != kind:
        return False
    fused = tables.FusedRow
    query = select(fused).where(fused.digest == row.subject_digest, fused.origin.is_(None))
    made = session.scalars(query).first() if kind == "fused" else None
    name = "" if made is None else signed_name(made.key, made.verdict)
    return is_good(session, row, public, name=name)


def list_signatures(workspace: Workspace, reference: str) -> Signatures:
    """Return the signatures over an adapter, a fused model or a bundle on record."""
    with workspace.database.read() as session:
        subject = find_recorded(session, reference)
        found = signatures_of(session, subject.digest)
        return Signatures(
            kind=str(subject.kind), name=subject.name, digest=subject.digest, signatures=tuple(found)
        )


def find_signature(workspace: Workspace, reference: str, *, by: str | None = None) -> OneSignature:
    """Return a recorded signature; `by` is the name of a trusted key or the beginning of a key id."""
    with workspace.database.read() as session:
        subject = find_recorded(session, reference)
        key, signature = tables.TrustedKeyRow, tables.SignatureRow
        rows = session.execute(
            select(signature, key.name)
            .outerjoin(key, and_(key.key_id == signature.key_id, signature.scheme == SCHEME))
            .where(signature.subject_digest == subject.digest)
            .order_by(signature.id)
        ).all()
        wanted = (by or "").casefold()
        chosen = [row for row, name in rows if not wanted or name == wanted or row.key_id.startswith(wanted)]
    if not chosen:
        whose = f" by {by[:60]}" if by else ""
        raise UnknownReferenceError(
            f"{subject.name} has no signature{whose}", hint=f"fusery sign {reference} --key KEY.pem"
        )
    if len(chosen) > 1:
        raise BadInputError(
            f"{subject.name} has {len(chosen)} signatures", hint=f"--by {chosen[-1].key_id[:12]}"
        )
    return OneSignature(
        kind=str(subject.kind),
        name=subject.name,
        digest=subject.digest,
        key_id=chosen[0].key_id,
        envelope=chosen[0].envelope,
    )


def export_signature(signature: OneSignature, output: Path, *, force: bool = False) -> ExportedSignature:
    """Write a signature to a file, which model-signing and `verify` read."""
    write_picture(output, signature.envelope.encode(), force=force)
    return ExportedSignature(
        kind=signature.kind,
        name=signature.name,
        digest=signature.digest,
        key_id=signature.key_id,
        path=output,
    )


def verify_on_record(
    registry: SignatureLog,
    path: Path,
    *,
    signature: Path | None = None,
    checkers: Sequence[KeyChecker] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Verify the files at a path with what the registry knows: its digest, its signatures, and the trusted keys.

    Args:
        signature: else `PATH.sig`, else the recorded ones.
        checkers: who may have signed; else every trusted key.
    """
    beside = beside_of(path)
    place = signature or (beside if beside.is_file() else None)
    result = examine(path, but=signature, progress=progress)
    if result.found.lone:
        (entry,) = result.found.files.values()
        recorded = registry.look_up(str(entry.sha256), lone=True)
    else:  # an empty digest is that of nothing
        manifest = result.found.manifest
        recorded = registry.look_up(str(manifest.digest) if manifest is not None else "")
    counted = {key.key_id: key for key in recorded.keys_}
    envelopes = [text.encode() for text in recorded.envelopes]
    known = [KeyChecker.parse(key.name, key.public_key) for key in recorded.keys_]
    if place is not None:
        data: bytes | None = read_bytes(place)
    else:
        data = next((text for text in envelopes if _by_one_of(text, checkers or known)), None)
        data = data or next(iter(envelopes), None)
    asked = list(checkers) or [key for key in known if data is not None and _may_be(data, key)]
    judge(result, data, str(place or "registry"), asked)
    signer = counted.get(result.key_id or "")
    if signer is not None and signer.revoked:
        name = Path(result.signature or "").name
        result.problems.append(
            FileProblem("revoked", name, f"the signature is by {signer.name}, whose key was revoked")
        )
    result.registry = RecordedState(
        known=recorded.kind is not None,
        kind=recorded.kind,
        name=recorded.event or None,
        digest=recorded.digest,
        trusted=signer is not None and not signer.revoked,
        signer=signer.name if signer else None,
        aliases=signer.aliases if signer else (),
    )
    if recorded.kind is None:
        result.notes.append("the registry has no record of exactly these files")
    if result.signature is not None and signer is None and not result.problems:
        result.notes.append("the registry does not trust the key that it was signed with")
    return result


def _by_one_of(data: bytes, checkers: Sequence[KeyChecker]) -> bool:
    try:
        envelope = parse_envelope(data, "the recorded signature")
        return any(envelope.signed_by(checker.key) for checker in checkers)
    except BadSignatureError:
        return False


def _may_be(data: bytes, key: KeyChecker) -> bool:
    """Return whether a signature is a key's, or says so: then it is a wrong one, and not a stranger's."""
    try:
        return parse_envelope(data, "the signature").hint == key.key_id or _by_one_of(data, [key])
    except BadSignatureError:
        return False


def _alone(session: Session, sha256: str) -> str | None:
    """Return the digest of a bundle on record that is this one file, under whatever name."""
    bundle, file = tables.BundleRow, tables.ManifestFileRow
    rows = session.scalars(
        select(bundle).join(file, file.manifest_id == bundle.manifest_id).where(file.sha256 == sha256)
    )
    return next((row.digest for row in rows if len(row.manifest.files) == 1), None)


def _kinds_of(session: Session, digest: str) -> dict[str, str]:
    """Return as what a digest is on record, the strongest claim first: what the log calls it, by kind."""
    adapter, fused, bundle = tables.AdapterRow, tables.FusedRow, tables.BundleRow
    found = {
        "adapter": session.scalar(select(adapter.name).where(adapter.digest == digest).limit(1)),
        "fused": session.scalar(select(fused.key).where(fused.digest == digest).order_by(fused.id).limit(1)),
        "bundle": session.scalar(select(bundle.digest).where(bundle.digest == digest).limit(1)),
    }
    return {kind: event for kind, event in found.items() if event is not None}
