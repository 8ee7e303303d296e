"""`fusery register`, `check`, `list`, `show`, `history` and `diff`: adapters as records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from .session import Session, command
from .text import cell, combined, count, number, share, size, times

_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


def _facts_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a user can say about an adapter; a flag wins over what the files say."""
    options = [
        click.option("--base", required=True, metavar="NAME", help="Base model it was trained on."),
        click.option("--task", metavar="TASK", help="What it is for; default: what its files say."),
        click.option("--version", type=int, metavar="N", help="Version; default: its files', or the next."),
        click.option("--date", metavar="YYYYMMDD", help="Day of training; default: its files', or today."),
        click.option("--alpha", type=float, help="LoRA alpha; default: scale x rank."),
        click.option("--val-loss", type=float, help="Validation loss of these weights."),
        click.option("--dataset", metavar="D", help="What it was trained on."),
        click.option("--examples", type=int, help="How many training examples."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.partition("=")[::2] for value in values)
    if len(pairs) != len(values):
        raise click.BadParameter("a tag is given twice")
    if any(not key or not value for key, value in pairs.items()):
        raise click.BadParameter("write KEY=VALUE")
    return pairs


_TAGS = click.option(
    "--tag", "tags", multiple=True, metavar="K=V", callback=_pairs, help="A tag; repeatable."
)


@command("register")
@_FOLDER
@_facts_options
@click.option("--parent", metavar="REF", help="The adapter whose training was continued.")
@_TAGS
@click.option("--note", metavar="TEXT", help="A note for people.")
def register_command(session: Session, folder: Path, **facts: Any) -> None:
    """Register an adapter folder as the next version of its task.

    FOLDER holds adapters.safetensors and adapter_config.json as mlx_lm.lora writes them.
    """
    session.registry.workspace.database  # noqa: B018 -- "no registry yet" is said before the folder is read
    registered = session.registry.register(folder, **facts)
    view = {**registered.view, "created": registered.created}

    def human() -> None:
        session.print(f"{'Registered' if registered.created else 'Already registered'}: {view['name']}")
        session.print(_summary(view))
        _print_findings(session, view["findings"])

    session.emit(view, names=[view["name"]], human=human)


def _summary(view: dict[str, Any]) -> str:
    loss = f", validation loss {number(view['val_loss'])}" if view["val_loss"] is not None else ""
    return (
        f"{view['method']} rank {cell(view['rank'])} on {view['layers']} layers of {view['base']}: "
        f"{count(view['trainable_parameters'])} parameters ({view['trainable_percent']:.3f} %){loss}"
    )


@command("check")
@_FOLDER
@_facts_options
def check_command(session: Session, folder: Path, **facts: Any) -> int:
    """Show what admission finds in an adapter folder; nothing is written.

    Exit code 1 when the adapter would be refused.
    """
    from fusery.registry.admission import verdict

    findings = session.registry.check(folder, **facts)
    result = verdict(findings)
    document = {"verdict": result, "findings": [finding.to_dict() for finding in findings]}

    def human() -> None:
        _print_findings(session, document["findings"])
        session.print(f"Verdict: {result}")

    session.emit(document, names=[finding.code for finding in findings], human=human)
    return 1 if result == "fail" else 0


def _print_findings(session: Session, findings: Iterable[Any]) -> None:
    for finding in findings:
        session.print(f"  {finding['severity']}: {finding['code']}: {finding['message']}")
        if finding["hint"]:
            session.print(f"    Hint: {finding['hint']}")


@command("list")
@click.option("--task", metavar="T", help="Only of this task.")
@click.option("--base", metavar="B", help="Only on this base model.")
@_TAGS
@click.option("--sort", default="created_at", metavar="FIELD[:desc]", help="Sort by a field.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
def list_command(session: Session, **filters: Any) -> None:
    """List adapters."""
    adapters = session.registry.list(**filters)

    def human() -> None:
        _adapter_table(session, adapters)
        if not adapters:
            session.say("Nothing is registered that fits. Hint: fusery register DIR --base NAME --task T")

    session.emit(adapters, names=[adapter["name"] for adapter in adapters], human=human)


def _adapter_table(session: Session, adapters: list[dict[str, Any]]) -> None:
    right = ("rank", "layers", "trained", "val loss")
    table = session.table(
        "name", "base", "method", "rank", "layers", "trained", "val loss", "dataset", "", right=right
    )
    for adapter in adapters:
        marks = [f"#{alias}" for alias in adapter["aliases"]] + (["yanked"] if adapter["yanked"] else [])
        table.add_row(
            cell(adapter["name"]),
            cell(adapter["base"]),
            adapter["method"],
            cell(adapter["rank"]),
            str(adapter["layers"]),
            count(adapter["trainable_parameters"]),
            number(adapter["val_loss"]),
            cell(adapter["dataset"]),
            " ".join(marks),
        )
    session.console.print(table)


@command("show")
@click.argument("reference", metavar="REF")
def show_command(session: Session, reference: str) -> None:
    """Show one adapter in full, with the sizes people compare."""
    view = session.registry.show(reference)
    session.emit(view, names=[view["name"]], human=lambda: _print_adapter(session, view))


def _print_adapter(session: Session, view: dict[str, Any]) -> None:
    marks = "".join(f" #{alias}" for alias in view["aliases"]) + (" (yanked)" if view["yanked"] else "")
    alpha, scale = number(view["alpha"]), number(view["scale"])
    session.facts(
        [
            ("name", view["name"] + marks),
            ("base", cell(view["base"])),
            ("method", f"{view['method']}, rank {cell(view['rank'])}, alpha {alpha}, scale {scale}"),
            ("layers", f"{view['layers']}, each: {cell(view['target_modules'])}"),
            ("trainable parameters", count(view["trainable_parameters"])),
            ("total parameters", count(view["total_parameters"])),
            ("share", f"{view['trainable_percent']:.3f} % ({view['reduction_factor']:.0f} times fewer)"),
            ("size", f"{size(view['bytes'])} (base: {size(view['base_bytes'])})"),
            ("validation loss", number(view["val_loss"], 6)),
            ("iterations", cell(view["iterations"])),
            (
                "dataset",
                cell(view["dataset"]) + (f", {count(view['examples'])} examples" if view["examples"] else ""),
            ),
            ("parent", cell(view["parent"])),
            ("tags", cell(view["tags"])),
            ("note", cell(view["note"])),
            ("digest", view["digest"]),
            ("registered", f"{view['created_at']} by {cell(view['created_by'])}"),
        ]
    )
    session.print("files")
    for file in view["files"]:
        session.print(f"  {file['sha256'][:12]}  {size(file['size']):>12}  {file['path']}")
    if view["fused"]:
        session.print("fused")
    for fused in view["fused"]:
        session.print(_fused_line(fused))
    _print_findings(session, view["findings"])


def _fused_line(fused: dict[str, Any]) -> str:
    fidelity = fused["fidelity"]
    mixed = bool(fused["with"]) or fused["scale"] is not None
    return (
        f"  {fused['key'][:12]}  {size(fused['weights_bytes']):>12}  {times(fused['times_base'])} the base  "
        f"{fused['format']}  fidelity {fidelity['verdict']} ({share(fidelity['retained'])} retained)"
        + (f"  {combined(fused)}" if mixed else "")
    )


@command("history")
@click.argument("task")
def history_command(session: Session, task: str) -> None:
    """Show the versions of a task, and how their validation loss moved."""
    versions = session.registry.history(task)

    def human() -> None:
        right = ("version", "rank", "val loss", "change")
        table = session.table(
            "version", "name", "base", "rank", "val loss", "change", "dataset", "by", right=right
        )
        for view in versions:
            change = view["val_loss_change"]
            table.add_row(
                str(view["version"]),
                cell(view["name"]),
                cell(view["base"]),
                cell(view["rank"]),
                number(view["val_loss"]),
                "-" if change is None else f"{change:+.4g}",
                cell(view["dataset"]),
                cell(view["created_by"]),
            )
        session.console.print(table)

    session.emit(versions, names=[view["name"] for view in versions], human=human)


@command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
def diff_command(session: Session, a: str, b: str) -> None:
    """Show what differs between two adapters.

    Compared are the record and the training configuration.
    """
    difference = session.registry.diff(a, b)

    def human() -> None:
        table = session.table("", cell(difference["a"]), cell(difference["b"]))
        for field, (left, right) in difference["changed"].items():
            table.add_row(field, *(_shown(field, value) for value in (left, right)))
        session.console.print(table)
        if not difference["changed"]:
            session.print("Nothing differs.")

    session.emit(difference, names=list(difference["changed"]), human=human)


def _shown(field: str, value: Any) -> str:
    return cell(value)[:12] if field == "digest" else cell(value)
