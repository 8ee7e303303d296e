"""`fusery fuse`: from an adapter to a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fusery.registry.charts.text import size
from fusery.registry.engine.precisions import CHOICES
from fusery.registry.engine.verdict import in_words

from .bulk import bulk_options, choice, counting, report
from .cpu_cost import say_cost_of_fused
from .halves import Halves
from .session import Session, command
from .text import foreign_fact, times

if TYPE_CHECKING:
    from fusery.registry.fusion.published import Publish

_MODES = ("affine", "mxfp4", "nvfp4", "mxfp8")
_ROUNDINGS = ("once", "mlx-lm")
_SOURCES = {"cache": "from the cache", "store": "from the store", "computed": "fused"}


def request_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a fuse to a command; `make_request` reads them."""
    options = [
        click.option(
            "--precision",
            type=click.Choice(CHOICES),
            default="auto",
            help="keep: the base's own format, rounded as mlx_lm.fuse does; dither: the same size, rounded at random "
            "so that small updates survive; mixed: more bits where the adapter is; dequantize: 16 bits; "
            "auto: the smallest that passes.",
        ),
        click.option(
            "--quantize",
            type=int,
            metavar="BITS",
            help="Quantise to BITS each layer whose row length is a multiple of the group size.",
        ),
        click.option(
            "--group-size", type=int, metavar="N", help="With --quantize: numbers that share a scale."
        ),
        click.option(
            "--mode", type=click.Choice(_MODES), help="With --quantize: the format; default: affine."
        ),
        click.option(
            "--budget",
            metavar="FACTOR",
            help="Largest size of the weights, as a multiple of the base's: 1.2x.",
        ),
        click.option("--scale", type=float, metavar="X", help="Instead of the adapter's own scale."),
        click.option(
            "--with",
            "extras",
            multiple=True,
            metavar="REF[:WEIGHT]",
            help="Add another adapter of the same base, times WEIGHT; may be given again.",
        ),
        click.option(
            "--seed", type=click.IntRange(0), default=0, help="With dither: of the random rounding."
        ),
        click.option(
            "--rounding",
            type=click.Choice(_ROUNDINGS),
            help="Of DoRA: once: in float32 to the end, nearest to base + adapter; mlx-lm: after each step, as "
            "mlx_lm.fuse does; default: once with auto, else mlx-lm.",
        ),
        click.option(
            "--min-fidelity",
            type=click.FloatRange(0, 1),
            metavar="X",
            help="Minimum share of the update to retain: 0.9 asks for 90 to 110 %; otherwise nothing is published.",
        ),
        click.option("--accept-loss", is_flag=True, help="Publish even when the adapter was lost."),
        click.option(
            "--accept-foreign",
            is_flag=True,
            help="Fetch what another registry says is the model, unproved, instead of making it.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def make_request(options: dict[str, Any]) -> Any:
    """Return the `FuseRequest` that the options of `request_options` say."""
    from fusery.registry.fusion.request import FuseRequest, parse_budget, parse_extra

    extras = tuple(parse_extra(text) for text in options.pop("extras"))
    budget = options.pop("budget")
    return FuseRequest(**options, extras=extras, budget=None if budget is None else parse_budget(budget))


@command("fuse")
@click.argument("reference", metavar="[REF]", required=False)
@bulk_options
@click.option(
    "--publish",
    type=click.Choice(["full", "recipe"]),
    help="full: the files go to the store, where other machines get them; recipe: the record alone; "
    "default: the setting.",
)
@request_options
@click.option(
    "--recipe",
    metavar="FILE|KEY",
    help="How to fuse, as it is on record: the key of what was made so, or a file that says it: what --json "
    "printed, or a bundle's fusery.json.",
)
@click.option(
    "--probe",
    type=click.Choice(["auto", "never"]),
    default="never",
    help="auto: where the weights alone are not sure that the base's own size keeps the adapter, ask the model, "
    "with the data that the adapter's run kept out of training.  It goes by the task alone, of one adapter or the "
    "first of a sum, and with neither --precision, --budget nor --scale.",
)
@click.option(
    "--probe-within",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="With --probe auto: how long asking may take; what is taken then is fused.",
)
def fuse_command(
    session: Session,
    reference: str | None,
    publish: Publish | None,
    probe: str,
    probe_within: float,
    **options: Any,
) -> int:
    """Fuse an adapter into its base.

    A second time it comes from the cache.  With --all, many adapters are fused, each once; what fails is named, and the
    same command goes on with the rest.

    Exit code 1 when the fused weights would not hold what the adapter learned.
    """
    chosen = choice(options, reference)
    request = make_request(options)
    if reference is None:
        if request.recipe is not None:
            from fusery.registry.errors import BadInputError

            raise BadInputError("a recipe goes with one adapter", hint="fusery fuse REF --recipe KEY")
        if probe == "auto":
            from fusery.registry.errors import BadInputError

            raise BadInputError("one adapter at a time is probed", hint="fusery fuse REF --probe auto")
        with counting(session, "fusing") as told:
            done = session.registry.fused.fuse_all(
                request, publish=publish, **(chosen or {}), reporter=session.reporter(told)
            )
        return report(session, done, verb="fused", adapter=lambda fused: fused.adapter)
    with session.progress("fusing") as progress, counting(session, "answering, in tokens") as answering:
        fused = session.registry.fused.fuse(
            reference,
            request,
            publish=publish,
            probe=probe == "auto",
            within=probe_within,
            reporter=Halves(session, progress, answering),
        )

    def human() -> None:
        fidelity = fused.fidelity
        session.facts(
            [
                (_SOURCES[fused.source], fused.combined),
                *foreign_fact(fused),
                ("path", str(fused.path)),
                ("precision", fused.format),
                ("fidelity", in_words(fidelity.verdict, fidelity.retained, fidelity.noise)),
                ("weights", f"{size(fused.weights_bytes)}, {times(fused.times_base)} the base's"),
                ("seconds", f"{fused.seconds:.2f}"),
                ("key", fused.key),
                ("digest", fused.digest),
                *([("published", "in the store")] if fused.published else []),
            ]
        )
        session.warn(fused)
        say_cost_of_fused(session, fused)

    session.emit(fused, names=[str(fused.path)], human=human)
    return 0
