"""`fusery base calibrate`: what a base's layers get to see, so that rounding can keep clear of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusery.registry.charts.text import size
from fusery.registry.parsing import plural

from .bulk import counting
from .session import LocalPath, Session, command
from .text import cell, count

if TYPE_CHECKING:
    from fusery.registry.records.calibrations import CalibrationReport


@command("calibrate")
@click.argument("base", metavar="BASE")
@click.option(
    "--prompts",
    type=LocalPath(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="JSON lines as mlx_lm.lora takes, or text with one prompt a line; default: a built-in set.",
)
@click.option(
    "--adapter",
    metavar="REF",
    help="Learn the scales of this adapter's fused model, too.",
)
def calibrate_command(session: Session, base: str, prompts: Path | None, adapter: str | None) -> None:
    """Let a base read some text; --precision dither gets quieter.

    dither writes an adapter into a base that stays quantised as it is, and rounding adds noise.  With a calibration the
    noise goes where the base does not look: the base reads the prompts once, and what its layers multiply is kept in
    the store.  It serves all adapters on the base, and takes some minutes for a large one.  Prompts like those
    that the model will answer are best; a few thousand tokens are enough.

    With --adapter the scales and biases of that adapter's model are learned besides, from what base + adapter answers;
    this takes much longer, and wants a hundred thousand tokens.  Its next fuse by --precision dither takes them.
    """
    with counting(session, "reading" if adapter is None else "steps") as told:
        found = session.registry.bases.calibrate(
            base, prompts=prompts, adapter=adapter, reporter=session.reporter(told)
        )

    def human() -> None:
        session.print(f"{'Calibrated' if found.created else 'Already there'}: {cell(found.base)}")
        session.facts(
            [
                ("digest", found.digest),
                ("prompts", f"{cell(found.prompts)}, {plural(found.tokens, 'token')}"),
                ("directions", f"{count(found.rank)} of each input"),
                ("size", size(found.bytes)),
                ("engine", found.engine),
                *_learned(found),
            ]
        )

    session.emit(found, names=[found.digest], human=human)


def _learned(found: CalibrationReport) -> Iterator[tuple[str, str]]:
    if found.adapter is not None:
        yield "for", cell(found.adapter)
    if found.before is not None and found.after is not None:
        yield "off by", f"{found.after:.3g} nats a token, and {found.before:.3g} before"
