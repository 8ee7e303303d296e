"""Verify a bundle, an adapter's folder or a file against its signature and its own claims, without a registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fusery.storage.manifest import FileEntry

from ..dsse import (
    LONE,
    BadSignatureError,
    Envelope,
    Statement,
    key_id,
    parse_envelope,
    parse_public_key,
    read_bytes,
    read_public_key,
    read_statement,
)
from ..record import Record, described
from .signed_claim import FileProblem, HashedFiles, Progress, SignedClaim, look, read_claim

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class KeyChecker:
    """A public key that may have signed."""

    name: str
    key: EllipticCurvePublicKey

    @classmethod
    def of(cls, path: Path) -> KeyChecker:
        """Read a key, or the key of a certificate, from a file."""
        return cls(path.name, read_public_key(path))

    @classmethod
    def parse(cls, name: str, pem: str) -> KeyChecker:
        """Read a key from a text."""
        return cls(name, parse_public_key(pem.encode(), name))

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return key_id(self.key)


SUFFIX = ".sig"
"""What a signature is called that lies beside what it is about: `bundle.sig` for the folder `bundle`."""
Verdict = Literal["verified", "differs", "unproven"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedState(Record):
    """What the registry knows of verified files."""

    known: bool = described("exactly these files are on record")
    kind: str | None = described("as what: `adapter`, `fused` or `bundle`")
    name: str | None = described("its kind in the log")
    digest: str | None = described(
        "digest of the files; None where something among them has no place in a list of files"
    )
    trusted: bool = described("the registry trusts the key of the signature")
    signer: str | None = described("name of the key, even if it was revoked")
    aliases: tuple[str, ...] = described("the patterns of those that it counts for")


@dataclass(slots=True)
class Verification(Record):
    """The result of verifying what is at a path.

    Attributes:
        record: its own claims, if it has any.
        signature: where the signature was found: a path, or `registry`.
        signed_with: the key that the signature names.
        signer: whose key it verifies with: the name of a file or of a trusted key; None for nobody's.
        key_id: of that key.
        problems: the differences.
        notes: what was not checked, and what is missing for a proof.
        unsigned: files that a signature of the model or the adapter within does not cover.
        registry: what the registry has recorded about it, if one was asked.
    """

    found: HashedFiles = described("its files")
    record: SignedClaim | None = None
    signature: str | None = None
    signed_with: str | None = None
    signer: str | None = None
    key_id: str | None = None
    problems: list[FileProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unsigned: tuple[str, ...] = ()
    registry: RecordedState | None = None
    KEYS: ClassVar[tuple[str, ...]] = (
        "path",
        "verdict",
        "files",
        "record",
        "signature",
        "signed_with",
        "signer",
        "key_id",
        "problems",
        "unsigned",
        "notes",
        "registry",
    )

    @property
    def path(self) -> Path:
        """What was looked at."""
        return self.found.path

    @property
    def verdict(self) -> Verdict:
        """`differs` if anything is wrong, `verified` if a key vouches for every file, else `unproven`.

        A bundle whose model alone is signed is not verified: anybody could have put a script beside the model.
        """
        if self.problems:
            return "differs"
        unknown = self.registry is not None and not (self.registry.known and self.registry.trusted)
        return "unproven" if self.signer is None or self.unsigned or unknown else "verified"

    @property
    def files(self) -> int:
        """How many files were looked at."""
        return len(self.found.files)


def verify(
    path: Path,
    *,
    signature: Path | None = None,
    checkers: Sequence[KeyChecker] = (),
    progress: Progress | None = None,
) -> Verification:
    """Compare a folder or a file with its signature and its own claims.

    Args:
        signature: by default `PATH.sig`, if it exists.
        checkers: who may have signed; without any, a signature shows changes, and not who made it.
    """
    beside = beside_of(path)
    place = signature or (beside if beside.is_file() else None)
    result = examine(path, but=signature, progress=progress)
    judge(result, read_bytes(place) if place is not None else None, str(place), checkers)
    return result


def beside_of(path: Path) -> Path:
    """Return the default path of the signature of a folder or file."""
    real = path.resolve()
    return real.with_name(real.name + SUFFIX)


def examine(path: Path, *, but: Path | None = None, progress: Progress | None = None) -> Verification:
    """Read what is at a path, and nothing about signatures yet."""
    found = look(path, but=but, progress=progress)
    return Verification(found, read_claim(found.path), problems=list(found.problems))


def judge(result: Verification, data: bytes | None, place: str, checkers: Sequence[KeyChecker]) -> None:
    """Hold what was found against a signature, if there is one, and against what it says of itself."""
    statement, name = None, Path(place).name
    if data is not None:
        result.signature = place
        try:
            envelope = parse_envelope(data, name)
            result.signed_with = envelope.hint or None
            statement = read_statement(envelope)
            _find_signer(result, envelope, checkers, name)
        except BadSignatureError as error:
            result.problems.append(FileProblem("bad_signature", name, error.message))
    claim = result.record
    if claim is not None:
        result.problems += claim.problems
    if statement is not None:
        _compare_signed(result, statement)
    elif claim is not None and not result.found.lone and not claim.problems:
        _compare(result, dict(claim.files), listing=claim.document, complete=claim.complete)
    _note_what_is_missing(result, statement)


def _find_signer(result: Verification, envelope: Envelope, checkers: Sequence[KeyChecker], name: str) -> None:
    for checker in checkers:
        if envelope.signed_by(checker.key):
            result.signer, result.key_id = checker.name, checker.key_id
            return
    if checkers:
        asked = " nor ".join(checker.name for checker in checkers)
        made = f"; it says that it was made with the key {envelope.hint[:16]}" if envelope.hint else ""
        result.problems.append(
            FileProblem(
                "wrong_key", name, f"the signature {name} was not made with {asked}{made}, or was changed"
            )
        )


def _compare_signed(result: Verification, statement: Statement) -> None:
    """Compare with the signed list; one of the model or adapter inside a bundle leaves the rest to the bundle's record."""
    found, claim = result.found, result.record
    if found.lone or statement.lone:
        _compare_lone(result, statement)
        return
    signed = dict(statement.files)
    if claim is None or (part := _part(claim, signed)) is None:
        _compare(result, signed, listing="the signature", complete=True)
        return
    prefix, _ = part
    covered = {prefix + path for path in signed} - {claim.document}
    _compare(result, dict(claim.files), listing=claim.document, complete=claim.complete)
    digests = {prefix + path: digest for path, digest in signed.items() if prefix + path in covered}
    _compare(result, digests, listing="the signature", complete=False, quiet=True)
    result.unsigned = tuple(sorted(set(found.files) - covered))


