"""Sign the list of files of a record, or of a path, which gets a signature beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.errors import typed, visible
from fusery.storage.manifest import Manifest
from fusery.storage.publishing import write_atomically

from .. import dsse, errors, tables
from ..names import AdapterName, Reference, an
from ..record import Record, described
from ..records.fused_rows import label_of
from ..records.references import begins_with, resolve_any
from ..records.trust import RecordedEnvelope, SigningSubject
from ..records.views import SCHEME, manifest_of, signed_name
from ..wire import LongText
from ..workspace.workspace import Workspace
from .verify import FileLog, Progress, examine, judge, signature_path


def no_passphrase() -> bytes:
    """Refuse: the default source of a passphrase."""
    problem = "the key is locked with a passphrase, and none was given"
    raise errors.BadInputError(problem, hint="--passphrase-file FILE, or FUSERY_KEY_PASSPHRASE")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The PEM file of a private key; `passphrase` is called if the key needs one."""

    key: Path
    passphrase: Callable[[], bytes] = no_passphrase


class Signed(Record):
    """A signature that was made."""

    kind: str | None = described("`adapter`, `fused` or `bundle`; None if these files are not on record")
    name: str = described("the name of the subject")
    digest: str = described("the digest of its list of files")
    files: int = described("the number of its files")
    scheme: str = described("`model-signing`")
    key_id: str = described("id of the key")
    recorded: bool = described("whether the signature is on record")
    existed: bool = described("whether it was on record already")
    path: Path | None = described("the file that it was written to, if any")
    signature: bytes
    public: str
    KEYS = ("kind", "name", "digest", "files", "scheme", "key_id", "recorded", "existed", "path")


class SignatureLog(FileLog, Protocol):
    """The signatures of a registry, here or at a server: `registry.trust`."""

    def find(self, reference: str) -> SigningSubject:
        """Return the record that a reference names."""

    def record_signature(
        self, kind: str, digest: str, *, key_id: str, scheme: str, envelope: LongText, public: str = ""
    ) -> RecordedEnvelope:
        """Record a signature."""


def sign(
    registry: SignatureLog,
    text: str,
    with_key: SigningKey,
    *,
    output: Path | None = None,
    force: bool = False,
    at_server: bool = False,
    progress: Progress | None = None,
) -> Signed:
    """Sign an adapter, a fused model or a bundle, by reference or at a path; the same key signs the same files once.

    A record is signed by its list of files; files at a path are read and compared with their own list before.  The signature goes
    to `output`, of a path by default to `PATH.sig`; `force` replaces a file that is no signature.
    """
    subject = find_subject(registry, text, at_server=at_server, progress=progress)
    place = output or (signature_path(subject.path) if subject.path is not None else None)
    if place is not None and not force:
        _require_replaceable(place)
    private = dsse.read_private_key(with_key.key, with_key.passphrase)
    data = dsse.sign_files(subject.prefix + subject.name, subject.files, private)
    public = private.public_key()
    number, pem = dsse.key_id(public), dsse.public_pem(public)
    recorded: RecordedEnvelope | None = None
    if subject.kind is not None:
        envelope = LongText(data.decode("ascii"))
        recorded = registry.record_signature(
            subject.kind, subject.digest, key_id=number, scheme=SCHEME, envelope=envelope, public=pem
        )
        data = recorded.envelope.encode()
    if place is not None:
        write_atomically(place, data, mode=0o644)
    return Signed(
        kind=subject.kind,
        name=subject.name,
        digest=subject.digest,
        files=len(subject.files),
        scheme=SCHEME,
        key_id=number,
        recorded=recorded is not None,
        existed=recorded is not None and recorded.existed,
        path=place,
        signature=data,
        public=pem,
    )


def _require_replaceable(place: Path) -> None:
    if place.is_dir():
        raise errors.AlreadyExistsError(f"{place} is a folder", hint="-o FILE")
    if place.is_file():
        try:
            dsse.parse_envelope(dsse.read_bytes(place), place.name)
        except dsse.BadSignatureError as error:
            hint = "-o FILE, or --force to replace it"
            raise errors.AlreadyExistsError(f"{place} is there and is no signature", hint=hint) from error


