"""`fusery attest`: how something was made, as auditors' tools read it."""

from __future__ import annotations

from pathlib import Path

import click

from .session import Session, command


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
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it to a file.")
@click.option("--force", is_flag=True, help="With -o: replace the file.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="KEY.pem",
    help="Sign it with this private key, in a DSSE envelope.",
)
def attest_command(
    session: Session, reference: str, form: str, output: Path | None, force: bool, key: Path | None
) -> None:
    """Write how something was made, for auditors: SLSA provenance, or a CycloneDX bill of materials.

    It names each file that came out and each that went in by its SHA-256.  An adapter is told of as it was registered, a
    fused model by its recipe, a bundle with all that is in it.  The same record gives the same bytes, unless signed.
    """
    if force and output is None:
        raise click.UsageError("--force goes with -o.")
    made = session.registry.attest(reference, form=form, key=key, passphrase=_passphrase)
    text = made.data.decode("ascii")
    if output is not None:
        from .written import write_document

        write_document(session, output, text, form=form, force=force)
        return
    session.emit(made.document, names=[made.digest], human=lambda: click.echo(text, nl=False))


def _passphrase() -> bytes:
    """Ask for the passphrase of a key; nothing of it is shown or kept."""
    return str(click.prompt("Passphrase of the key", hide_input=True, err=True)).encode()
