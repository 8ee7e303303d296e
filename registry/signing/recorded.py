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
from ..access.roles import require_may_change, require_role
from ..actors import person
from ..database import events
from ..documents import write_picture
from ..dsse.envelope import BadSignatureError, Envelope, parse_envelope, read_bytes
from ..dsse.keys import key_id as id_of
from ..dsse.statement import read_statement
from ..errors import BadInputError, UnknownReferenceError
from ..inspection.problem import Problem
from ..inspection.signed_files import Found
from ..record import Record, described
from ..records.signature import KnownKey, OneSignature, RecordedEnvelope, RecordedFiles, Signatures
from ..records.signatures import SCHEME, SIGSTORE, is_good, manifest_of, signatures_of, signed_name
from .checking import Checker, KeyChecker
from .sign import sigstore_identity
from .subject import alone, find_recorded, kind_of, kinds_of
from .verify import OnRecord, Verification, beside_of, examine, judge

if TYPE_CHECKING:
    from ..workspace import Workspace
    from .subject import SignatureLog


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedSignature(Record):
    """A signature that was written to a file."""

    kind: str = described("kind of the signed object: `adapter`, `fused` or `bundle`")
    name: str = described("its name")
    digest: str = described("digest of its manifest")
    key_id: str = described("id of the key, or the Sigstore identity")
    path: Path = described("the file")


def look_up(workspace: Workspace, digest: str, *, lone: bool) -> RecordedFiles:
    """Return what is on record of a list of files; with `lone`, of a file with that digest that is alone."""
    with workspace.database.read() as session:
        found = alone(session, digest) if lone else digest or None
        kind, event = kind_of(session, found) if found is not None else (None, "")
        rows = session.scalars(select(tables.TrustedKey).order_by(tables.TrustedKey.name))
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
        envelopes = tuple(_envelopes(session, found))
    return RecordedFiles(kind=kind, event=event, digest=found, keys_=keys, envelopes=envelopes)


def record_signature(
    workspace: Workspace, kind: str, digest: str, *, key_id: str, scheme: str, envelope: str, public: str
) -> RecordedEnvelope:
    """Record a signature, or return the one that is on record already.

    Args:
        workspace: the registry's parts.
        kind: of what was signed; recorded is the one that the digest is on record as.
        digest: of its list of files.
        key_id: of the key that signed it, or whom Sigstore names.
        scheme: `model-signing` or `sigstore`.
        envelope: the signature.
        public: the public key as PEM; empty for Sigstore.

    Raises:
        BadInputError: the scheme is unknown, or the digest is on record as something else.
        UnknownReferenceError: nothing of these files is on record.
        BadSignatureError: it is no signature, or not by that key.
        RoleError: it is another's and the key is not trusted, or it would replace another person's signature.
    """
    if scheme not in (SCHEME, SIGSTORE):
        raise BadInputError(f"unknown scheme {visible(scheme)[:60]!r}", hint=f"{SCHEME} or {SIGSTORE}")
    data = envelope.encode()
    parsed = parse_envelope(data, "the new signature")
    signature = tables.Signature
    with workspace.database.write() as session:
        kinds = kinds_of(session, digest) if is_keepable(digest) else {}
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
        if scheme == SCHEME and _signer(parsed, data, public) != key_id:
            raise BadSignatureError("the signature is not by this key")
        if scheme == SIGSTORE and sigstore_identity(data) != key_id:
            raise BadSignatureError("Sigstore's certificate names another identity")
        _require_may_sign(workspace, session, kind, event, key_id if scheme == SCHEME else None)
        query = select(signature).where(
            signature.subject_digest == digest, signature.key_id == key_id, signature.scheme == scheme
        )
        row = session.scalar(query)
        if row is not None and _same(session, row, kind, envelope, public):
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
            action=f"{kind}.signed",
            kind=kind,
            subject=event,
            detail={"digest": digest, "key_id": key_id, "scheme": scheme},
            actor=workspace.actor,
            at=now,
        )
        return RecordedEnvelope(envelope=envelope, existed=False)


def _signer(envelope: Envelope, data: bytes, public: str) -> str | None:
    signer = KeyChecker.parse("the key", public).signer(envelope, data)
    return signer.key_id if signer is not None else None


def _require_may_sign(
    workspace: Workspace, session: Session, kind: str, event: str, key_id: str | None
) -> None:
    """Refuse a signature over another's thing where the role does not allow it.

    A trusted key may sign everything.  `key_id` is None for a signature that this registry does not check.
    """
    key, bundle = tables.TrustedKey, tables.Bundle
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
    row: tables.Adapter | tables.Fused | None = None
    if kind == "adapter":
        row = session.scalar(select(tables.Adapter).where(tables.Adapter.name == event))
    elif kind == "fused":
        row = session.scalar(select(tables.Fused).where(tables.Fused.key == event))
    if row is not None:
        require_may_change(workspace, session, "signature", row)


