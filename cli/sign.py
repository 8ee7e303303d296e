"""`fusery sign` and `fusery identify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.api.provenance import Provenance, Trust
from fusery.registry.parsing import plural

from .columns import record_table
from .command import command
from .options import LocalPath
from .session import Session
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.provenance.identified import Identified
    from fusery.registry.provenance.sign import Signed
    from fusery.registry.provenance.verify import KeyChecker, Verification
    from fusery.registry.records.trust import Signatures


PASSPHRASE = "FUSERY_KEY_PASSPHRASE"  # variable of the environment that holds the passphrase of a private key


def passphrase_from(file: Path | None) -> Callable[[], bytes]:
    """Return what gives a passphrase when one is asked for: a file, the environment, or the person at the terminal."""

    def give() -> bytes:
        passphrase = given_passphrase(file)
        if passphrase is not None:
            return passphrase
        if not sys.stdin.isatty():
            from fusery.registry.provenance.sign import no_passphrase

            return no_passphrase()
        return click.prompt("Passphrase of the key", hide_input=True, err=True).encode()

    return give


def given_passphrase(file: Path | None) -> bytes | None:
    """Return the passphrase in a file or in the environment."""
    if file is not None:
        from fusery.storage.failures import opened

        with opened(file) as content:
            return content.read(4096).rstrip(b"\r\n")
    value = os.environ.get(PASSPHRASE)
    return os.fsencode(value) if value else None


@command(
    "sign",
    Trust.sign,
    document="provenance.sign:Signed | records.trust:Signatures | provenance.anchor:WrittenAnchor",
    subject="[REF|PATH]",
    excludes=("listed", "log"),
    key="KEY.pem: Sign with this private key: P-256, P-384 or P-521.",
    output="-o --output FILE: Write the signature here; default for PATH: PATH.sig.",
    force=": Replace an existing FILE.",
    log=": Sign the position of the log, for `fusery audit --chain --anchor FILE`.",
    listed="--list: Only list the recorded signatures of REF.",
)
def sign(
    session: Session,
    subject: str | None = None,
    *,
    key: Path | None = None,
    passphrase_file: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    log: bool = False,
    listed: bool = False,
) -> None:
    """Sign an adapter, a fused model, a bundle or the log.

    The signature has the format of OpenSSF model-signing. PATH is the folder or file of a complete bundle. The registry
    records the signature; the signature of PATH is also written to PATH.sig.

    Keep a signed log position elsewhere: an audit then detects a log that was cut or rewritten since.

    Examples:
      fusery sign course_rec@latest --key anna.pem
      fusery sign --log --key anna.pem -o head.json
    """
    if log:
        if subject is not None:
            raise click.UsageError("--log takes --key, --passphrase-file and -o alone.")
        signatures, data = session.registry.trust.anchor(key, passphrase_from(passphrase_file))
        if output is None:
            click.echo(data.decode(), nl=False)
            return
        from fusery.registry.provenance.anchor import write_anchor

        written = write_anchor(signatures, data, output, force=force)
        signed = f"signed with the key {written.key_id}" if written.key_id else "not signed"
        text = f"Wrote {output}: entry {written.seq} of the log, {written.hash[:16]}, {signed}."
        session.emit(written, names=[str(output)], human=lambda: session.print(text))
        return
    if subject is None:
        raise click.UsageError("Missing argument 'REF|PATH'.")
    if listed:
        if key is not None:
            raise click.UsageError("--list signs nothing: leave out --key.")
        listing = session.registry.trust.signatures(subject)
        names = [row.key_id for row in listing.signatures]
        session.emit(listing, names=names, human=lambda: _print_signatures(session, listing, subject))
        return
    if key is None:
        raise click.UsageError("Missing option '--key'.")
    from fusery.registry.provenance.sign import SigningKey

    chosen = SigningKey(key, passphrase_from(passphrase_file))
    with session.progress("reading") as progress:
        made = session.registry.trust.sign(
            subject, chosen, output=output, force=force, reporter=session.reporter(progress)
        )
    session.emit(made, names=[str(made.path or made.key_id)], human=lambda: _print_signed(session, made))


def _print_signed(session: Session, made: Signed) -> None:
    what = f"{made.kind} {made.name}" if made.kind else made.name
    again = "was signed" if made.existed else "signed"
    session.print(f"{what}: {again} with the key {made.key_id[:64]}, {plural(made.files, 'file')}.")
    if made.path:
        session.print(f"The signature is in {made.path}.")
    if not made.recorded:
        session.print("Nothing of exactly these files is on record, so the registry does not keep it.")


def _print_signatures(session: Session, signatures: Signatures, reference: str) -> None:
    from fusery.registry.records.trust import RecordedSignature

    def signer(row: RecordedSignature) -> str:
        return f"{row.signer}, revoked" if row.revoked else cell(row.signer)

    columns = "key_id signer at:age by scheme at"
    session.print_table(record_table(RecordedSignature, signatures.signatures, columns, signer=signer))
    if not signatures.signatures:
        session.say(f"Not signed. Hint: fusery sign {reference} --key KEY.pem")


_OWN = ("README.md", "fusery.json", "curve.svg")  # files that bundles have beside a model
CODES = {"known": 0, "unknown": 1, "inconclusive": 3}


@command(
    "identify",
    Provenance.identify,
    document="provenance.identified:Identified | provenance.verify:Verification",
    path=("PATH", LocalPath()),
    verify=": Exit with 1 unless it is intact and signed by a trusted key. With --key, no registry is needed.",
    signature="FILE: Signature file; default: PATH.sig.",
    keys="--key KEY.pub...: Accept signatures of this key instead of the trusted keys; repeatable.",
)
def identify(
    session: Session,
    path: str,
    *,
    verify: bool = False,
    signature: str | None = None,
    keys: tuple[str, ...] = (),
) -> int:
    """Show what a file is, whether it is intact, and who signed it.

    PATH is a file or a folder; it may be renamed, split, converted or without its metadata. Exit codes: 0 known, 1
    unknown, 3 unknown, but a record could not be compared.

    Examples:
      fusery identify somebody.safetensors
      fusery identify model --verify --key anna.pub
    """
    from fusery.registry.provenance.verify import KeyChecker

    place = None if signature is None else Path(signature)
    checkers = [KeyChecker.of(Path(key)) for key in keys]
    if verify:
        return _verify(session, Path(path), place, checkers)
    with session.progress("identifying") as progress:
        identification = session.registry.provenance.identify(
            path, signature=place, checkers=checkers, reporter=session.reporter(progress)
        )
    names = [f"{match.kind}:{match.name}" for match in identification.matches]
    session.emit(identification, names=names, human=lambda: _print(session, identification))
    return CODES[identification.verdict]


def _verify(session: Session, path: Path, place: Path | None, checkers: Sequence[KeyChecker]) -> int:
    from fusery.registry.provenance import verify

    with session.progress("reading") as progress:
        if checkers:
            result = verify.verify(path, signature=place, checkers=checkers, progress=progress)
        else:
            result = session.registry.trust.verify(path, signature=place, reporter=session.reporter(progress))
    names = [problem.path for problem in result.problems]
    session.emit(result, names=names, human=lambda: _print_verified(session, result))
    return 0 if result.verdict == "verified" else 1


def _print_verified(session: Session, result: Verification) -> None:
    claim = result.record
    if claim is not None and claim.name:
        target = f" {claim.target}" if claim.target else ""
        session.print(f"{result.path.name} says that it is the {claim.kind}{target} {claim.name}.")
    for problem in result.problems:
        session.print(f"  {problem.code}: {problem.message}")
    for note in result.notes:
        session.print(f"  note: {note}")
    if result.verdict == "verified":
        session.print(f"Verified: {plural(result.files, 'file')}, signed with {result.signer}.")
    elif result.verdict == "differs":
        session.print(f"Not verified: {plural(len(result.problems), 'problem')}.")
    else:
        session.print(f"Not verified: {plural(result.files, 'file')} intact, not signed by a trusted key.")


def _print(session: Session, identification: Identified) -> None:
    for match in identification.matches:
        place = "" if match.path == "." else f"{cell(match.path)}: "
        session.print(f"{place}{cell(match.sentence)}")
        session.print(f"  by its {match.evidence}, {match.confidence:.0%}; digest {match.digest[:12]}")
        for withdrawal in match.get("withdrawals", ()):
            session.print(f"  {cell(withdrawal['summary'])}")
        for key in ("changed", "missing", "extra"):
            names = [name for name in match.files.get(key, ()) if name not in _OWN]
            # Weights that were saved again have the same tensors.
            if names and (key == "changed" or match.evidence == "files"):
                session.print(f"  files {key}: {', '.join(cell(name) for name in names[:10])}")
    if not identification.matches:
        session.print("unknown: nothing on record has these files, tensors or numbers")
    for claim in identification.claims:
        word = {True: "true", False: "FALSE", None: "not proven"}[claim.true]
        name = cell(claim.name or claim.digest[:12])
        session.print(f"{cell(claim.source)} says {claim.kind} {name}: {word}, {cell(claim.reason)}")
    for problem in identification.problems:
        session.print(f"not read: {cell(problem)}")
    if identification.verdict != "known":
        for row in identification.unread:
            session.print(f"not compared with {cell(row.name)}: {cell(row.reason)}")
    result = identification.verification
    for verification_problem in result.problems if result is not None else ():
        session.print(f"{verification_problem.code}: {cell(verification_problem.message)}")
    if identification.matches or result is not None:
        intact = "yes" if identification.intact else "no"
        if not (identification.intact or identification.matches or result is None or result.problems):
            intact = "unknown" if result.record is None else f"as {cell(result.record.document)} lists"
        session.print(f"intact: {intact}")
        session.print(f"signed: {cell(_signer(result))}")


def _signer(result: Verification | None) -> str:
    if result is None or result.signature is None:
        return "no"
    if result.problems:
        return "not proven"
    if result.signer is None:
        return f"by an untrusted key, {(result.signed_with or '')[:16]}".rstrip(", ")
    trusted = result.registry is not None and result.registry.trusted
    return f"by {result.signer}, {'a' if trusted else 'not a'} trusted key"
