"""`fusery attest`: how something was made, as auditors' tools read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import LocalPath, Session, command
from .trust import passphrase_from, passphrase_option

if TYPE_CHECKING:
    from fusery.registry.provenance.attest import Attestation


@command("attest")
@click.argument("reference", metavar="REF|FUSED|BUNDLE")
@click.option(
    "--format",
    "form",
    type=click.Choice(["slsa", "cyclonedx"]),
    default="slsa",
    show_default=True,
    help="SLSA provenance in an in-toto statement, or a CycloneDX 1.6 bill of materials.",
)
@click.option("-o", "--output", type=LocalPath(path_type=Path), metavar="FILE", help="Write it to a file.")
@click.option("--force", is_flag=True, help="With -o: replace the file.")
@click.option(
    "--key",
    type=LocalPath(path_type=Path),
    metavar="KEY.pem",
    help="Sign it with this private key, in a DSSE envelope.",
)
@passphrase_option
def attest_command(
    session: Session,
    reference: str,
    form: Attestation,
    output: Path | None,
    force: bool,
    key: Path | None,
    passphrase_file: Path | None,
) -> None:
    """Write how something was made, for auditors.

    The form is SLSA provenance, or a CycloneDX bill of materials.  It names each file that came out and each that went
    in by its SHA-256.  An adapter is told of as it was registered, a fused model by its recipe, a bundle with all that
    is in it.  The same record gives the same bytes, unless signed.
    """
    if force and output is None:
        raise click.UsageError("--force goes with -o.")
    if passphrase_file is not None and key is None:
        raise click.UsageError("--passphrase-file goes with --key.")
    made = session.registry.provenance.attest(
        reference, form=form, key=key, passphrase=passphrase_from(passphrase_file)
    )
    text = made.data.decode("ascii")
    if output is not None:
        from .written import write_document

        write_document(session, output, text, form=form, force=force)
        return
    session.emit(made.document, names=[made.digest], human=lambda: click.echo(text, nl=False))