def _part(claim: SignedClaim, signed: dict[str, str]) -> tuple[str, dict[str, str]] | None:
    """Return the part of a bundle that a signature is about, where that is not all of it."""
    if not claim.files or {*claim.files, claim.document} == set(signed):
        return None
    return next(((prefix, files) for prefix, files in claim.parts if files == signed), None)


def _compare_lone(result: Verification, statement: Statement) -> None:
    files = list(result.found.files.values())
    if not result.found.lone or not statement.lone:
        what = "a single file" if statement.lone else "a folder"
        here = "a single file" if result.found.lone else "a folder"
        result.problems.append(
            FileProblem("other", result.found.path.name, f"the signature is about {what}, and this is {here}")
        )
    elif [entry.sha256 for entry in files] != [statement.files[LONE]]:
        name = result.found.path.name
        result.problems.append(FileProblem("changed", name, f"{name} is not the file that was signed"))


def _compare(
    result: Verification,
    listed: dict[str, Any],
    *,
    listing: str,
    complete: bool,
    quiet: bool = False,
) -> None:
    """Name every file that differs from a list: of entries, or of digests."""
    found = result.found.files
    known = {(problem.code, problem.path) for problem in result.problems}
    problems = []
    for path, expected in sorted(listed.items()):
        here = found.get(path)
        if here is None:
            if not any(problem.path == path for problem in result.found.problems):
                problems.append(FileProblem("missing", path, f"{path} is missing, and {listing} lists it"))
        elif (here if isinstance(expected, FileEntry) else str(here.sha256)) != expected:
            problems.append(FileProblem("changed", path, f"{path} is not what {listing} lists"))
    claim = result.record
    document = claim.document if claim is not None and listing == claim.document else None
    unexpected = sorted(set(found) - set(listed) - {document})
    if complete:
        problems += [
            FileProblem("added", path, f"{path} was added: {listing} does not list it") for path in unexpected
        ]
    elif unexpected and not quiet:
        result.notes.append(
            f"{listing} does not list {', '.join(unexpected[:5])}"
            + (f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else "")
        )
    result.problems += [problem for problem in problems if (problem.code, problem.path) not in known]


def _note_what_is_missing(result: Verification, statement: Statement | None) -> None:
    if result.problems or result.signer is not None:
        return
    if statement is None:
        result.notes.append("there is no signature, so nothing proves who made this")
        if result.record is None or result.record.kind == "gguf":
            result.notes.append("there is no list of digests to compare it with either")
    else:
        made = f", made with the key {result.signed_with[:16]}," if result.signed_with else ""
        result.notes.append(f"the signature{made} was not checked: no public key was given")
