"""What is to be signed: a thing on record, by its list of files, or what lies at a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.manifest import Manifest
from fusery.storage.plaintext import visible
from fusery.storage.shell import typed

from .. import tables
from ..dsse.statement import LONE
from ..errors import (
    AmbiguousReferenceError,
    BadInputError,
    CheckFailedError,
    ServerRefusedError,
    UnknownReferenceError,
)
from ..inspection.signed_files import Progress
from ..names import AdapterName, Reference, an
from ..records.fused_label import label_of
from ..records.references import begins_with, resolve_any
from ..records.signatures import manifest_of, signed_name
from .verify import beside_of, examine, judge

if TYPE_CHECKING:
    from ..records.signature import RecordedEnvelope, RecordedFiles
    from ..wire import LongText
    from ..workspace import Workspace


class SignatureLog(Protocol):
    """What a registry has on record of signatures, on this machine or at a server: `registry.trust`."""

    def find(self, reference: str) -> Subject:
        """Return what a reference means."""

    def look_up(self, digest: str, *, lone: bool = False) -> RecordedFiles:
        """Return what is on record of a list of files."""

    def record_signature(
        self, kind: str, digest: str, *, key_id: str, scheme: str, envelope: LongText, public: str = ""
    ) -> RecordedEnvelope:
        """Record a signature."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to sign.

    Attributes:
        kind: `adapter`, `fused` or `bundle`; None where nothing of these files is on record.
        name: what people call it.
        digest: of its list of files.
        event: what the log calls it.
        files: path to SHA-256, as a signature lists them.
        path: where it lies, if a path was given.
        said: what a signature says before the name, where it vouches for more than the files.
    """

    kind: str | None
    name: str
    digest: str
    event: str
    files: dict[str, str]
    path: Path | None = None
    said: str = ""


def find_subject(
    registry: SignatureLog,
    text: str,
    *,
    at_server: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Subject:
    """Return what a reference or a path means.

    Args:
        registry: what is on record.
        text: a reference to an adapter, a fused model or a bundle on record; or the path of a folder or file.
        at_server: the registry is at a server, whose answer is compared with the reference.
        progress: called with the bytes read and the total, for a path.

    Raises:
        AmbiguousReferenceError: it is both a reference and a path, or fits more than one thing.
        BadInputError: it is a base model.
        CheckFailedError: what lies there is not what it says of itself, or a list of files was changed on record.
        UnknownReferenceError: it is neither a reference nor a path.
        ServerRefusedError: the server answered with something else than the reference means.
    """
    path = Path(text)
    there = path.exists()
    try:
        known = registry.find(text)
    except (UnknownReferenceError, BadInputError):
        if not there:
            raise
        known = None
    if known is not None and at_server:
        require_meant(text, known)
    if known is not None and there and str(path) != str(path.absolute()):
        raise AmbiguousReferenceError(
            f"{text} is the name of {an(str(known.kind))} on record, and of something that lies here",
            hint=f"for what lies here: ./{text}",
        )
    return known if known is not None and not there else _at(registry, path, progress)


def require_meant(text: str, subject: Subject) -> None:
    """Compare a server's answer with the reference: nobody signs what they did not name.

    Raises:
        ServerRefusedError: it is something else.
    """
    if not _is_meant(text, subject):
        raise ServerRefusedError(
            f"the server answered {text[:60]} with {visible(subject.name)[:100]}, and nothing was signed",
            hint="ask an admin of the server",
        )


def _is_meant(text: str, subject: Subject) -> bool:
    kind, digest, name = subject.kind, subject.digest, subject.name
    vouched = kind == "fused" and subject.said.startswith(f"fused {subject.event} ")
    if subject.path is not None or (subject.said and not vouched):
        return False
    try:
        reference = Reference.parse(text)
    except BadInputError:  # the path of a bundle
        return kind == "bundle" and (name, subject.event) == (f"bundle {digest[:12]}", digest)
    if reference.kind == "digest":
        digests = {
            "adapter": [digest],
            "fused": [digest, subject.event],
            "bundle": [digest] if (name, subject.event) == (f"bundle {digest[:12]}", digest) else [],
        }
        return any(each.startswith(reference.value) for each in digests.get(str(kind), ()))
    if kind != "adapter" or subject.event != name:
        return False
    try:
        found = AdapterName.parse(name)
    except BadInputError:
        return False
    if reference.kind == "name":
        return name == reference.value
    version = reference.kind != "version" or found.version == int(reference.value)
    return found.task == reference.task and version


def find_on_record(workspace: Workspace, text: str) -> Subject:
    """Return a thing on record, as `find_recorded` does."""
    with workspace.database.read() as session:
        return find_recorded(session, text)


def find_recorded(session: Session, text: str) -> Subject:
    """Return a thing on record: an adapter, a fused model, or a bundle by its digest or place.

    Raises:
        UnknownReferenceError: nothing has that name.
        BadInputError: it is a base model.
        CheckFailedError: its list of files was changed on record.
    """
    bundle = tables.Bundle
    wanted = [bundle.path == text]
    if 8 <= len(text) <= 64 and not text.strip("0123456789abcdef"):
        wanted.append(begins_with(bundle.digest, text))
    for condition in wanted:
        digests = set(session.scalars(select(bundle.digest).where(condition)))
        if len(digests) > 1:
            raise AmbiguousReferenceError(f"{text} fits more than one bundle", hint="give more digits")
        if digests:
            (digest,) = digests
            return _recorded(session, "bundle", f"bundle {digest[:12]}", digest, digest)
    found = resolve_any(session, text)
    if found.adapter is not None:
        return _recorded(session, "adapter", found.adapter.name, found.adapter.digest, found.adapter.name)
    if found.fused is not None:
        fused = found.fused
        subject = _recorded(session, "fused", label_of(fused), fused.digest, fused.key)
        # Only for what was made here is it vouched that it is what its key says, and as faithful.
        return (
            replace(subject, said=signed_name(fused.key, fused.verdict)) if fused.origin is None else subject
        )
    raise BadInputError(
        f"{text} is a base model: what is signed are adapters, fused models and bundles", hint="fusery list"
    )


def _recorded(session: Session, kind: str, name: str, digest: str, event: str) -> Subject:
    manifest = manifest_of(session, digest)
    if manifest is None:
        raise CheckFailedError(
            f"the list of files of {name} was changed after it was recorded", hint="fusery audit"
        )
    return Subject(kind, name, digest, event, _listed(manifest, lone=kind == "bundle" and len(manifest) == 1))


def _listed(manifest: Manifest, *, lone: bool) -> dict[str, str]:
    return {LONE if lone else entry.path: str(entry.sha256) for entry in manifest}


def _at(registry: SignatureLog, path: Path, progress: Progress | None) -> Subject:
    """Read what lies at a path; what is damaged is not signed."""
    seen = examine(path, but=beside_of(path), progress=progress)
    judge(seen, None, "", ())
    manifest = seen.found.manifest
    if seen.problems or not manifest:
        first = seen.problems[0].message if seen.problems else f"{path} has no files that can be listed"
        raise CheckFailedError(f"{first}, and nothing was signed", hint=f"fusery verify {typed(path)}")
    files = _listed(manifest, lone=seen.found.lone)
    known = registry.look_up(files[LONE] if seen.found.lone else manifest.digest, lone=seen.found.lone)
    name = seen.found.path.name
    return Subject(known.kind, name, known.digest or manifest.digest, known.event, files, seen.found.path)


def alone(session: Session, sha256: str) -> str | None:
    """Return the digest of a bundle on record that is this one file, under whatever name."""
    bundle, file = tables.Bundle, tables.ManifestFile
    rows = session.scalars(
        select(bundle).join(file, file.manifest_id == bundle.manifest_id).where(file.sha256 == sha256)
    )
    return next((row.digest for row in rows if len(row.manifest.files) == 1), None)


def kinds_of(session: Session, digest: str) -> dict[str, str]:
    """Return as what a digest is on record, the strongest claim first: what the log calls it, by kind."""
    adapter, fused, bundle = tables.Adapter, tables.Fused, tables.Bundle
    found = {
        "adapter": session.scalar(select(adapter.name).where(adapter.digest == digest).limit(1)),
        "fused": session.scalar(select(fused.key).where(fused.digest == digest).order_by(fused.id).limit(1)),
        "bundle": session.scalar(select(bundle.digest).where(bundle.digest == digest).limit(1)),
    }
    return {kind: event for kind, event in found.items() if event is not None}


def kind_of(session: Session, digest: str) -> tuple[str | None, str]:
    """Return what is on record with a digest: its kind, and what the log calls it."""
    return next(iter(kinds_of(session, digest).items()), (None, ""))
