"""`fusery sign` and `signature`: signatures over models and over the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.parsing import plural

from .columns import record_table
from .groups import Group
from .session import LocalPath, Session, command
from .text import cell
from .trust import passphrase_from, passphrase_option

if TYPE_CHECKING:
    from fusery.registry.records.signature import RecordedSignature

_FILE = LocalPath(path_type=Path)
_FORCE = click.option("--force", is_flag=True, help="Replace FILE, whatever it is.")


@command("sign")
@click.argument("subject", metavar="REF|PATH")
@click.option(
    "--key", type=_FILE, metavar="KEY.pem", help="Sign with this private key: P-256, P-384 or P-521."
)
@passphrase_option
@click.option(
    "--certificate", type=_FILE, metavar="CERT.pem", help="Put the key's certificate into the signature."
)
@click.option(
    "--chain",
    type=_FILE,
    multiple=True,
    metavar="CERT.pem",
    help="And who vouches for it; may be given again.",
)
@click.option("--sigstore", is_flag=True, help="Sign as yourself by way of Sigstore, which needs a network.")
@click.option(
    "--identity-token-file", type=_FILE, metavar="FILE", help="With --sigstore: a token instead of a browser."
)
@click.option(
    "-o", "--output", type=_FILE, metavar="FILE", help="Write the signature here; default for PATH: PATH.sig."
)
@_FORCE
def sign_command(
    session: Session,
    subject: str,
    key: Path | None,
    passphrase_file: Path | None,
    certificate: Path | None,
    chain: tuple[Path, ...],
    sigstore: bool,
    identity_token_file: Path | None,
    output: Path | None,
    force: bool,
) -> None:
    """Sign an adapter, a fused model or a bundle.

    It is signed as OpenSSF model-signing does.  REF is an adapter, a fused model by key or digest, or a bundle by
    digest or place; it is signed as it is on record.  PATH is a bundle's folder or file, which is read and must be
    whole.  The signature goes on record, and for a PATH into PATH.sig beside it.
    """
    if (key is None) != sigstore:
        raise click.UsageError("Give --key KEY.pem or --sigstore.")
    if (certificate is not None or chain) and key is None:
        raise click.UsageError("--certificate and --chain go with --key.")
    if chain and certificate is None:
        raise click.UsageError("--chain goes with --certificate.")
    if identity_token_file is not None and not sigstore:
        raise click.UsageError("--identity-token-file goes with --sigstore.")
    from fusery.registry.signing.sign import SigningKey

    token = identity_token_file.read_text(encoding="utf-8").strip() if identity_token_file else None
    chosen = SigningKey(key, passphrase_from(passphrase_file), certificate, chain, token)
    with session.progress("reading") as told:
        made = session.registry.trust.sign(
            subject, chosen, output=output, force=force, reporter=session.reporter(told)
        )

    def human() -> None:
        what = f"{made.subject.kind} {made.subject.name}" if made.subject.kind else made.subject.name
        again = "was signed" if made.existed else "signed"
        session.print(f"{what}: {again} with the key {made.key_id[:64]}, {plural(made.files, 'file')}.")
        if made.output:
            session.print(f"The signature is in {made.output}.")
        if not made.recorded:
            session.print("Nothing of exactly these files is on record, so the registry does not keep it.")

    session.emit(made, names=[str(made.output or made.key_id)], human=human)


@click.group("signature", cls=Group)
def signature_command() -> None:
    """List and write out signatures; anchor the log."""


@command("list", table=True)
@click.argument("reference", metavar="REF")
def list_command(session: Session, reference: str) -> None:
    """List the signatures over an adapter, a fused model or a bundle."""
    found = session.registry.trust.signatures(reference)

    def human() -> None:
        from fusery.registry.records.signature import RecordedSignature

        columns = "key_id signer at:age by scheme at"
        session.print_table(record_table(RecordedSignature, found.signatures, columns, signer=_signer))
        if not found.signatures:
            session.say(f"There is none. Hint: fusery sign {reference} --key KEY.pem")

    session.emit(found, names=[row.key_id for row in found.signatures], human=human)


def _signer(row: RecordedSignature) -> str:
    return f"{row.signer}, revoked" if row.revoked else cell(row.signer)


@command("export")
@click.argument("reference", metavar="REF")
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="Write it here.")
@click.option("--by", metavar="KEY", help="Whose: a trusted key's name, or the beginning of a key's id.")
@_FORCE
def export_command(session: Session, reference: str, output: Path, by: str | None, force: bool) -> None:
    """Write a signature on record to a file.

    model-signing and `fusery verify` read it.
    """
    written = session.registry.trust.export_signature(reference, output, by=by, force=force)
    session.emit(
        written,
        names=[str(written.path)],
        human=lambda: session.print(f"Wrote {written.path}: {written.kind} {written.name}."),
    )


@command("anchor")
@click.option("--key", type=_FILE, metavar="KEY.pem", help="Sign it with this private key.")
@passphrase_option
@click.option("-o", "--output", type=_FILE, metavar="FILE", help="Write it to a file instead of to stdout.")
@_FORCE
def anchor_command(
    session: Session, key: Path | None, passphrase_file: Path | None, output: Path | None, force: bool
) -> None:
    """Write down where the log stands, signed.

    Keep it elsewhere, and audit the log against it.  `fusery audit --chain --anchor FILE` finds a log that was cut off
    or written anew since then.
    """
    anchor, data = session.registry.trust.anchor(key, passphrase_from(passphrase_file))
    if output is None:
        click.echo(data.decode(), nl=False)
        return
    from fusery.registry.signing.anchor import write_anchor

    written = write_anchor(anchor, data, output, force=force)

    def human() -> None:
        signed = f", signed with the key {written.key_id}" if written.key_id else ", not signed"
        session.print(f"Wrote {output}: entry {written.seq} of the log, {written.hash[:16]}{signed}.")

    session.emit(written, names=[str(output)], human=human)


for _command in (list_command, export_command, anchor_command):
    signature_command.add_command(_command)
