"""`fusery push`, `pull` and `get`: adapters in other registries and in folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

from fusery.registry.api.exchange import Exchange
from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .command import command, prints
from .session import Session
from .text import cell

if TYPE_CHECKING:
    from fusery.registry.exchange import Exchanged


_OTHER: Mapping[str, Any] = {
    "insecure_http": ": Allow sending the token without TLS.",
    "dry_run": ": Only show what would be copied.",
}
_HOME = "HOME|URL: The other registry: its folder, or the URL of its server."


def other_store_options() -> dict[str, str | None]:
    """Return the options for the file system of another store, from the environment."""
    return {"store_options": os.environ.get("FUSERY_OTHER_STORE_OPTIONS")}


@prints(
    "push",
    Exchange.push,
    names=lambda done: [item.new_name for item in done.moved],
    progress="pushing",
    **_OTHER,
    home=(f"--to {_HOME}", click.Path()),
)
def push(session: Session, done: Exchanged) -> None:
    """Copy an adapter to another registry.

    Its base model, parents, evaluations, signatures and yanks are copied, too. REF may also be a task, a base model or
    a fused model.

    URL is the address of a `fusery server`. The token comes from FUSERY_TOKEN, the file in FUSERY_TOKEN_FILE, or `fusery
    login`. FUSERY_CA_FILE names certificates to trust instead of the system's.

    Example: fusery push course_rec@latest --to https://fusery.example:8430
    """
    table = session.table("name", "kind", "state", "bytes", "digest", right=("bytes",), free=("state",))
    for row in done.items_:
        name = row.new_name if row.new_name == row.name else f"{row.name} (there: {row.new_name})"
        would = "would be " if done.dry_run and row.state in ("copied", "completed") else ""
        state = f"{would}{row.state}: {row.reason}" if row.reason else would + row.state
        table.add_row(cell(name), row.kind, cell(state), size(row.bytes), row.digest[:12])
    session.print_table(table)
    for row in done.items_:
        for yank in row.withdrawals:
            session.note(f"{row.new_name}: {yank.summary}")
    place = cell(done.to.place)
    if not done.copied:
        session.print(f"Nothing to copy: {place} has it all.")
    else:
        verb = "Would copy" if done.dry_run else "Copied"
        session.print(f"{verb} {plural(done.copied, 'record')} to {place}, {size(done.bytes)}.")


prints(
    "pull",
    Exchange.pull,
    names=lambda done: [item.new_name for item in done.moved],
    progress="pulling",
    given=other_store_options,
    **_OTHER,
    home=(f"--from {_HOME[:-1]}; or a backup.", click.Path()),
    text="""Copy an adapter from another registry.

    Its base model, parents, evaluations, signatures and yanks are copied, too. REF is a reference in the other registry; see
    `fusery push`. FUSERY_OTHER_STORE_OPTIONS has options for the file system of a backup, as JSON.

    Example: fusery pull course_rec@latest --from https://fusery.example:8430
    """,
)(push)


@command(
    "get",
    document="records.renderings:LocalFolder | exchange.export:Exported",
    destination="[DIR]",
    form="--format mlx|peft|git: Format of an adapter; git: the registered files and facts, for a repository; default: mlx, or with DIR git.",
    force=": With DIR: replace existing files.",
)
def get(
    session: Session,
    reference: str,
    destination: str | None = None,
    *,
    form: Literal["mlx", "peft", "git"] | None = None,
    force: bool = False,
) -> None:
    """Get the files of an adapter, a base model or a fused model.

    Without DIR, print the folder in the cache; do not write to it. With DIR, write the adapter's folder adapters_NAME
    there, ready for git; `fusery register` accepts it. REF is an adapter, a base model, or the key of a fused model.

    Examples:
      fusery get course_rec@1 exported --format peft
      mlx_lm.generate --model "$(fusery get BASE -q)"
    """
    if destination is None:
        if force or form == "git":
            raise click.UsageError(f"{'--force' if force else '--format git'} goes with DIR.")
        folder = session.registry.folder(reference, format=form)
        session.emit(folder, names=[str(folder.path)], human=lambda: session.print(str(folder.path)))
        session.warn(folder)
        return
    exported = session.registry.exchange.export(
        reference, destination, form=None if form == "git" else form, force=force, reporter=session.reporter()
    )

    def human() -> None:
        total = size(sum(file.size for file in exported.files))
        kind = f"{exported.format}{' (rendered)' if exported.rendered else ''}"
        files = plural(len(exported.files), "file")
        session.print(f"{'Already there' if exported.existed else 'Wrote'}: {exported.path}")
        session.print(f"  {kind}, {files}, {total}, adapter {exported.digest[:12]}")
        session.warn(exported)

    session.emit(exported, names=[str(exported.path)], human=human)
