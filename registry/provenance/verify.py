"""Verify a folder or a file: its own list of files, its signature, and what a registry has recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from fusery.storage.digest import Digest
from fusery.storage.manifest import FileEntry

from .. import dsse
from ..record import Record, described
from ..records.trust import RecordedFiles
from .signed_claim import FileProblem, HashedFiles, SignedClaim, hash_all, read_claim

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

Progress = Callable[[int, int], None]  # called with the bytes done and the total
Verdict = Literal["verified", "differs", "unproven"]


@dataclass(frozen=True, slots=True)
class KeyChecker:
    """A public key that may have signed."""

    name: str
    key: EllipticCurvePublicKey

    @classmethod
    def of(cls, path: Path) -> KeyChecker:
        """Read a key, or the key of a certificate, from a file."""
        return cls(path.name, dsse.read_public_key(path))

    @classmethod
    def parse(cls, name: str, pem: str) -> KeyChecker:
        """Read a key from a text."""
        return cls(name, dsse.parse_public_key(pem.encode(), name))

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return dsse.key_id(self.key)


class RecordedState(Record):
    """What the registry knows of verified files."""

    recorded: bool = described("exactly these files are on record")
    kind: str | None = described("as what: `adapter`, `fused` or `bundle`")
    name: str | None = described("its name in the log")
    digest: str | None = described("digest of the files; None if they include a link, a device or the like")
    trusted: bool = described("the registry trusts the key of the signature")
    signer: str | None = described("name of the key, even if it was revoked")
    aliases: tuple[str, ...] = described("patterns of the aliases that it counts for")


class Verification(Record, kw_only=False, frozen=False):
    """The result of verifying a folder or a file."""

    hashed: HashedFiles = described("its files")
    record: SignedClaim | None = described("its own claims", default=None)
    signature: str | None = described("where the signature was found: a path, or `registry`", default=None)
    signed_with: str | None = described("the key that the signature names", default=None)
    signer: str | None = described("name of the key file or trusted key that verifies it", default=None)
    key_id: str | None = described("id of that key", default=None)
    problems: list[FileProblem] = described("the differences", default_factory=list)
    notes: list[str] = described("unchecked files, and what a proof lacks", default_factory=list)
    registry: RecordedState | None = described("the registry's record of it", default=None)
    KEYS: ClassVar[tuple[str, ...]] = (
        *("path", "verdict", "files", "record", "signature", "signed_with", "signer", "key_id"),
        *("problems", "notes", "registry"),
    )

    @property
    def path(self) -> Path:
        """The verified folder or file."""
        return self.hashed.path

    @property
    def verdict(self) -> Verdict:
        """`differs` if anything is wrong, `verified` if a key signed every file, else `unproven`."""
        if self.problems:
            return "differs"
        unknown = self.registry is not None and not (self.registry.recorded and self.registry.trusted)
        return "unproven" if self.signer is None or unknown else "verified"

    @property
    def files(self) -> int:
        """Number of files."""
        return len(self.hashed.files)


class FileLog(Protocol):
    """The recorded signatures of a registry: `registry.trust`."""

    def look_up(self, digest: str, *, lone: bool = False) -> RecordedFiles:
        """Return the record of a list of files."""


def signature_path(path: Path) -> Path:
    """Return the default path of the signature of a folder or file."""
    real = path.resolve()
    return real.with_name(f"{real.name}.sig")


def verify(
    path: Path,
    *,
    signature: Path | None = None,
    checkers: Sequence[KeyChecker] = (),
    progress: Progress | None = None,
) -> Verification:
    """Compare a folder or a file with its signature (default: `PATH.sig`) and its own list of files, without a registry."""
    place = _place_of(path, signature)
    result = examine(path, but=signature, progress=progress)
    judge(result, dsse.read_bytes(place) if place is not None else None, str(place), checkers)
    return result


def verify_on_record(
    registry: FileLog,
    path: Path,
    *,
    signature: Path | None = None,
    checkers: Sequence[KeyChecker] = (),
    digests: Mapping[str, Digest] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Verify files with a signature (default: `PATH.sig`, else the recorded ones) and keys (default: those that are trusted)."""
    place = _place_of(path, signature)
    result = examine(path, but=signature, digests=digests, progress=progress)
    if result.hashed.lone:
        (entry,) = result.hashed.files.values()
        recorded = registry.look_up(str(entry.sha256), lone=True)
    else:  # nothing has an empty digest
        manifest = result.hashed.manifest
        recorded = registry.look_up(str(manifest.digest) if manifest is not None else "")
    recorded_checkers = [KeyChecker.parse(key.name, key.public_key) for key in recorded.keys_]
    if place is not None:
        data: bytes | None = dsse.read_bytes(place)
    else:
        envelopes = [text.encode() for text in recorded.envelopes]
        signed = (text for text in envelopes if _signers(text, checkers or recorded_checkers))
        data = next(signed, None) or next(iter(envelopes), None)
    # A signature that names a trusted key and is not by it is a wrong one, and not a stranger's.
    asked = list(checkers) or ([] if data is None else _signers(data, recorded_checkers, named=True))
    judge(result, data, str(place or "registry"), asked)
    signer = next((key for key in recorded.keys_ if key.key_id == result.key_id), None)
    if signer is not None and signer.revoked:
        name, message = Path(result.signature or "").name, f"the key of {signer.name} was revoked"
        result.problems.append(FileProblem("revoked", name, message))
    result.registry = RecordedState(
        recorded=recorded.kind is not None,
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


def _place_of(path: Path, signature: Path | None) -> Path | None:
    default = signature_path(path)
    return signature or (default if default.is_file() else None)


def _signers(data: bytes, keys: Sequence[KeyChecker], *, named: bool = False) -> list[KeyChecker]:
    """Return the keys that a signature is by, and if `named` also the one that it names."""
    try:
        envelope = dsse.parse_envelope(data, "the signature")
    except dsse.BadSignatureError:
        return []
    return [key for key in keys if envelope.signed_by(key.key) or (named and envelope.hint == key.key_id)]


def examine(
    path: Path,
    *,
    but: Path | None = None,
    digests: Mapping[str, Digest] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Read a folder or a file and its claims; its signature is judged later."""
    hashed_files = hash_all(path, but=but, digests=digests or {}, progress=progress)
    return Verification(hashed_files, read_claim(hashed_files.path), problems=list(hashed_files.problems))


def judge(result: Verification, data: bytes | None, place: str, checkers: Sequence[KeyChecker]) -> None:
    """Compare files with a signature, if there is one, else with their own list."""
    statement, name = None, Path(place).name
    if data is not None:
        result.signature = place
        try:
            envelope = dsse.parse_envelope(data, name)
            result.signed_with = envelope.hint or None
            statement = dsse.read_statement(envelope)
            _find_signer(result, envelope, checkers, name)
        except dsse.BadSignatureError as error:
            result.problems.append(FileProblem("bad_signature", name, error.message))
    claim = result.record
    if claim is not None:
        result.problems += claim.problems
    if statement is not None and (result.hashed.lone or statement.lone):
        _compare_lone(result, statement)
    elif statement is not None:
        _compare(result, statement.files, listing="the signature")
    elif claim is not None and not result.hashed.lone and not claim.problems:
        _compare(result, claim.files, listing=claim.document, complete=claim.complete)
    if result.problems or result.signer is not None:
        return
    if statement is not None:
        made = f", made with the key {result.signed_with[:16]}," if result.signed_with else ""
        result.notes.append(f"the signature{made} was not checked: no public key was given")
        return
    result.notes.append("there is no signature, so nothing proves who made this")
    if claim is None:
        result.notes.append("there is no list of digests to compare it with either")


def _find_signer(
    result: Verification, envelope: dsse.Envelope, checkers: Sequence[KeyChecker], name: str
) -> None:
    signer = next((checker for checker in checkers if envelope.signed_by(checker.key)), None)
    if signer is not None:
        result.signer, result.key_id = signer.name, signer.key_id
    elif checkers:
        asked = " nor ".join(checker.name for checker in checkers)
        made = f"; it says that it was made with the key {envelope.hint[:16]}" if envelope.hint else ""
        message = f"the signature {name} was not made with {asked}{made}, or was changed"
        result.problems.append(FileProblem("wrong_key", name, message))


def _compare_lone(result: Verification, statement: dsse.Statement) -> None:
    name = result.hashed.path.name
    if not result.hashed.lone or not statement.lone:
        signed, here = ("a single file", "a folder") if statement.lone else ("a folder", "a single file")
        message = f"the signature is about {signed}, and this is {here}"
        result.problems.append(FileProblem("other", name, message))
    elif [entry.sha256 for entry in result.hashed.files.values()] != [statement.files[dsse.LONE]]:
        result.problems.append(FileProblem("changed", name, f"{name} is not the file that was signed"))


def _compare(
    result: Verification,
    listed: Mapping[str, FileEntry] | Mapping[str, str],
    *,
    listing: str,
    complete: bool = True,
) -> None:
    actual_entries = result.hashed.files
    problems = []
    for path, expected in sorted(listed.items()):
        here = actual_entries.get(path)
        if here is None:
            if not any(problem.path == path for problem in result.hashed.problems):
                problems.append(FileProblem("missing", path, f"{path} is missing, and {listing} lists it"))
        elif (here if isinstance(expected, FileEntry) else str(here.sha256)) != expected:
            problems.append(FileProblem("changed", path, f"{path} is not what {listing} lists"))
    document = result.record.document if result.record is not None else None
    unexpected = sorted(set(actual_entries) - set(listed) - ({document} if listing == document else set()))
    if complete:
        text = f"was added: {listing} does not list it"
        problems += [FileProblem("added", path, f"{path} {text}") for path in unexpected]
    elif unexpected:
        more = f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else ""
        result.notes.append(f"{listing} does not list {', '.join(unexpected[:5])}{more}")
    reported = {(problem.code, problem.path) for problem in result.problems}
    result.problems += [one for one in problems if (one.code, one.path) not in reported]
