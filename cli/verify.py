"""`fusery verify`: is what lies here what somebody signed?  Works on a machine without a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.parsing import plural

from .session import LocalPath, Session, command

if TYPE_CHECKING:
    from fusery.registry.signing.checking import Checker
    from fusery.registry.signing.verify import Verification

_FILE = LocalPath(path_type=Path)
_CODES = {"verified": 0, "differs": 1, "unproven": 3}


@command("verify")
@click.argument("path", metavar="PATH", type=_FILE)
@click.option(
    "--signature", type=_FILE, metavar="FILE", help="The signature; default: PATH.sig, if it is there."
)
@click.option(
    "--key",
    "keys",
    type=_FILE,
    multiple=True,
    metavar="KEY.pub",
    help="Who may have signed; may be given again.",
)
@click.option(
    "--certificate",
    "roots",
    type=_FILE,
    multiple=True,
    metavar="CA.pem",
    help="Who may vouch for the signer's certificate; may be given again.",
)
@click.option("--identity", metavar="WHO", help="With Sigstore, which needs a network: who may have signed.")
@click.option("--issuer", metavar="URL", help="With --identity: the provider that knows them.")
@click.option(
    "--registry", is_flag=True, help="Ask this machine's registry, too: is it on record, who is trusted?"
)
def verify_command(
    session: Session,
    path: Path,
    signature: Path | None,
    keys: tuple[Path, ...],
    roots: tuple[Path, ...],
    identity: str | None,
    issuer: str | None,
    registry: bool,
) -> int:
    """Check a bundle, a folder or a file against its signature.

    A bundle, an exported adapter or a file is checked; no registry is needed.  Every file is read, hidden ones too, and
    what was changed, is missing or was added is named.  Exit code 0: a key vouches for all of it; 1: something differs,
    or the signature is wrong; 3: nothing differs from what the bundle says of itself, and nothing proves who made it.
    """
    if (identity is None) != (issuer is None):
        raise click.UsageError("--identity and --issuer go together.")
    from fusery.registry.signing.checking import CertificateChecker, KeyChecker, SigstoreChecker
    from fusery.registry.signing.verify import verify

    checkers: list[Checker] = [KeyChecker.of(key) for key in keys]
    if roots:
        checkers.append(CertificateChecker.of(roots))
    if identity and issuer:
        checkers.append(SigstoreChecker(identity, issuer))
    with session.progress("reading") as told:
        if registry:
            result = session.registry.trust.verify(
                path, signature=signature, checkers=checkers, reporter=session.reporter(told)
            )
        else:
            result = verify(path, signature=signature, checkers=checkers, progress=told)
    names = [problem.path for problem in result.problems]
    session.emit(result, names=names, human=lambda: _print(session, result))
    return _CODES[result.verdict]


def _print(session: Session, result: Verification) -> None:
    claim = result.claim
    if claim is not None and claim.name:
        target = f" {claim.target}" if claim.target else ""
        session.print(f"{result.path.name} says that it is the {claim.kind}{target} {claim.name}.")
    for problem in result.problems:
        session.print(f"  {problem.code}: {problem.message}")
    files = plural(result.files, "file")
    if result.unsigned:
        shown = ", ".join(result.unsigned[:5]) + (" …" if len(result.unsigned) > 5 else "")
        session.print(
            f"  signed by {result.signer or 'a key that was not given'} is only a part, not: {shown}"
        )
    for note in result.notes:
        session.print(f"  note: {note}")
    if result.verdict == "verified":
        session.print(f"Verified: {files}, signed with {result.signer}.")
    elif result.verdict == "differs":
        problems = len(result.problems)
        session.print(f"Not verified: {plural(problems, 'problem')}.")
    else:
        session.print(f"Nothing wrong was found in {files}, and nothing proves who made all of them.")
