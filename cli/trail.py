"""`fusery lineage`, `log` and `deploy`: inputs and outputs of records, who did what, and where things run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fusery.registry.api.aliases import Deployments
from fusery.registry.api.upkeep import Upkeep
from fusery.registry.errors import UnknownReferenceError
from fusery.registry.parsing import plural
from fusery.registry.record import Record, described

from . import graphs
from .columns import HISTORY, print_adapters, record_table
from .command import command, listing, prints
from .session import Session
from .sign import passphrase_from
from .text import cell, when

if TYPE_CHECKING:
    from fusery.registry.records.event import Event
    from fusery.registry.records.release import Deployed, Deployment


_Form = Literal["tree", "json", "mermaid", "dot", "svg", "slsa", "cyclonedx"]
_ENDINGS = {".json": "json", ".mmd": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg"}


class WrittenDocument(Record):
    """A written document."""

    path: Path = described("path of the file")
    format: str = described("format of the document")
    bytes: int = described("size of the file in bytes")


def write_document(session: Session, place: Path, text: str, *, form: str, force: bool) -> None:
    """Write a file, whole or not at all, and say so; the very same file is left as it is."""
    from fusery.registry.documents import write_picture

    size = len(data := text.encode())
    write_picture(place, data, force=force)
    written = WrittenDocument(path=place, format=form, bytes=size)
    text = f"Wrote {place}: {form}, {plural(size, 'byte')}."
    session.emit(written, names=[str(place)], human=lambda: session.print(text))


@command(
    "lineage",
    document="records.graph:Graph | .trail:WrittenDocument | another's format",
    needs={"force": "output", "passphrase_file": "key"},
    up=": Show only inputs.",
    down=": Show only outputs, with aliases and deployments.",
    form="--format: Output format; default: tree, or by FILE's suffix.  slsa: SLSA provenance in an in-toto statement; "
    "cyclonedx: a CycloneDX 1.6 bill of materials.",
    key="KEY.pem: With slsa or cyclonedx: sign with this private key (DSSE).",
    complete=": Show all records, not only 100 of each kind.",
)
def lineage(
    session: Session,
    reference: str,
    *,
    up: bool = False,
    down: bool = False,
    form: _Form | None = None,
    complete: bool = False,
    output: Path | None = None,
    force: bool = False,
    key: Path | None = None,
    passphrase_file: Path | None = None,
) -> None:
    """Show the inputs and the outputs of a record.

    REF is an adapter, a base model, a fused model, a bundle or dataset:NAME. Inputs are what REF was made from, outputs
    what was made from it. The nearest and newest 100 of each kind are shown.

    Examples:
      fusery lineage course_rec@2
      fusery lineage dataset:courses --down
      fusery lineage model --format slsa -o model.slsa.json
    """
    from fusery.registry.provenance.trace import LIMIT

    if form in ("slsa", "cyclonedx"):
        if up or down or complete:
            raise click.UsageError(f"--format {form} takes neither --up, --down nor --complete.")
        passphrase = passphrase_from(passphrase_file)
        made = session.registry.provenance.attest(reference, form=form, key=key, passphrase=passphrase)
        text = made.data.decode("ascii")
        if output is not None:
            write_document(session, output, text, form=form, force=force)
        else:
            session.emit(made.document, names=[made.digest], human=lambda: click.echo(text, nl=False))
        return
    if key is not None:
        raise click.UsageError("--key goes with --format slsa or cyclonedx.")
    if output and not form and output.suffix.lower() in (".png", ".jpg", ".jpeg", ".pdf"):
        raise click.UsageError(f"Cannot draw a {output.suffix}.\nHint: choose .svg, .mmd, .dot or .json")
    chosen = form or (_ENDINGS.get(output.suffix.lower(), "tree") if output else "tree")
    session.json = session.json or (chosen == "json" and output is None)
    graph = session.registry.provenance.lineage(
        reference, up=up or not down, down=down or not up, limit=None if complete else LIMIT
    )
    if output is not None:
        write_document(session, output, graphs.written(graph, chosen), form=chosen, force=force)
    else:
        names = [node.id for node in graph.nodes]
        session.emit(graph, names=names, human=lambda: click.echo(graphs.written(graph, chosen), nl=False))
    if graph.more and not session.json and (chosen != "tree" or session.quiet):
        click.echo(f"Note: {graph.more}: --complete shows all", err=True)


@command(
    "log",
    Upkeep.log,
    document="[records.event:Event] | [records.adapter:Version]",
    verbose="Also show the formats that `fuse --as auto` tried and did not take.",
    reference="[REF|TASK|ALIAS]",
)
def log(session: Session, reference: str | None = None, *, follow: bool = False, **filters: Any) -> None:
    """Show the log of the registry, a task, an adapter or an alias.

    For a task, show its versions and their validation losses; otherwise show who did what, when and why. With --follow,
    --json prints one document per line.

    Example: fusery log course_rec#prod --since 7d
    """
    plain = not follow and not any(value is not None for value in filters.values())
    if reference is not None and plain and not set(reference) & {"#", "@"}:
        with suppress(UnknownReferenceError):
            versions = session.registry.adapters.history(reference)
            names = [version.name for version in versions]
            session.emit(versions, names=names, human=lambda: print_adapters(session, versions, HISTORY))
            return
    if follow:
        with suppress(KeyboardInterrupt):  # the usual end, and no failure
            for entry in session.registry.upkeep.follow(reference=reference, **filters):
                if session.json:
                    session.document(entry, indent=None)
                else:
                    session.print(entry.hash if session.quiet else _line(entry))
        return
    entries = session.registry.upkeep.log(reference=reference, **filters)

    def human() -> None:
        from fusery.registry.records.event import Event

        columns = "seq at:age actor action name summary at"
        is_whole = session.verbose or filters.get("action") is not None
        shown = [entry for entry in entries if is_whole or entry.action != "fuse.tried"]
        session.print_table(record_table(Event, shown, columns, name=_subject))
        if len(shown) < len(entries):
            session.say(f"{len(entries) - len(shown)} entries of formats that `auto` tried are not shown: -v")

    session.emit(entries, names=[entry.hash for entry in entries], human=human)


def _subject(entry: Event) -> str:
    """Return what an entry is about: its name, with the beginning of its digest if that is what the log has."""
    if entry.name == entry.subject:
        return cell(entry.name)
    return cell(" ".join([*([entry.name] if entry.name else []), entry.subject[:12]]))


def _line(entry: Event) -> str:
    words = [when(entry.at), str(entry.seq), cell(entry.actor), entry.action, _subject(entry)]
    return "  ".join([*words, *([cell(entry.summary)] if entry.summary else [])])


_REF = "REF|BUNDLE"


@prints("deploy record", Deployments.record, names="id", without=("restart_reason",), reference=_REF)
def record(session: Session, made: Deployed) -> None:
    """Record that an adapter, fused model or bundle runs at a place.

    BUNDLE is the bundle's path or digest. PLACE is a name of your choice. Use this command if another pipeline deploys.

    Example: fusery deploy record model eu/ranker --note "rollout 7"
    """
    already = "" if made.changed else " already"
    session.print(f"{cell(made.place)} runs {_what(made)}{already}, since {made['at']}.")
    for ended in made.ended:
        session.print(f"  it no longer runs {_what(ended)}")
    session.warn(made)


@prints("deploy end", Deployments.end, names="id", places="PLACE...", reference=f"--ref {_REF}")
def end(session: Session, ended: list[Deployment]) -> None:
    """Record the end of deployments at a place."""
    for deployment in ended:
        session.print(f"{cell(deployment.place)} no longer runs {_what(deployment)}.")
    if not ended:
        session.say("Nothing runs there any more already.")


def _what(deployment: Deployment) -> str:
    return cell(f"{deployment.kind} {deployment.name}")


listing(
    "deploy list",
    Deployments.list,
    "List deployments, now or at a date.",
    "place name withdrawals at:age by ended_at note digest at",
    none="No deployment found. Hint: fusery alias list shows what aliases hold; fusery deploy record REF PLACE",
    cells={"name": _what},
    names="place",
    excludes=("at", "every"),
    without=("limit",),
    reference=f"--ref {_REF}",
)