def _same(session: Session, row: tables.Signature, kind: str, envelope: str, public: str) -> bool:
    """Return whether a signature on record is as good as a new one."""
    if row.scheme != SCHEME or row.subject_kind != kind:
        return False
    new = parse_envelope(envelope.encode(), "the new signature")
    try:
        old = parse_envelope(row.envelope.encode(), "the recorded signature")
    except BadSignatureError:
        return False
    return old.certificates == new.certificates and is_good(session, row, public, name=_said(session, row))


def _said(session: Session, signature: tables.Signature) -> str:
    """Return how the name begins that a signature has to give: of what was fused here, with what its files do not say."""
    fused = tables.Fused
    query = select(fused).where(fused.digest == signature.subject_digest, fused.origin.is_(None))
    row = session.scalars(query).first() if signature.subject_kind == "fused" else None
    return "" if row is None else signed_name(row.key, row.verdict)


def list_signatures(workspace: Workspace, reference: str) -> Signatures:
    """Return the signatures over an adapter, a fused model or a bundle on record.

    Raises:
        UnknownReferenceError: nothing has that name.
    """
    with workspace.database.read() as session:
        subject = find_recorded(session, reference)
        found = signatures_of(session, subject.digest)
        return Signatures(
            kind=str(subject.kind), name=subject.name, digest=subject.digest, signatures=tuple(found)
        )


def find_signature(workspace: Workspace, reference: str, *, by: str | None = None) -> OneSignature:
    """Return a signature on record.

    Args:
        workspace: the registry's parts.
        reference: an adapter, a fused model, or a bundle by its digest or place.
        by: whose: the name of a trusted key, or the beginning of a key's id; needed where there are several.

    Raises:
        UnknownReferenceError: it has no such signature.
        BadInputError: it has several.
    """
    with workspace.database.read() as session:
        subject = find_recorded(session, reference)
        key, signature = tables.TrustedKey, tables.Signature
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
    """Write a signature to a file, which model-signing and `verify` read.

    Raises:
        AlreadyExistsError: there is another file, and it is not to be replaced.
    """
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
    checkers: Sequence[Checker] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Verify what lies at a path with what the registry knows: its digest, its signatures, and whose keys count.

    Args:
        registry: what is on record.
        path: a folder or a file.
        signature: the signature; else `PATH.sig`, else the ones on record.
        checkers: who may have signed; else every trusted key.
        progress: called with the bytes done and the total.
    """
    beside = beside_of(path)
    place = signature or (beside if beside.is_file() else None)
    result = examine(path, but=place, progress=progress)
    recorded = _looked_up(registry, result.found)
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
            Problem("revoked", name, f"the signature is by {signer.name}, whose key was revoked")
        )
    result.registry = OnRecord(
        known=recorded.kind is not None,
        kind=recorded.kind,
        name=recorded.event or None,
        digest=recorded.digest,
        trusted=signer is not None and not signer.revoked,
        signer=signer.name if signer else None,
        aliases=signer.aliases if signer else (),
    )
    _note(result)
    return result


def _envelopes(session: Session, digest: str | None) -> list[str]:
    """Return the signatures on record over a digest, the newest first."""
    signature = tables.Signature
    rows = select(signature.envelope).where(signature.subject_digest == digest, signature.scheme == SCHEME)
    found = session.scalars(rows.order_by(signature.id.desc())) if digest is not None else ()
    return list(found)


def _by_one_of(data: bytes, checkers: Sequence[Checker]) -> bool:
    try:
        envelope = parse_envelope(data, "the recorded signature")
        return any(checker.signer(envelope, data) for checker in checkers)
    except BadSignatureError:
        return False


def _may_be(data: bytes, key: KeyChecker) -> bool:
    """Return whether a signature is a key's, or says so: then it is a wrong one, and not a stranger's."""
    try:
        return parse_envelope(data, "the signature").hint == id_of(key.key) or _by_one_of(data, [key])
    except BadSignatureError:
        return False


def _looked_up(registry: SignatureLog, found: Found) -> RecordedFiles:
    """Return what is on record of the files that were found; an empty digest is that of nothing."""
    if found.lone:
        (entry,) = found.files.values()
        return registry.look_up(str(entry.sha256), lone=True)
    manifest = found.manifest
    return registry.look_up(str(manifest.digest) if manifest is not None else "")


def _note(result: Verification) -> None:
    registry = result.registry
    assert registry is not None
    if not registry.known:
        result.notes.append("the registry has no record of exactly these files")
    if result.signature is not None and registry.signer is None and not result.problems:
        result.notes.append("the registry does not trust the key that it was signed with")
