"""`fusery probe`: what a model answers, against another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.engine.precisions import CHOICES
from fusery.registry.parsing import plural

from .bulk import counting
from .evaluations import RECORD
from .halves import Halves
from .session import LocalPath, Session, command
from .text import count, number, share

if TYPE_CHECKING:
    from fusery.registry.engine.precisions import RequestedPrecision
    from fusery.registry.evaluation.probe_prompts import Prompts

_WORST = 3


@command("probe", table=True)
@click.argument("reference", metavar="REF")
@click.option(
    "--against",
    metavar="REF2",
    help="Compare with another adapter, fused model or base instead; `base` is the base of REF.",
)
@click.option(
    "--precision",
    type=click.Choice(CHOICES),
    help="How the fused model is written; default auto, as in fusery fuse.",
)
@click.option(
    "--with",
    "extras",
    multiple=True,
    metavar="REF[:WEIGHT]",
    help="Add another adapter of the same base, times WEIGHT, on either side; may be given again.",
)
@click.option(
    "--prompts",
    type=LocalPath(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="JSON lines as mlx_lm.lora takes, or text with one prompt a line; default: what the adapter's run kept out of "
    "training, test.jsonl or valid.jsonl, where it was recorded and still lies there, or else a built-in set.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=32,
    show_default=True,
    metavar="N",
    help="At most so many prompts.",
)
@RECORD
def probe_command(
    session: Session,
    reference: str,
    against: str | None,
    precision: RequestedPrecision | None,
    extras: tuple[str, ...],
    prompts: Path | None,
    limit: int,
    record: bool,
) -> None:
    """Compare what two models answer to prompts.

    REF alone: base + adapter against its fused model, so that one sees what fusing lost.  With --against base:
    whether the adapter changed anything.  With --against REF2: how two versions differ.  Of an adapter that was trained
    through a quantiser, its fused model is what was trained, and it is compared with the base.

    What is measured is about the prompts.  Where the adapter makes them no more likely than its base does, they are
    unlike what it was trained on, and the answer says so.

    With --with, the sum of several adapters on their base is compared with the model that the sum is fused to.

    Losses, and how near the fused model is, are recorded as evaluations (probe.loss and others), except on the built-in
    prompts.
    """
    from fusery.registry.fusion.request import FuseRequest, parse_extra

    added = tuple(map(parse_extra, extras))
    with session.progress("fusing") as fusing, counting(session, "answering, in tokens") as answering:
        found = session.registry.evaluations.probe(
            reference,
            against=against,
            request=FuseRequest(precision or "auto", extras=added) if precision or added else None,
            prompts=prompts,
            limit=limit,
            record=record,
            reporter=Halves(session, fusing, answering),
        )

    def human() -> None:
        session.print(found.conclusion)
        session.print()
        session.facts(
            [
                ("a", f"{found.a}  {found.a.digest[:12]}"),
                ("b", f"{found.b}  {found.b.digest[:12]}"),
                (
                    "prompts",
                    f"{count(found.prompts)}, {plural(found.tokens, 'token')} scored{_from(found.about)}",
                ),
                ("KL(a || b)", f"{number(found.kl)} nats a token, 99 % below {number(found.kl_p99)}"),
                ("same next token", share(found.top1_agreement)),
                (
                    "loss",
                    f"a {number(found.loss_a)}, b {number(found.loss_b)}, base {number(found.loss_base)}",
                ),
                ("seconds", f"{found.seconds:.1f}"),
            ]
        )
        session.print()
        titles = ("KL", "same", "where they differ most")
        table = session.table(*titles, right=titles[:2], free=titles[2:])
        for row in sorted(found.rows, key=lambda row: -row.kl)[:_WORST]:
            table.add_row(number(row.kl), share(row.top1_agreement), row.prompt)
        session.print_table(table)

    session.emit(found, names=[found.a.name, found.b.name], human=human)
    if found.about.of_task is False:
        session.say(
            "Hint: give prompts of its task that it was not trained on: --prompts FILE, such as its test.jsonl"
        )


def _from(about: Prompts) -> str:
    """Return where prompts come from, in words; nothing for the user's own file."""
    words = {"file": "", "built-in": "; built-in ones", "held-out": f"; {about.file} of its run"}
    return words[about.origin]
