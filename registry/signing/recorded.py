"""Signatures on record: listing those over a thing, writing one to a file, and what the registry says of a found bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import tables
from ..documents import write_picture
from ..dsse.envelope import BadSignatureError, parse_envelope, read_bytes
from ..dsse.keys import key_id
from ..errors import BadInputError, UnknownReferenceError
from ..inspection.problem import Problem
from ..inspection.signed_files import Found
from ..record import Record, described
from ..records.signature import Signatures
from ..records.signatures import SCHEME, signatures_of
from .checking import Checker, KeyChecker
from .subject import alone, find_recorded, kind_of
from .verify import OnRecord, Verification, beside_of, examine, judge

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedSignature(Record):
    """A signature that was written to a file."""

    kind: str = described("of what was signed: `adapter`, `fused` or `bundle`")
    name: str = described("what people call it")
    digest: str = described("of its list of files")
    key_id: str = described("of the key that signed, or whom Sigstore names")
    path: Path = described("the file")


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


def export_signature(
    workspace: Workspace, reference: str, output: Path, *, by: str | None = None, force: bool = False
) -> ExportedSignature:
    """Write a signature on record to a file, which model-signing and `verify` read.

    Args:
        workspace: the registry's parts.
        reference: an adapter, a fused model, or a bundle by its digest or place.
        output: the file.
        by: whose: the name of a trusted key, or the beginning of a key's id; needed where there are several.
        force: replace another file.

    Raises:
        UnknownReferenceError: it has no such signature.
        BadInputError: it has several.
        AlreadyExistsError: there is another file.
    """
    with workspace.database.read() as session:
        subject = find_recorded(session, reference)
        key, signature = tables.TrustedKey, tables.Signature
        rows = session.execute(
            select(signature, key.name)
            .outerjoin(key, key.key_id == signature.key_id)
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
    write_picture(output, chosen[0].envelope.encode(), force=force)
    return ExportedSignature(
        kind=str(subject.kind),
        name=subject.name,
        digest=subject.digest,
        key_id=chosen[0].key_id,
        path=output,
    )


def verify_on_record(
    workspace: Workspace,
    path: Path,
    *,
    signature: Path | None = None,
    checkers: Sequence[Checker] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Verify what lies at a path with what the registry knows: its digest, its signatures, and whose keys count.

    Args:
        workspace: the registry's parts.
        path: a folder or a file.
        signature: the signature; else `PATH.sig`, else the ones on record.
        checkers: who may have signed; else every trusted key.
        progress: called with the bytes done and the total.
    """
    beside = beside_of(path)
    place = signature or (beside if beside.is_file() else None)
    result = examine(path, but=place, progress=progress)
    with workspace.database.read() as session:
        digest = _digest(session, result.found)
        kind, event = kind_of(session, digest) if digest is not None else (None, "")
        keys = list(session.scalars(select(tables.TrustedKey).order_by(tables.TrustedKey.name)))
        counted = {key.key_id: key for key in keys}
        envelopes = _envelopes(session, digest)
    known = [KeyChecker.parse(key.name, key.public_key) for key in keys]
    if place is not None:
        data: bytes | None = read_bytes(place)
    else:
        data = next((text for text in envelopes if _by_one_of(text, checkers or known)), None)
        data = data or next(iter(envelopes), None)
    asked = list(checkers) or [key for key in known if data is not None and _may_be(data, key)]
    judge(result, data, str(place or "registry"), asked)
    signer = counted.get(result.key_id or "")
    if signer is not None and signer.revoked_at is not None:
        name = Path(result.signature or "").name
        result.problems.append(
            Problem("revoked", name, f"the signature is by {signer.name}, whose key was revoked")
        )
    result.registry = OnRecord(
        known=kind is not None,
        kind=kind,
        name=event or None,
        digest=digest,
        trusted=signer is not None and signer.revoked_at is None,
        signer=signer.name if signer else None,
        aliases=tuple(signer.aliases) if signer else (),
    )
    _note(result)
    return result


def _envelopes(session: Session, digest: str | None) -> list[bytes]:
    """Return the signatures on record over a digest, the newest first."""
    signature = tables.Signature
    rows = select(signature.envelope).where(signature.subject_digest == digest, signature.scheme == SCHEME)
    found = session.scalars(rows.order_by(signature.id.desc())) if digest is not None else ()
    return [text.encode() for text in found]


def _by_one_of(data: bytes, checkers: Sequence[Checker]) -> bool:
    try:
        envelope = parse_envelope(data, "the recorded signature")
        return any(checker.signer(envelope, data) for checker in checkers)
    except BadSignatureError:
        return False


def _may_be(data: bytes, key: KeyChecker) -> bool:
    """Return whether a signature is a key's, or says so: then it is a wrong one, and not a stranger's."""
    try:
        return parse_envelope(data, "the signature").hint == key_id(key.key) or _by_one_of(data, [key])
    except BadSignatureError:
        return False


def _digest(session: Session, found: Found) -> str | None:
    if found.lone:
        (entry,) = found.files.values()
        return alone(session, str(entry.sha256))
    manifest = found.manifest
    return str(manifest.digest) if manifest is not None else None


def _note(result: Verification) -> None:
    registry = result.registry
    assert registry is not None
    if not registry.known:
        result.notes.append("the registry has no record of exactly these files")
    if result.signature is not None and registry.signer is None and not result.problems:
        result.notes.append("the registry does not trust the key that it was signed with")
