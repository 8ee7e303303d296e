"""`fusery base`: the models that adapters are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .calibrate import calibrate_command
from .columns import record_facts, record_table
from .findings import print_findings
from .groups import Group
from .session import Session, command
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.records.base import Base


@click.group("base", cls=Group)
def base_command() -> None:
    """Add, list, show and calibrate base models."""


@command("add")
@click.argument("source")
@click.option("--name", metavar="NAME", help="What to call it; default: what the source is called.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
@click.option("--reference", is_flag=True, help="Record the files where they lie instead of copying them.")
def add(session: Session, source: str, name: str | None, revision: str | None, reference: bool) -> None:
    """Take in a base model.

    SOURCE is a folder in MLX or Hugging Face layout, a GGUF file, or a hub id such as org/name.
    """
    with session.progress("reading" if reference else "copying") as progress:
        added = session.registry.bases.add(
            source, name=name, revision=revision, reference=reference, reporter=session.reporter(progress)
        )

    def human() -> None:
        session.print(f"{'Added' if added.created else 'Already there'}: {added.name}")
        if added.same_as is not None:
            called = cell(added.names[-1])
            session.print(f"The same model in other files: {called} is a further name of {added.same_as}.")
        _facts(session, added)
        print_findings(session, added.findings)

    session.emit(added, names=[added.name], human=human)


@command("list", table=True)
def list_(session: Session) -> None:
    """List base models."""
    bases = session.registry.bases.list()

    def human() -> None:
        from fusery.registry.records.base import Base

        columns = "name model_type parameters bytes dtype quantization created_at:age created_by digest"
        session.print_table(record_table(Base, bases, columns, quantization=_bits))

    session.emit(bases, names=[base["name"] for base in bases], human=human)


@command("show")
@click.argument("name")
def show(session: Session, name: str) -> None:
    """Show one base model, its calibrations and the adapters on it."""
    view = session.registry.bases.show(name)

    def human() -> None:
        _facts(session, view)
        for made in view["calibrations"]:
            session.print(
                f"  calibrated {made['digest'][:12]} on {cell(made['prompts'])}, {plural(made['tokens'], 'token')}"
                + (f", for the adapter {made['adapter'][:12]}" if made["adapter"] else "")
            )
        for file in view["files"]:
            session.print(f"  {file['sha256'][:12]}  {size(file['size']):>12}  {file['path']}")

    session.emit(view, names=[view["name"]], human=human)


_LAYOUT = "names, digest, content, architecture, parameters, dtype, quantization, bytes, sources, reference, adapters"


def _facts(session: Session, view: Base) -> None:
    sources = ", ".join(
        row["source"] + (f"@{row['revision']}" if row["revision"] else "") for row in view["sources"]
    )
    from fusery.registry.records.base import BaseDetails

    instead = {
        "quantization": _quantization(view["quantization"]),
        "bytes": f"{size(view['bytes'])} in {plural(len(view['files']), 'file')}",
        "sources": sources or "-",
    }
    session.facts(record_facts(BaseDetails, _LAYOUT, view, **instead))


def _bits(base: Base) -> str:
    return str(base.quantization.get("bits", "-")) if base.quantization else "-"


def _quantization(value: dict[str, Any] | None) -> str:
    if not value:
        return "none"
    own = sum(isinstance(item, dict) for item in value.values())
    text = f"{value.get('mode', 'affine')} {value.get('bits')} bits, group {value.get('group_size')}"
    return text + (
        f", {plural(own, 'module')} in a way of {'its' if own == 1 else 'their'} own" if own else ""
    )


for _command in (add, list_, show, calibrate_command):
    base_command.add_command(_command)