def find_subject(
    registry: SignatureLog, text: str, *, at_server: bool = False, progress: Progress | None = None
) -> SigningSubject:
    """Return the record that a reference names, or the files at a path."""
    path = Path(text)
    exists = path.exists()
    try:
        recorded_subject = registry.find(text)
    except (errors.UnknownReferenceError, errors.BadInputError):
        if not exists:
            raise
        recorded_subject = None
    if recorded_subject is not None and at_server:
        require_meant(text, recorded_subject)
    if recorded_subject is not None and exists and str(path) != str(path.absolute()):
        raise errors.AmbiguousReferenceError(
            f"{text} is the name of {an(str(recorded_subject.kind))} in the registry, and of a file here",
            hint=f"for the file here: ./{text}",
        )
    return recorded_subject if recorded_subject is not None and not exists else _at(registry, path, progress)


def require_meant(text: str, subject: SigningSubject) -> None:
    """Compare a server's answer with the reference, so that only what the user named is signed."""
    if not _is_meant(text, subject):
        raise errors.ServerRefusedError(
            f"the server answered {text[:60]} with {visible(subject.name)[:100]}, and nothing was signed",
            hint="ask an admin of the server",
        )


def _is_meant(text: str, subject: SigningSubject) -> bool:
    kind, digest, name = subject.kind, subject.digest, subject.name
    has_signed_name = kind == "fused" and subject.prefix.startswith(f"fused {subject.event} ")
    if subject.path is not None or (subject.prefix and not has_signed_name):
        return False
    try:
        reference = Reference.parse(text)
        if reference.kind == "digest":
            digests = {
                "adapter": [digest],
                "fused": [digest, subject.event],
                "bundle": [digest] if (name, subject.event) == (f"bundle {digest[:12]}", digest) else [],
            }
            return any(own.startswith(reference.value) for own in digests.get(str(kind), ()))
        adapter_name = AdapterName.parse(name)
    except errors.BadInputError:
        return False
    if kind != "adapter" or subject.event != name:
        return False
    if reference.kind == "name":
        return name == reference.value
    version = reference.kind != "version" or adapter_name.version == int(reference.value)
    return adapter_name.task == reference.task and version


def find_on_record(workspace: Workspace, text: str) -> SigningSubject:
    """Return a record for signing; a bundle is named by its digest, since its place and its files are its publisher's."""
    with workspace.database.read() as session:
        bundle = tables.BundleRow
        if 8 <= len(text) <= 64 and not text.strip("0123456789abcdef"):
            digests = set(session.scalars(select(bundle.digest).where(begins_with(bundle.digest, text))))
            if len(digests) > 1:
                raise errors.AmbiguousReferenceError(
                    f"{text} fits more than one bundle", hint="give more digits"
                )
            if digests:
                (digest,) = digests
                return _recorded(session, "bundle", f"bundle {digest[:12]}", digest, digest)
        row = resolve_any(session, text)
        if isinstance(row, tables.AdapterRow):
            return _recorded(session, "adapter", row.name, row.digest, row.name)
        if isinstance(row, tables.FusedRow):
            subject = _recorded(session, "fused", label_of(row), row.digest, row.key)
            # Only a model made here is known to be what its key says, and as faithful.
            signed_text = signed_name(row.key, row.verdict) if row.origin is None else ""
            return replace(subject, prefix=signed_text)
    message = f"{text} is a base model: only adapters, fused models and bundles can be signed"
    raise errors.BadInputError(message, hint="fusery list")


def _recorded(session: Session, kind: str, name: str, digest: str, event: str) -> SigningSubject:
    manifest = manifest_of(session, digest)
    if manifest is None:
        message = f"the list of files of {name} was changed after it was recorded"
        raise errors.CheckFailedError(message, hint="fusery audit")
    files = _listed(manifest, lone=kind == "bundle" and len(manifest) == 1)
    return SigningSubject(kind, name, digest, event, files)


def _listed(manifest: Manifest, *, lone: bool) -> dict[str, str]:
    return {dsse.LONE if lone else entry.path: str(entry.sha256) for entry in manifest}


def _at(registry: SignatureLog, path: Path, progress: Progress | None) -> SigningSubject:
    seen = examine(path, progress=progress)
    judge(seen, None, "", ())
    manifest = seen.hashed.manifest
    if seen.problems or not manifest:
        first = seen.problems[0].message if seen.problems else f"{path} has no files that can be listed"
        raise errors.CheckFailedError(
            f"{first}, and nothing was signed", hint=f"fusery identify {typed(path)}"
        )
    files = _listed(manifest, lone=seen.hashed.lone)
    look_up = registry.look_up(
        files[dsse.LONE] if seen.hashed.lone else manifest.digest, lone=seen.hashed.lone
    )
    path, digest = seen.hashed.path, look_up.digest or manifest.digest
    return SigningSubject(look_up.kind, path.name, digest, look_up.event, files, path)
